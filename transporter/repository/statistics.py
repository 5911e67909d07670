"""Sizes and counts of a repository."""

from __future__ import annotations

import os
from dataclasses import dataclass

from transporter.repository.index import Index, Usage
from transporter.repository.layout import Layout
from transporter.repository.point_store import PointStore


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over all tenants, each tenant's share, and the room that is left. All sizes in bytes."""

    packs: int
    records: int
    pack_bytes: int
    points: int
    point_bytes: int
    free_bytes: int
    tenants: tuple[Usage, ...]


def measure(layout: Layout, index: Index, points: PointStore) -> Statistics:
    """Return the statistics of a repository; cheap, from the index's totals and the folders of points."""
    tenants = tuple(index.usage())
    space = os.statvfs(layout.root)
    owners = points.tenants()
    return Statistics(
        packs=sum(tenant.packs for tenant in tenants),
        records=sum(tenant.records for tenant in tenants),
        pack_bytes=sum(tenant.bytes for tenant in tenants),
        points=sum(len(points.ids(owner, job)) for owner in owners for job in points.jobs(owner)),
        point_bytes=sum(points.size_of(owner) for owner in owners),
        free_bytes=space.f_bavail * space.f_frsize,
        tenants=tenants,
    )

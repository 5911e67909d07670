"""Sizes and counts of a repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from transporter.errors import DamagedData
from transporter.repository.errors import PointMissing
from transporter.repository.index import Index, Usage
from transporter.repository.layout import Layout
from transporter.repository.point_head import decode_head
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


@dataclass(frozen=True, slots=True)
class JobUsage:
    """The points of a job: how many, what they hold in plain bytes, and when the oldest and the newest were made."""

    tenant: str
    job: str
    points: int
    logical_bytes: int
    first_ns: int
    last_ns: int


def by_job(points: PointStore) -> Iterator[JobUsage]:
    """Yield what each job of each tenant has; by the heads, which are not proved here. What is damaged is left out."""
    for tenant in points.tenants():
        for job in points.jobs(tenant):
            count = logical = 0
            times: list[int] = []
            for point_id in points.ids(tenant, job):
                try:
                    head = decode_head(points.unproved(tenant, job, point_id)[1])
                except (DamagedData, PointMissing):
                    continue
                count += 1
                logical += head.statistics.get("bytes", 0)
                times.append(head.created_ns)
            yield JobUsage(tenant, job, count, logical, min(times, default=0), max(times, default=0))


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

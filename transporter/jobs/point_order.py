"""A point as a person names it, opened: the one order of opening that everything that looks into points goes by.

Where it is, which points there are, which of them is meant, of which zone it must be; a session, its keys; and that
``latest`` is not an older one than this node knows of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from transporter.jobs.context import JobContext
from transporter.jobs.points import (
    LATEST,
    PointRow,
    Where,
    check_newest,
    choose_point,
    expected_zone,
    list_points,
    named_point,
    where_of,
)
from transporter.jobs.recovery import Recovery, open_recovery
from transporter.jobs.recovery_here import open_recovery_here, rows_here
from transporter.jobs.search_here import open_store
from transporter.repository import Repository


@dataclass(frozen=True)
class PointOrder:
    """What a person typed. ``point``: latest, an id or its beginning.

    ``source``: empty (as configured), PEER/REPOSITORY, or a repository of this node by its name alone; there ``tenant``
    says whose job it is, where several have one of that name. ``as_latest``: the point was shown as the newest one.
    """

    job: str
    point: str = "latest"
    source: str = ""
    password: bytes = field(default=b"", repr=False)
    zone: str = ""
    tenant: str = ""
    as_latest: bool = False


def is_here(order: PointOrder) -> bool:
    """Tell whether the point lies in a repository of this node."""
    return bool(order.source) and "/" not in order.source


@dataclass(frozen=True)
class Found:
    """The point that is meant. ``where``: its repository; of one of this node ``where.peer`` is empty.

    ``tenant``: whose it is, in a repository of this node.
    """

    order: PointOrder
    where: Where
    row: PointRow
    tenant: str = ""


async def find_ordered(context: JobContext, order: PointOrder) -> Found:
    """Find the point that is meant. Raises UsageError, RefusedByPeer, DamagedData, and what dialling raises."""
    if not is_here(order):
        where = where_of(context, order.job, order.source)
        return Found(order, where, await find_there(context, where, order))
    async with store_here(context, order.source) as store:
        tenant, rows = await trio.to_thread.run_sync(rows_here, store, order.job, order.tenant)
    return Found(order, Where("", order.source, order.job), _chosen_here(context, rows, order), tenant)


@asynccontextmanager
async def open_found(context: JobContext, found: Found) -> AsyncIterator[Recovery]:
    """Open a point that was found. Raises what `open_recovery` and the link raise."""
    order, where, row = found.order, found.where, found.row
    if not where.peer:
        async with (
            store_here(context, where.repository) as store,
            open_recovery_here(context, store, found.tenant, row, order.password) as recovery,
        ):
            yield recovery
        return
    async with open_recovery(context, where, row, order.password) as recovery:
        check_newest(context, where, LATEST if order.as_latest else order.point, row.point, recovery.head.created_ns)
        yield recovery


@asynccontextmanager
async def open_ordered(context: JobContext, order: PointOrder) -> AsyncIterator[Recovery]:
    """Find and open the point that is meant. Raises UsageError, and what `open_recovery` and the link raise."""
    async with open_found(context, await find_ordered(context, order)) as recovery:
        yield recovery


async def list_rows(context: JobContext, order: PointOrder) -> tuple[list[PointRow], str]:
    """Return all points of the job, oldest first, and the zone that each must be of (empty: any)."""
    if is_here(order):
        async with store_here(context, order.source) as store:
            return (await trio.to_thread.run_sync(rows_here, store, order.job, order.tenant))[1], order.zone
    where = where_of(context, order.job, order.source)
    return await list_points(context, where), expected_zone(context, order.job, order.zone)


async def find_there(context: JobContext, where: Where, order: PointOrder) -> PointRow:
    """Return the row of the point that is meant, at a peer. Raises UsageError, RefusedByPeer, DamagedData."""
    zone = expected_zone(context, order.job, order.zone)
    return choose_point(await list_points(context, where), order.point, order.job, zone)


def _chosen_here(context: JobContext, rows: list[PointRow], order: PointOrder) -> PointRow:
    """Choose a point of a repository of this node.

    The disk is this node's own, so what was stored here may be of any zone, but for what was stated. A copy came from
    somewhere else: whoever gave it could have passed off plaintext of its own making.
    """
    row = named_point(rows, order.point, order.job)
    copied = row.is_copy and not row.resealed
    zone = expected_zone(context, order.job, order.zone) if copied else order.zone
    return choose_point(rows, order.point, order.job, zone) if zone else row


@asynccontextmanager
async def store_here(context: JobContext, name: str) -> AsyncIterator[Repository]:
    """Open a repository of this node, for reading only."""
    store = await trio.to_thread.run_sync(open_store, context, name)
    try:
        yield store
    finally:
        await trio.to_thread.run_sync(store.close)

"""Carry out what looks into a point: listings, findings, differences, contents."""

from __future__ import annotations

from transporter.daemon.requests import (
    BrowsingRequest,
    CatRequest,
    DiffRequest,
    FindRequest,
    JobOutcome,
    ListRequest,
)
from transporter.jobs.cat_file import CatOrder, cat
from transporter.jobs.context import JobContext
from transporter.jobs.diff_points import DiffOrder, diff
from transporter.jobs.find_in_point import FindOrder, find
from transporter.jobs.list_point import ListOrder, list_entries
from transporter.jobs.point_order import PointOrder
from transporter.workloads.fsi_query import Query


def point_order(request: BrowsingRequest) -> PointOrder:
    """Return which point is meant."""
    return PointOrder(request.job, request.point, request.source, request.password, request.zone, request.tenant)


async def execute_browse(context: JobContext, request: BrowsingRequest) -> JobOutcome:
    """Do it; results are published as they come. Raises what goes wrong."""
    where = point_order(request)
    if isinstance(request, ListRequest):
        listed = await list_entries(context, ListOrder(where, request.path, request.recursive))
        return JobOutcome(exit_status=0, result={"entries": listed})
    if isinstance(request, CatRequest):
        return JobOutcome(exit_status=0, result={"bytes": await cat(context, CatOrder(where, request.path))})
    if isinstance(request, FindRequest):
        return JobOutcome(exit_status=0, result={"entries": await find(context, FindOrder(where, _queries(request)))})
    if isinstance(request, DiffRequest):
        return JobOutcome(exit_status=0, result=await diff(context, DiffOrder(where, request.other, request.path)))
    raise TypeError(request)


def _queries(request: FindRequest) -> list[Query]:
    bounds = (request.size_at_least, request.size_at_most, request.after_ns, request.before_ns, request.kinds)
    return [Query(glob.decode("utf-8", "surrogateescape"), *bounds) for glob in request.globs]

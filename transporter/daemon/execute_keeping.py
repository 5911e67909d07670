"""Carry out a request about what becomes of points: list them, remove, pin, retain."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import trio

from transporter.daemon.requests import JobOutcome, PointRequest, PointsRequest, RetentionRequest
from transporter.errors import TransporterError, UsageError
from transporter.events import Note
from transporter.jobs.context import JobContext
from transporter.jobs.keeping_here import act_here, open_here, points_here
from transporter.jobs.keeping_there import accept_there, act_there, faults_there, recycled_there
from transporter.jobs.points import PointRow, Where, list_points, where_of
from transporter.jobs.retention import retain, retain_here
from transporter.points.point_rows import point_rows
from transporter.retention import NO_POLICY


async def execute_keeping(context: JobContext, request: RetentionRequest | PointRequest) -> JobOutcome:
    """Run the request to its end. Raises the error that ended it."""
    if request.source and request.repository:
        raise UsageError("--from and --repository are two places", "name one of them")
    if isinstance(request, PointRequest):
        return JobOutcome(exit_status=0, result={"points": await _act(context, request)})
    configured = context.config.jobs.get(request.job)
    policy = request.policy or (configured.keep if configured is not None and not request.repository else NO_POLICY)
    if request.repository:
        here = partial(
            retain_here, context, request.repository, request.tenant, request.job, policy, dry_run=request.dry_run
        )
        return JobOutcome(exit_status=0, result=(await trio.to_thread.run_sync(here)).public())
    where = where_of(context, request.job, request.source)
    return JobOutcome(exit_status=0, result=(await retain(context, where, policy, dry_run=request.dry_run)).public())


async def _act(context: JobContext, request: PointRequest) -> list[dict[str, Any]]:
    if request.repository:
        here = partial(
            act_here,
            context,
            request.action,
            request.repository,
            request.tenant,
            request.job,
            request.points,
            reason=request.reason,
            until_ns=request.until_ns,
            force=request.force,
        )
        return await trio.to_thread.run_sync(here)
    where = where_of(context, request.job, request.source)
    return await act_there(context, request.action, where, request.points, reason=request.reason, force=request.force)


async def list_points_of(context: JobContext, request: PointsRequest) -> JobOutcome:
    """List the points of every place that answers; the exit status is of the first that does not."""
    if request.repository:
        rows = await trio.to_thread.run_sync(
            partial(points_here, context, request.repository, request.job, recycled=request.recycled)
        )
        return JobOutcome(exit_status=0, result={"points": rows})
    if request.source and "/" not in request.source:
        if request.accept:
            raise UsageError("there is nothing to settle in a repository of this node", "leave --accept out")
        return JobOutcome(exit_status=0, result={"points": await trio.to_thread.run_sync(_rows_here, context, request)})
    if request.job or request.source:
        places = [where_of(context, request.job, request.source)]
    else:
        places = sorted({Where(job.peer, job.repository, "") for job in context.config.jobs.values()}, key=str)
    context = context.each_peer_once()
    rows = []
    settled = 0
    failed: TransporterError | None = None
    for where in places:
        try:
            if request.accept:
                settled += await accept_there(context, where, _jobs_of(context, where))
            rows += await _rows_there(context, where, request)
        except TransporterError as error:
            failed = failed or error
            if len(places) > 1:
                context.bus.publish(Note(text=f"{where}: {error}"))
    if failed is not None and not rows:
        raise failed
    return JobOutcome(exit_status=failed.exit_status if failed else 0, result={"points": rows, "settled": settled})


def _rows_here(context: JobContext, request: PointsRequest) -> list[dict[str, Any]]:
    """Return the points of all tenants in a repository of this node, as those at a peer are shown."""
    if request.recycled:
        return points_here(context, request.source, request.job, recycled=True)
    rows: list[dict[str, Any]] = []
    with open_here(context, request.source) as store:
        for tenant in store.tenants():
            refs = store.points(tenant, request.job or None)
            for row in point_rows(store, refs):
                shown = msgspec.convert(row, PointRow).public()
                rows.append({**shown, "tenant": tenant, "repository": request.source})
    return rows


async def _rows_there(context: JobContext, where: Where, request: PointsRequest) -> list[dict[str, Any]]:
    if request.recycled:
        return await recycled_there(context, where, _jobs_of(context, where))
    found = [{**row.public(), "repository": str(where)} for row in await list_points(context, where)]
    return [*found, *faults_there(context, where)]


def _jobs_of(context: JobContext, where: Where) -> list[str]:
    if where.job:
        return [where.job]
    known = {job for destination, job in context.catalog.chain_places() if destination == str(where)}
    return sorted(known | {name for name, job in context.config.jobs.items() if job.to == str(where)})

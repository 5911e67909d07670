"""What this node has done to its points at a peer: remove, bring back, pin, unpin; and what is in the recycle bin."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import trio

from protocol.keeping_messages import PinPoint, PointPinned, PointUndeleted, UndeletePoint
from transporter import catalog_chain as states
from transporter.errors import UsageError
from transporter.jobs.ask import ask, ask_on, asking
from transporter.jobs.chain import accept_chain, check_chain, read_chain
from transporter.jobs.context import JobContext
from transporter.jobs.keeping_here import approve_force, check_none_refused, point_named, removed_row
from transporter.jobs.points import Where
from transporter.jobs.retention import remove_batch
from transporter.retention import show_moment


async def act_there(
    context: JobContext, action: str, where: Where, points: Sequence[str], *, reason: str = "", force: bool = False
) -> list[dict[str, Any]]:
    """Do it. Raises PointKept, PointMissing, RefusedByPeer (this node may not), UsageError, CannotConnect."""
    if action == "lock":
        raise UsageError("a lock is the provider's to set", "`immutable` of the repository, or `point lock` there")
    async with asking(context, where.peer) as link:
        there = await read_chain(ask_on(link), where.repository, where.job)
        await check_chain(context, str(where), where.job, there)
        in_bin = action == "undelete"
        ids = [row.point for row in there.rows if bool(row.recycled_until_ns) == in_bin]
        listing = f"--job {where.job} --from {where}"
        chosen = [point_named(ids, text, listing, recycled=in_bin) for text in points]
        if action == "remove":
            names = [point.hex() for point in chosen]
            await trio.to_thread.run_sync(lambda: approve_force(context, names, forced=force))
            context.keys.record("points.remove", job=where.job, repository=str(where), points=names, forced=force)
            outcomes = await remove_batch(context, link, where, chosen, force=force)
            check_none_refused(outcomes)
            return [removed_row(point, until_ns, where.job, str(where)) for point, until_ns, _ in outcomes]
        rows = []
        for point in chosen:
            row: dict[str, Any] = {"point": point.hex(), "job": where.job, "repository": str(where)}
            if in_bin:
                await ask(link, UndeletePoint(where.repository, where.job, point), b"", PointUndeleted)
            else:
                answer, _ = await ask(link, PinPoint(where.repository, where.job, point, reason), b"", PointPinned)
                row["pinned" if reason else "was_pinned"] = reason or answer.was
            rows.append(row)
        if in_bin:
            there = await read_chain(ask_on(link), where.repository, where.job)
            await check_chain(context, str(where), where.job, there)
        return rows


async def recycled_there(context: JobContext, where: Where, jobs: Sequence[str]) -> list[dict[str, Any]]:
    """Return what is in the recycle bin of a peer, of these jobs."""
    rows = []
    async with asking(context, where.peer) as link:
        for job in jobs:
            there = await read_chain(ask_on(link), where.repository, job)
            await check_chain(context, str(where), job, there)
            rows += [
                {
                    "point": row.point.hex(),
                    "job": job,
                    "kind": "removed",
                    "committed": show_moment(row.committed_ns),
                    "recycled_until": show_moment(row.recycled_until_ns),
                    "removed_by": "this node" if row.by else "the provider",
                    "repository": str(where),
                }
                for row in there.rows
                if row.recycled_until_ns
            ]
    return rows


async def accept_there(context: JobContext, where: Where, jobs: Sequence[str]) -> int:
    """Take what a peer lists of these jobs for what should be there; return how many findings that settles."""
    settled = 0
    async with asking(context, where.peer) as link:
        for job in jobs:
            there = await read_chain(ask_on(link), where.repository, job)
            await check_chain(context, str(where), job, there)
            settled += await trio.to_thread.run_sync(accept_chain, context, str(where), job, there.rows)
    return settled


def faults_there(context: JobContext, where: Where) -> list[dict[str, Any]]:
    """Return the points that are missing at a peer, as rows like those that are there."""
    rows = []
    for destination, job, point in context.catalog.chain_faults():
        if destination == str(where) and where.job in {"", job} and point.state == states.MISSING:
            created = datetime.datetime.fromtimestamp(point.committed_ns / 1e9, datetime.UTC)
            rows.append(
                {
                    "point": point.point.hex(),
                    "job": job,
                    "kind": point.state,
                    "created": created.isoformat(),
                    "zone": "",
                    "bytes": 0,
                    "fault": point.state,
                    "repository": destination,
                }
            )
    return rows

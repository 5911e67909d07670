"""Retention: decide which points of a job stay, say why, and have the others removed where they lie.

A point that this home does not know, or of which the target says another time than this home remembers, is neither
counted nor removed: a target must not have good points removed in this node's own name by inventing others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import trio

from protocol.keeping_messages import PointsRemoved, RemovePoints
from protocol.limits import MAX_POINTS_AT_ONCE
from transporter import catalog_chain as states
from transporter.config import JobConfig
from transporter.errors import RefusedByPeer, TransporterError, UsageError
from transporter.events import Note
from transporter.jobs.ask import ask, ask_on, asking
from transporter.jobs.chain import (
    ChainThere,
    check_chain,
    drop_keys,
    note_outcome,
    note_removed_here,
    note_removing,
    read_chain,
)
from transporter.jobs.context import JobContext
from transporter.jobs.keeping_here import open_here, tenant_of
from transporter.jobs.points import Where
from transporter.link.control_link import ControlLink
from transporter.points.keeping_rows import RemovedRow, decode_removed
from transporter.repository import PROVIDER, ClockDoubtful
from transporter.retention import KeepPolicy, Verdict, decide, decide_for_provider, show_moment

# Two clocks differ; a day in which a backup runs late, too. More is another time.
TIMES_DIFFER_NS = 2 * 86_400 * 10**9


@dataclass
class RetentionReport:
    """``removed``: of each point that went, until when it can be brought back (0: it cannot).

    ``refused``: points that were to go and must stay, with the reason. Ids in hex.
    """

    job: str
    place: str
    policy: str
    dry_run: bool
    verdicts: list[Verdict] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def going(self) -> list[bytes]:
        """The points that no rule keeps."""
        return [each.point_id for each in self.verdicts if not each.keep]

    def take(self, outcomes: Sequence[tuple[bytes, int, str]]) -> None:
        """Note what became of points."""
        for point, until_ns, refused in outcomes:
            if refused:
                self.refused[point.hex()] = refused
            else:
                self.removed[point.hex()] = until_ns

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "job": self.job,
            "repository": self.place,
            "policy": self.policy,
            "dry_run": self.dry_run,
            "kept": sum(each.keep for each in self.verdicts),
            "kept_by_provider": sum(each.minimum for each in self.verdicts),
            "points": [
                {
                    "point": each.point_id.hex(),
                    "committed": show_moment(each.committed_ns),
                    "keep": each.keep,
                    "reasons": list(each.reasons),
                }
                for each in self.verdicts
            ],
            "removed": {point: show_moment(until_ns) if until_ns else None for point, until_ns in self.removed.items()},
            "refused": dict(self.refused),
        }


async def retain(context: JobContext, where: Where, policy: KeepPolicy, *, dry_run: bool) -> RetentionReport:
    """Carry out a policy on a job's points at a peer.

    Raises RefusedByPeer where this node may not remove points there (a dry run works all the same), UsageError for a
    policy that keeps nothing, ClockDoubtful, CannotConnect.
    """
    _check(policy)
    report = RetentionReport(where.job, str(where), str(policy), dry_run)
    async with asking(context, where.peer) as link:
        there = await read_chain(ask_on(link), where.repository, where.job)
        await check_chain(context, str(where), where.job, there)
        if there.doubt:
            raise ClockDoubtful(
                there.doubt, "the provider sets it right, or confirms it: `repository accept-clock` there"
            )
        report.verdicts = _decided(context, where, there, policy)
        if dry_run or not report.going:
            return report
        if not there.may_remove:
            raise RefusedByPeer(
                f"this node may not remove restore points from {where}",
                "ask the provider: `peer allow-remove NODE REPOSITORY` there; --dry-run works all the same",
            )
        for batch in batches(report.going):
            report.take(await remove_batch(context, link, where, batch))
    return report


async def retain_after_run(context: JobContext, name: str, job: JobConfig) -> None:
    """Carry out the job's policy. The run ended well whatever comes of this: what goes wrong is told, not raised."""
    where = Where(job.peer, job.repository, name)
    try:
        report = await retain(context, where, job.keep, dry_run=False)
    except TransporterError as error:
        context.bus.publish(Note(text=f"retention was not carried out: {error}", job=name))
        return
    if report.removed or report.refused:
        refused = f"; {len(report.refused)} must stay: {next(iter(report.refused.values()))}" if report.refused else ""
        text = f"retention removed {len(report.removed)} restore points ({report.policy}){refused}"
        context.bus.publish(Note(text=text, job=name))


def _check(policy: KeepPolicy) -> None:
    if policy.empty:
        remedy = "say what to keep: --keep-last, --keep-daily, … or `keep` of the job in config.toml"
        raise UsageError("no policy says what to keep", remedy)


def _decided(context: JobContext, where: Where, there: ChainThere, policy: KeepPolicy) -> list[Verdict]:
    known = {each.point: each for each in context.catalog.chain(str(where), where.job)}
    wanted: dict[bytes, list[str]] = {}
    candidates, strange = [], []
    for row in there.rows:
        if row.recycled_until_ns:
            continue
        own = known.get(row.point)
        why = ""
        if known and (own is None or own.state != states.THERE):
            why = "it is not in order: see `transporter points`"
        elif own is not None and abs(own.committed_ns - row.committed_ns) > TIMES_DIFFER_NS:
            why = "the target says another time of its commit than this node remembers"
        if why:
            strange.append(Verdict(row.point, row.committed_ns, True, (why,)))
            continue
        candidates.append(row.candidate)
        if row.kept:
            wanted[row.point] = [row.kept]
    verdicts = [*decide(candidates, policy, there.now_ns, wanted), *strange]
    return sorted(verdicts, key=lambda each: (each.committed_ns, each.point_id))


async def remove_batch(
    context: JobContext, link: ControlLink, where: Where, batch: Sequence[bytes], *, force: bool = False
) -> list[tuple[bytes, int, str]]:
    """Have points of one job removed, and remember it: (id, until_ns, refused) of each."""
    await trio.to_thread.run_sync(note_removing, context, str(where), where.job, batch)
    message = RemovePoints(where.repository, where.job, b"".join(batch), force=force)
    _, payload = await ask(link, message, b"", PointsRemoved)
    try:
        rows: list[RemovedRow] = decode_removed(payload)
    except msgspec.DecodeError as error:
        raise RefusedByPeer("the peer's answer is not valid", "update the transporter there") from error
    told = {row.point: row for row in rows}
    if set(told) != set(batch):
        raise RefusedByPeer("the peer answered for other restore points", "update the transporter there")
    outcomes = [(point, told[point].until_ns, told[point].refused) for point in batch]
    await trio.to_thread.run_sync(note_outcome, context, str(where), where.job, outcomes)
    return outcomes


def batches(points: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield ids of points, as many as go into one question."""
    for at in range(0, len(points), MAX_POINTS_AT_ONCE):
        yield points[at : at + MAX_POINTS_AT_ONCE]


def retain_here(
    context: JobContext, repository: str, tenant: str, job: str, policy: KeepPolicy, *, dry_run: bool
) -> RetentionReport:
    """Carry out a policy on a job's points in a repository of this node. In a thread."""
    _check(policy)
    report = RetentionReport(job, repository, str(policy), dry_run)
    with open_here(context, repository) as store:
        owner = tenant_of(store, job, tenant)
        candidates = store.keeping.candidates(owner, job)
        now = store.keeping.clock.believed_ns()
        report.verdicts = decide_for_provider(candidates, policy, now, store.keeping.rules.minimum)
        if not dry_run and report.going:
            context.keys.record("points.remove", tenant=owner, job=job, repository=repository, points=len(report.going))
            on_gone = partial(drop_keys, context, repository)
            removed = store.keeping.remove(owner, job, report.going, PROVIDER, on_gone=on_gone)
            outcomes = [(each.point_id, each.until_ns, each.refused) for each in removed]
            note_removed_here(context, repository, owner, job, outcomes)
            report.take(outcomes)
    return report

"""Transform: the oldest points of a job are folded into one, which takes the place of the newest of them.

Every point is complete by itself, so nothing is moved: a new point (kind ``synthetic``) with the content of the newest
that is folded, with a new storage key that wraps the keys of every session whose chunks it holds, and the others go.
What is pinned, locked, or kept by the provider stays as it is. The newest point of a job is never folded: the next run
builds on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

from pipeline.trust_zone import Zone
from protocol.messages import GetPoint, GetSlots, PointHead, Slots
from protocol.transform_messages import FoldPoint, PointFolded
from transporter.errors import RefusedByPeer, UsageError
from transporter.jobs.ask import ask, ask_on, asking
from transporter.jobs.chain import check_chain, drop_keys, note_committing, note_removing, note_replaced, read_chain
from transporter.jobs.context import JobContext, job_lock
from transporter.jobs.opening import open_by
from transporter.jobs.points import Where
from transporter.jobs.retention import batches, remove_batch
from transporter.link.control_link import ControlLink
from transporter.points.assemble import Place
from transporter.points.fold import fold_sealed, folded_place, synthetic_id
from transporter.points.keeping_rows import ChainRow
from transporter.points.ways import KeysAtHand
from transporter.repository.point_head import PointHead as Head
from transporter.repository.point_head import decode_head


@dataclass(frozen=True)
class TransformOrder:
    """What a person asked for: one of the three. ``keep``: as many of the newest points stay as they are.

    ``before_ns``: what was committed earlier is folded, by the provider's clock. ``until``: the beginning of a point's
    id; it and all before it are folded.
    """

    job: str
    keep: int | None = None
    before_ns: int | None = None
    until: str = ""
    dry_run: bool = False


@dataclass
class TransformReport:
    """``point``: the new one; ``replaces``: the one whose place it took; ``folded``: all that went; ids in hex.

    ``point`` is empty where there was nothing to do. ``stayed``: points that were to be folded, with the reason.
    """

    job: str
    place: str
    dry_run: bool
    point: str = ""
    replaces: str = ""
    folded: list[str] = field(default_factory=list)
    stayed: dict[str, str] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "job": self.job,
            "repository": self.place,
            "dry_run": self.dry_run,
            "point": self.point,
            "replaces": self.replaces,
            "folded": self.folded,
            "stayed": self.stayed,
        }


async def transform(context: JobContext, order: TransformOrder) -> TransformReport:
    """Fold. Done again after a crash it goes on with what is there.

    Raises JobBusy while the job runs, UsageError for what is no question, RefusedByPeer where this node may not remove
    points there, what opening a point raises, CannotConnect.
    """
    settings = context.config.job(order.job)
    where = Where(settings.peer, settings.repository, order.job)
    report = TransformReport(order.job, str(where), order.dry_run)
    with job_lock(context.home, order.job):
        async with asking(context, where.peer) as link:
            there = await read_chain(ask_on(link), where.repository, where.job)
            await check_chain(context, str(where), where.job, there)
            live = [row for row in there.rows if not row.recycled_until_ns]
            folded = _folded(live, order, there.now_ns, report)
            if len(folded) < 2:
                return report
            report.replaces = folded[-1].point.hex()
            report.folded = [row.point.hex() for row in folded]
            if order.dry_run:
                return report
            if not there.may_remove:
                raise RefusedByPeer(
                    f"this node may not remove restore points from {where}, and folding removes some",
                    "ask the provider: `peer allow-remove NODE REPOSITORY` there; --dry-run works all the same",
                )
            # How many, and the newest: an entry has not room for the names of years.
            context.keys.record(
                "points.fold", job=order.job, repository=str(where), points=len(folded), replaces=report.replaces
            )
            point = await _Fold(context, where, link).put(folded[-1])
            report.point = point.hex()
            # An earlier fold that was cut short may have left the very same point, beside the one that it replaces.
            report.folded = [name for name in report.folded if name != report.point]
            for batch in batches([row.point for row in folded[:-1] if row.point != point]):
                for point, _until_ns, refused in await remove_batch(context, link, where, batch):
                    if refused:
                        report.stayed[point.hex()] = refused
                        report.folded.remove(point.hex())
    return report


def _folded(live: Sequence[ChainRow], order: TransformOrder, now_ns: int, report: TransformReport) -> list[ChainRow]:
    """Return the points that are to be folded, oldest first; note in the report those that must stay."""
    asked = [order.keep is not None, order.before_ns is not None, bool(order.until)]
    if sum(asked) != 1:
        raise UsageError("it is not said how far to fold", "give one of --keep, --before, --until")
    old = list(live[: _count(live, order)])
    for row in old:
        why = _stays(row, now_ns)
        if why:
            report.stayed[row.point.hex()] = why
    return [row for row in old if row.point.hex() not in report.stayed]


def _count(live: Sequence[ChainRow], order: TransformOrder) -> int:
    """Return how many of the oldest points are asked for; never the newest."""
    most = max(len(live) - 1, 0)
    if order.keep is not None:
        if order.keep < 1:
            raise UsageError("the newest point is never folded", "--keep 1 keeps it alone")
        return max(len(live) - order.keep, 0)
    if order.before_ns is not None:
        return min(sum(row.committed_ns < order.before_ns for row in live), most)
    found = [place for place, row in enumerate(live) if row.point.hex().startswith(order.until.lower())]
    if len(found) != 1:
        raise UsageError(
            f"{'several restore points begin' if found else 'no restore point begins'} with {order.until!r}",
            f"`transporter points --job {order.job}` lists them",
        )
    if found[0] == most:
        raise UsageError("the newest point is never folded: the next run builds on it", "name an older one")
    return found[0] + 1


def _stays(row: ChainRow, now_ns: int) -> str:
    if row.pinned is not None:
        return f"it is pinned: {row.pinned}"
    if row.locked_until_ns > now_ns:
        return "it is locked"
    return row.kept


@dataclass(frozen=True)
class _Fold:
    """The one step that needs keys."""

    context: JobContext
    where: Where
    link: ControlLink

    async def put(self, row: ChainRow) -> bytes:
        """Have a synthetic point take the place of a point; return its id."""
        context, where = self.context, self.where
        settings = context.config.job(where.job)
        point = synthetic_id(row.point, row.point_hash)
        question = FoldPoint(where.repository, where.job, row.point, point)
        payload = b""
        if Zone(settings.encrypt) is Zone.SOURCE:
            question, payload = await self._sealed(row, question)
        elif Zone(settings.encrypt) is Zone.TARGET:
            question = replace(question, password=settings.password)
        destination = str(where)
        # In the catalog before the question goes out: else a crash would have this node take it for somebody else's.
        await trio.to_thread.run_sync(note_committing, context, destination, where.job, point, row.committed_ns)
        await trio.to_thread.run_sync(note_removing, context, destination, where.job, [row.point])
        answer, _ = await ask(self.link, question, payload, PointFolded)
        # The key before the row: a crash between the two leaves the row, and so the next contact does it again.
        await trio.to_thread.run_sync(drop_keys, context, destination, [row.point])
        note = partial(note_replaced, context, destination, where.job, row.point, point, answer.hash)
        await trio.to_thread.run_sync(note)
        return point

    async def _sealed(self, row: ChainRow, question: FoldPoint) -> tuple[FoldPoint, bytes]:
        where = self.where
        found, head = await ask(self.link, GetPoint(where.repository, where.job, row.point), b"", PointHead)
        place, _ = await ask(self.link, GetSlots(where.repository, where.job, row.point), b"", Slots)
        make = partial(self._make, row, question.point, bytes(head), found.slots, place)
        head_bytes, slots = await trio.to_thread.run_sync(make)
        return replace(question, slots=slots), head_bytes

    def _make(
        self, row: ChainRow, point: bytes, head_bytes: bytes, slots: list[bytes], place_there: Slots
    ) -> tuple[bytes, list[bytes]]:
        context, where = self.context, self.where
        settings = context.config.job(where.job)

        def place_of(head: Head) -> Place:
            tenant, repository_id = place_there.tenant, place_there.repository_id
            return Place(tenant, where.job, repository_id, row.point, head.domain, settings.encrypt)

        opened = open_by(context, KeysAtHand.of(context.keys), head_bytes, slots, place_of)
        user_key = context.keys.user_key(settings.password)
        kms_slot = context.keys.prepare_kms_slot(user_key, place_there.tenant, point)
        place = folded_place(place_of(decode_head(head_bytes)), point)
        made, named, storage_key = fold_sealed(opened, place, user_key, context.clock, kms_slot, context.escrow)
        context.keys.put_storage_key(point, storage_key, user_key)
        return made, [slot for _slot_id, slot in named]

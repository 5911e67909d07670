"""Wrapping the keys of points that are there already for keysets that came later; nothing else is touched.

What was done stays done, and is not done again: a run that broke off is simply run again. As with a password's change,
a job of this home that runs meanwhile may have put its point together before a keyset came, and commit it after its
place was gone through; so at the end these jobs are kept from running for one more look.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import trio

from protocol.limits import MAX_SLOTS
from transporter.errors import CannotConnect, DamagedData, JobBusy, NoKey, UsageError
from transporter.jobs.context import JobContext, hold_jobs
from transporter.jobs.point_walk import Batch, Walk
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.keys.escrow import Escrow
from transporter.keys.keyset import PublicKeyset
from transporter.keys.node_key import NodeKey
from transporter.keys.slot import read_keyset_slot
from transporter.keys.wrap import point_context
from transporter.points.assemble import SLOT_ID_LENGTH
from transporter.points.slot_rows import PointSlots, SlotChangeRow
from transporter.points.ways import KeysAtHand

_SHOWN = 5
_AGAIN = "run `transporter keyset apply` again"


@dataclass
class ApplyReport:
    """``closed``: points that nothing here opens, so that nothing could be wrapped; ``full``: without room for a slot.

    ``points``: all that were gone through.
    """

    points: int = 0
    added: int = 0
    closed: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {"points": self.points, "slots_added": self.added, "closed": self.closed, "full": self.full}


async def apply_keysets(context: JobContext) -> ApplyReport:
    """Give every sealed point a slot of each active keyset that it has none of.

    Raises:
        CannotConnect: not every place was reached.
        JobBusy: a job is running, or another command changes slots.
        UsageError: there is no active keyset.
        NoKey: points are left that nothing here opens, or that have no room for a slot.
    """
    async with rewrap_lock(context.home):
        keysets = await trio.to_thread.run_sync(context.keys.active_keysets)
        report = ApplyReport()
        if not keysets:
            raise UsageError("there is no active keyset here", "take one up first: transporter keyset import")
        names = [keyset.name for keyset in keysets]
        await trio.to_thread.run_sync(lambda: context.keys.record("keyset.apply", keysets=names))
        walk = Walk(_visitor(context, keysets, report))
        whole = False
        try:
            await walk.everywhere(context)
            with ExitStack() as jobs:
                _hold_jobs(context, jobs, walk)
                await walk.everywhere(context)
            whole = not (walk.unreached or walk.unreadable or report.closed or report.full)
        finally:
            # What has happened is told, also of a run that breaks off.
            report.points, report.added = walk.points, walk.slots_added
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_record_end, context, names, report, whole)
        report.closed = list(dict.fromkeys([*report.closed, *walk.unreadable]))
        check_applied(walk, report, _AGAIN)
    return report


def _record_end(context: JobContext, names: list[str], report: ApplyReport, whole: bool) -> None:
    # ``whole`` is what a review goes by: were all points gone through, and all of them wrapped?
    context.keys.record("keyset.applied", keysets=names, points=report.points, slots=report.added, whole=whole)


def _hold_jobs(context: JobContext, jobs: ExitStack, walk: Walk) -> None:
    try:
        hold_jobs(context, jobs)
    except JobBusy as busy:
        raise JobBusy(
            f"{walk.slots_added} slots were added, but {busy.what}, and its point may have none", f"then {_AGAIN}"
        ) from None


def check_applied(walk: Walk, report: ApplyReport, again: str) -> None:
    """Raise what `apply_keysets` does, where something is left to be done; ``again``: what to do then."""
    done = f"{report.added} slots were added"
    if walk.unreached:
        places = "; ".join(f"{where}: {why}" for where, why in walk.unreached.items())
        raise CannotConnect(f"{done}, but not every repository was reached ({places})", f"then {again}")
    if report.closed:
        raise NoKey(
            f"{done}, but {len(report.closed)} restore points open by nothing here ({_some(report.closed)})",
            "`transporter drill` lists them",
        )
    if report.full:
        raise NoKey(
            f"{done}, but {len(report.full)} restore points have no room for another ({_some(report.full)})",
            "they have slots of old keysets and of commits that were repeated; newer points have room",
        )


def _some(points: list[str]) -> str:
    return ", ".join(points[:_SHOWN]) + (" …" if len(points) > _SHOWN else "")


def _visitor(context: JobContext, keysets: list[PublicKeyset], report: ApplyReport) -> Any:  # noqa: ANN401
    at_hand = KeysAtHand.of(context.keys)
    maker = NodeKey(context.identity.key)

    def of_point(batch: Batch, point: PointSlots) -> list[SlotChangeRow]:
        has = _keysets_of(point)
        missing = [keyset for keyset in keysets if keyset.id not in has]
        if not point.ring_length or not missing:
            return []
        if len(point.slots) + len(missing) > MAX_SLOTS:
            report.full.append(point.point.hex())
            return []
        key = at_hand.storage_key(batch.tenant, batch.repository_id, point)
        if key is None:
            report.closed.append(point.point.hex())
            return []
        where = point_context(batch.tenant, batch.repository_id, point.point)
        return [
            SlotChangeRow(point.point, context.clock.random_bytes(SLOT_ID_LENGTH), slot, [])
            for slot in Escrow(lambda: missing, maker).slots(key, where)
        ]

    return lambda batch: [row for point in batch.points for row in of_point(batch, point)]


def _keysets_of(point: PointSlots) -> set[bytes]:
    """Return the keysets that a point has slots of, as these say; one that cannot be read is none of them."""
    found = set()
    for _id, slot in point.slots:
        try:
            parts = read_keyset_slot(slot)
        except DamagedData:
            continue
        if parts is not None:
            found.add(parts.keyset_id)
    return found

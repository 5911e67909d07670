"""Giving points that are there already the slot of a key management service; nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable

import trio

from protocol.limits import MAX_SLOTS
from transporter.errors import DamagedData
from transporter.jobs.context import JobContext
from transporter.jobs.keyset_apply import ApplyReport, check_applied
from transporter.jobs.point_walk import Batch, Walk
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.keys.kms_slot import prepare_kms_slot
from transporter.keys.slot import read_kms_slot
from transporter.keys.wrap import point_context
from transporter.points.assemble import SLOT_ID_LENGTH
from transporter.points.slot_rows import PointSlots, SlotChangeRow
from transporter.points.ways import KeysAtHand


async def apply_kms(context: JobContext, name: str) -> ApplyReport:
    """Give every sealed point a slot of the service ``name``, unless it has one of the same key.

    Raises ConfigError, `KMS_ERRORS` and JobBusy (beside another change of slots) before anything is done; NoKey where
    points are closed or full, CannotConnect where not every place was reached, or the service failed on the way. What
    was done stays done.
    """
    key = await trio.to_thread.run_sync(context.keys.kms.key, name)
    report = ApplyReport()
    walk = Walk(_visitor(context, name, key.reference, report))
    async with rewrap_lock(context.home):
        await trio.to_thread.run_sync(lambda: context.keys.record("kms.apply", kms=name))
        with context.keys.kms.counted():
            await walk.everywhere(context)
        # What was stored, not what was meant to be.
        report.points, report.added = walk.points, walk.slots_added
        facts = {"points": report.points, "slots": report.added}
        await trio.to_thread.run_sync(lambda: context.keys.record("kms.applied", kms=name, **facts))
    report.closed += walk.unreadable
    check_applied(walk, report, "run `transporter kms apply` again")
    return report


def _visitor(
    context: JobContext, name: str, reference: str, report: ApplyReport
) -> Callable[[Batch], list[SlotChangeRow]]:
    at_hand = KeysAtHand.of(context.keys)

    def visit(batch: Batch) -> list[SlotChangeRow]:
        rows = []
        for point in batch.points:
            if not point.ring_length or _has(point, reference):
                continue
            if len(point.slots) >= MAX_SLOTS:
                report.full.append(point.point.hex())
                continue
            key = at_hand.storage_key(batch.tenant, batch.repository_id, point)
            if key is None:
                report.closed.append(point.point.hex())
                continue
            where = point_context(batch.tenant, batch.repository_id, point.point)
            prepared = prepare_kms_slot(context.keys.kms, name, batch.tenant, point.point, context.clock)
            slot = prepared.make_slot(key, where, context.clock)
            rows.append(SlotChangeRow(point.point, context.clock.random_bytes(SLOT_ID_LENGTH), slot, []))
        return rows

    return visit


def _has(point: PointSlots, reference: str) -> bool:
    for _id, slot in point.slots:
        try:
            found = read_kms_slot(slot)
        except DamagedData:
            continue
        if found is not None and found.reference == reference:
            return True
    return False

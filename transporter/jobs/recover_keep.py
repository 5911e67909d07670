"""A point whose key came by a recovery gets a slot of a password that is kept here, so that it opens as all others do.

Nothing is replaced: whoever remembers the old password after all can still use it. What was done stays done, and is not
done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import trio

from protocol.limits import MAX_SLOTS
from transporter.errors import DamagedData, NoKey, UsageError
from transporter.jobs.context import JobContext
from transporter.jobs.one_point import Found, find_point
from transporter.jobs.point_walk import Batch, Walk
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.keys.key_ring import check_opens
from transporter.keys.password import UserKey
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.keys.wrap import point_context
from transporter.points.assemble import SLOT_ID_LENGTH
from transporter.points.slot_rows import SlotChangeRow
from transporter.points.ways import KeysAtHand


@dataclass(frozen=True)
class Kept:
    """What became of it. ``added``: False where the point had such a slot already."""

    point: bytes
    added: bool


async def keep_recovered(context: JobContext, beginning: str, password: str, place: str = "") -> Kept:
    """Give the point whose id begins so a slot of the password that is kept as ``password``.

    ``place``: as `find_point`.

    Raises:
        UnknownPassword, `KMS_ERRORS`: there is no such password here, or a service does not let it out.
        NoKey: this node kept no key of that point, or none that opens it; or it has no room for another slot.
        UsageError, DamagedData, CannotConnect: as `find_point`.
        JobBusy: another command changes slots.
    """
    # As a password's change goes through all points under this lock, it cannot miss the slot that is made here.
    async with rewrap_lock(context.home):
        user_key = await trio.to_thread.run_sync(context.keys.user_key, password)
        found = await find_point(context, beginning, place)
        key = await trio.to_thread.run_sync(_kept_key, context, found)
        if await trio.to_thread.run_sync(_has_slot, found, user_key, key):
            return Kept(found.row.point, added=False)
        if len(found.row.slots) >= MAX_SLOTS:
            raise NoKey(
                "the restore point has no room for another slot", "its key opens it at this node: do not forget it"
            )
        await trio.to_thread.run_sync(partial(_record, context, found, password))
        # As of a point that this node made; first, as with the slot there nothing would be left to be done.
        await trio.to_thread.run_sync(context.keys.put_storage_key, found.row.point, key, user_key)
        await _put(context, found, _slot(context, found, user_key, key))
    return Kept(found.row.point, added=True)


def _kept_key(context: JobContext, found: Found) -> StorageKey:
    """Return the key that this node kept of a point, proved to open it. Raises NoKey, `KMS_ERRORS`."""
    row = found.row
    if not row.ring_length:
        raise UsageError("the restore point is not sealed", "nothing to do: it needs no key")
    key = context.keys.storage_key(row.point)
    if key is None:
        raise NoKey(
            f"this node has no key of restore point {row.point.hex()} that came by a recovery",
            "`transporter recover request` asks for it; `transporter keys explain` says what opens the point",
        )
    check_opens(key, row.ring_first, row.ring_length, _where(found))
    return key


def _has_slot(found: Found, user_key: UserKey, key: StorageKey) -> bool:
    """Tell whether a slot of that very password opens the point."""
    only = KeysAtHand(lambda salt: user_key if salt == user_key.salt else None, lambda _point: None)
    return only.storage_key(found.batch.tenant, found.batch.repository_id, found.row) == key


def _slot(context: JobContext, found: Found, user_key: UserKey, key: StorageKey) -> SlotChangeRow:
    price = user_key.hash.parameters
    slot = make_password_slot(key, user_key.hash, user_key.salt, price, _where(found), clock=context.clock)
    return SlotChangeRow(found.row.point, context.clock.random_bytes(SLOT_ID_LENGTH), slot, [])


async def _put(context: JobContext, found: Found, change: SlotChangeRow) -> None:
    """Store the slot by one more visit: a walk is what changes slots, near and far. Raises CannotConnect."""

    def visit(batch: Batch) -> list[SlotChangeRow]:
        there = any(row.point == change.point for row in batch.points)
        return [change] if there and batch.place == found.batch.place else []

    walk = Walk(visit)
    await walk.everywhere(context, only=found.batch.place)
    if not walk.slots_added:
        walk.check_reached()
        raise DamagedData("the restore point is gone meanwhile", "`transporter points` lists those that are there")


def _record(context: JobContext, found: Found, password: str) -> None:
    context.keys.record("recovery.keep", point=found.row.point.hex(), password=password, place=found.batch.place)


def _where(found: Found) -> bytes:
    return point_context(found.batch.tenant, found.batch.repository_id, found.row.point)

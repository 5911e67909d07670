"""Asking an escrow for the key of a restore point: the point is found, and its slots go into a signed request."""

from __future__ import annotations

import trio

from transporter.errors import DamagedData, NoKey
from transporter.jobs.context import JobContext
from transporter.jobs.one_point import Found, find_point
from transporter.keys.escrow_table import RingHead
from transporter.keys.keyset import PublicKeyset, fingerprint
from transporter.keys.node_key import NodeKey
from transporter.keys.recovery import make_request
from transporter.keys.slot import KeysetSlot, read_keyset_slot
from transporter.keys.wrap import point_context
from transporter.points.slot_rows import PointSlots


async def request_recovery(context: JobContext, beginning: str, keyset: str, place: str = "") -> str:
    """Return a request for the point whose id begins so, and remember its one-time key.

    Raises:
        UsageError, CannotConnect: as `find_point`.
        NoKey: it has no slot of a keyset that is known here (or of the one that was named).
        DamagedData: the repository says impossible things of it.
    """
    found = await find_point(context, beginning, place)
    return await trio.to_thread.run_sync(_make, context, found, keyset)


def _make(context: JobContext, found: Found, name: str) -> str:
    batch, row = found.batch, found.row
    keyset, slots = _choose(context, row, name)
    asked = make_request(
        NodeKey(context.identity.key),
        name=context.config.node.name,
        tenant=batch.tenant,
        repository_id=batch.repository_id,
        job=batch.job,
        point=row.point,
        keyset=keyset.id,
        slots=slots,
        ring=(row.ring_length, row.ring_first),
        clock=context.clock,
    )
    where = point_context(batch.tenant, batch.repository_id, row.point)
    context.keys.remember_request(asked, RingHead(keyset.id, where, row.ring_length, row.ring_first))
    return asked.text


def _choose(context: JobContext, row: PointSlots, name: str) -> tuple[PublicKeyset, list[bytes]]:
    """Return the keyset that was named, else the newest that has slots, and its slots."""
    ways = list(_ways(row))
    known = [info.public for info in context.keys.keysets()]
    if name:
        known = [context.keys.keyset(name).public]
    usable = [keyset for keyset in known if any(parts.keyset_id == keyset.id for _, parts in ways)]
    if usable:
        chosen = max(usable, key=lambda keyset: keyset.created_ns)
        return chosen, [slot for slot, parts in ways if parts.keyset_id == chosen.id]
    if not ways or name:
        which = f"of keyset {name!r}" if name else "of any keyset"
        raise NoKey(f"the restore point has no slot {which}", "`transporter keys explain` says what would open it")
    others = ", ".join(sorted({f"{parts.name!r} {fingerprint(parts.keyset_id)}" for _, parts in ways}))
    raise NoKey(
        f"the restore point has slots of keysets that are not known here ({others})",
        "import its public half, and compare the fingerprint with the escrow: transporter keyset import",
    )


def _ways(row: PointSlots) -> list[tuple[bytes, KeysetSlot]]:
    found = []
    for _id, slot in row.slots:
        try:
            parts = read_keyset_slot(slot)
        except DamagedData:
            continue  # one that was altered must not keep the others from being used
        if parts is not None:
            found.append((slot, parts))
    return found

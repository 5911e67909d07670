"""Getting the storage key of a point by a keyset: which slots are believed, and which key is released."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from transporter.errors import DamagedData, IdentityRefused, NoKey
from transporter.keys.key_ring import check_opens
from transporter.keys.keyset import PrivateKeyset
from transporter.keys.node_key import pin_of
from transporter.keys.slot import KeysetSlot, read_keyset_slot
from transporter.keys.storage_key import StorageKey

MAX_SLOTS: Final = 16
"""Slots of a point that are looked at: a commit that was repeated leaves more than one, and only one opens the ring."""


def key_of(
    slots: Sequence[bytes],
    keyset: PrivateKeyset,
    context: bytes,
    ring: tuple[int, bytes],
    may_open: Callable[[bytes], bool],
) -> StorageKey:
    """Return the key in the slot of ``keyset`` that opens the ``ring`` (its length, and its first cryptogram).

    ``may_open``: whether slots made by the node with that pin may be opened.

    Raises:
        IdentityRefused: the point was sealed by a node whose points may not be opened, or an unknown one.
        NoKey: no slot of this keyset; or what is in them does not open the point.
        DamagedData: no slot is as it was made.
    """
    parts = slots_of(slots, keyset.public.id)
    if not parts:
        raise NoKey("there is no slot of this keyset", "ask the escrow whose keyset it is")
    allowed = [each for each in parts if may_open(maker_of(each))]
    if not allowed:
        raise IdentityRefused(
            "the restore point was sealed by a node that is not registered here, or that this one does not stand for",
            "if it is rebuilt: `escrow register FILE --instead-of OLD`",
        )
    problem: DamagedData | NoKey | None = None
    for each in allowed:
        try:
            key = keyset.open_parts(each, context)
            check_opens(key, ring[1], ring[0], context)
        except (DamagedData, NoKey) as error:
            problem = error
        else:
            return key
    if isinstance(problem, DamagedData):
        raise problem
    raise NoKey("no slot of this keyset opens this restore point", "try another keyset, or another copy of the point")


def slots_of(slots: Sequence[bytes], keyset: bytes) -> list[KeysetSlot]:
    """Return the slots of a keyset by its id; what cannot be read is none: it must not be in the way of the others."""
    found = []
    for slot in slots[:MAX_SLOTS]:
        try:
            parts = read_keyset_slot(slot)
        except DamagedData:
            continue
        if parts is not None and parts.keyset_id == keyset:
            found.append(parts)
    return found


def maker_of(parts: KeysetSlot) -> bytes:
    """Return the pin of the node that says it made a slot; empty for none."""
    try:
        return pin_of(parts.maker)
    except ValueError:
        return b""

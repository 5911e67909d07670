"""Slots on the wire: the rows in the payloads of Slots and PutSlots (protocol/point_messages.py)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol import limits
from transporter.errors import DamagedData
from transporter.keys.key_ring import MAX_RING
from transporter.keys.wrap import MAX_WRAPPED
from transporter.repository import Repository
from transporter.repository.point_head import decode_head

_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Slot = Annotated[bytes, Meta(min_length=1, max_length=limits.MAX_SLOT)]


class PointSlots(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The slots of a point that are in use, (id, slot); how many keys its ring has, and the first of them, wrapped.

    By that one it is proved that what a slot holds is the storage key of this point.
    """

    point: _Id
    slots: Annotated[list[tuple[_Id, _Slot]], Meta(max_length=limits.MAX_SLOTS)]
    ring_length: Annotated[int, Meta(ge=0, le=MAX_RING)]
    ring_first: Annotated[bytes, Meta(max_length=MAX_WRAPPED)]


class SlotChangeRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A slot to be stored, and those whose place it takes; ``slot`` empty: only put those away."""

    point: _Id
    slot_id: _Id
    slot: Annotated[bytes, Meta(max_length=limits.MAX_SLOT)]
    replaces: Annotated[list[_Id], Meta(max_length=limits.MAX_SLOTS)] = []


def point_slots(store: Repository, tenant: str, job: str, point: bytes) -> tuple[str, PointSlots]:
    """Return a point's zone, and what a repository holds for opening it. Raises PointMissing, DamagedData."""
    head = decode_head(store.head_unproved(tenant, job, point))
    slots = list(store.slots(point).items())
    if len(slots) > limits.MAX_SLOTS:
        # Never only some of them: the one that matters may be among the others.
        raise DamagedData("a restore point has more slots than anyone makes", "remove what was added to them")
    first = head.cryptograms[0] if head.cryptograms else b""
    return head.zone, PointSlots(point, slots, len(head.cryptograms), first)


def encode_rows(rows: list[PointSlots] | list[SlotChangeRow]) -> bytes:
    """Return rows as a payload."""
    return msgspec.msgpack.encode(rows)


def decode_point_slots(payload: bytes | memoryview) -> list[PointSlots]:
    """Parse the payload of Slots. Raises msgspec.DecodeError."""
    return _point_slots.decode(payload)


def decode_slot_changes(payload: bytes | memoryview) -> list[SlotChangeRow]:
    """Parse the payload of PutSlots. Raises msgspec.DecodeError."""
    return _slot_changes.decode(payload)


_point_slots: msgspec.msgpack.Decoder[list[PointSlots]] = msgspec.msgpack.Decoder(
    Annotated[list[PointSlots], Meta(max_length=limits.MAX_POINTS_AT_ONCE)]
)
_slot_changes: msgspec.msgpack.Decoder[list[SlotChangeRow]] = msgspec.msgpack.Decoder(
    Annotated[list[SlotChangeRow], Meta(max_length=limits.MAX_POINTS_AT_ONCE)]
)

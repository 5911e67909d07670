"""Slots on the wire: the rows in the payloads of Slots and PutSlots (protocol/point_messages.py)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol import limits

_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Slot = Annotated[bytes, Meta(min_length=1, max_length=limits.MAX_SLOT)]


class PointSlots(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The slots of a point that are in use: (id, slot)."""

    point: _Id
    slots: Annotated[list[tuple[_Id, _Slot]], Meta(max_length=limits.MAX_SLOTS)]


class SlotChangeRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A slot to be stored, and those whose place it takes; ``slot`` empty: only put those away."""

    point: _Id
    slot_id: _Id
    slot: Annotated[bytes, Meta(max_length=limits.MAX_SLOT)]
    replaces: Annotated[list[_Id], Meta(max_length=limits.MAX_SLOTS)] = []


def encode_rows(rows: list[PointSlots] | list[SlotChangeRow]) -> bytes:
    """Return rows as a payload."""
    return msgspec.msgpack.encode(rows)


def decode_point_slots(payload: bytes | memoryview) -> list[PointSlots]:
    """Parse the payload of Slots. Raises msgspec.DecodeError."""
    return _point_slots.decode(payload)


def decode_slot_changes(payload: bytes | memoryview) -> list[SlotChangeRow]:
    """Parse the payload of PutSlots. Raises msgspec.DecodeError."""
    return _slot_changes.decode(payload)


_point_slots = msgspec.msgpack.Decoder(Annotated[list[PointSlots], Meta(max_length=limits.MAX_POINTS_AT_ONCE)])
_slot_changes = msgspec.msgpack.Decoder(Annotated[list[SlotChangeRow], Meta(max_length=limits.MAX_POINTS_AT_ONCE)])

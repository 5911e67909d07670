"""Slots on the wire: the rows in the payloads of Slots and PutSlots (protocol/point_messages.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

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


class CopiedSlots(PointSlots, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The same of a copied point, and the place that its keys are bound to: where it was made.

    A row of its own kind: an older initiator, which knows no copies, refuses none of the others.
    """

    repository_id: _Id
    tenant: Annotated[str, Meta(min_length=1, max_length=limits.MAX_NAME)]


class SlotChangeRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A slot to be stored, and those whose place it takes; ``slot`` empty: only put those away."""

    point: _Id
    slot_id: _Id
    slot: Annotated[bytes, Meta(max_length=limits.MAX_SLOT)]
    replaces: Annotated[list[_Id], Meta(max_length=limits.MAX_SLOTS)] = []


@dataclass(frozen=True, slots=True)
class PointHere:
    """A point of a repository of this node: ``names`` are those in the folder of its slots (`SlotChange.seen`)."""

    zone: str
    row: PointSlots
    names: tuple[str, ...]


def point_slots(store: Repository, tenant: str, job: str, point: bytes) -> PointHere:
    """Return what a repository holds for opening a point. Raises PointMissing, DamagedData."""
    ref, raw = store.point_unproved(tenant, job, point)
    head = decode_head(raw)
    found, names = store.slots_and_names(store.belongings(tenant, job, point))
    slots = list(found.items())
    if len(slots) > limits.MAX_SLOTS:
        # Never only some of them: the one that matters may be among the others.
        raise DamagedData("a restore point has more slots than anyone makes", "remove what was added to them")
    first = head.cryptograms[0] if head.cryptograms else b""
    origin = ref.origin
    count = len(head.cryptograms)
    if origin is None or origin.resealed:
        return PointHere(head.zone, PointSlots(point, slots, count, first), names)
    return PointHere(head.zone, CopiedSlots(point, slots, count, first, origin.repository_id, origin.tenant), names)


def encode_rows(rows: Sequence[PointSlots] | Sequence[SlotChangeRow]) -> bytes:
    """Return rows as a payload."""
    return msgspec.msgpack.encode(rows)


def decode_point_slots(payload: bytes | memoryview) -> list[PointSlots]:
    """Parse the payload of Slots. Raises msgspec.DecodeError."""
    # Two kinds of rows, told apart by their length: one look at the outline, one at each row.
    return [msgspec.convert(row, CopiedSlots if len(row) > 4 else PointSlots) for row in _rows.decode(payload)]


def decode_slot_changes(payload: bytes | memoryview) -> list[SlotChangeRow]:
    """Parse the payload of PutSlots. Raises msgspec.DecodeError."""
    return _slot_changes.decode(payload)


_rows: msgspec.msgpack.Decoder[list[list[Any]]] = msgspec.msgpack.Decoder(
    Annotated[list[Annotated[list[Any], Meta(max_length=6)]], Meta(max_length=limits.MAX_POINTS_AT_ONCE)]
)
_slot_changes: msgspec.msgpack.Decoder[list[SlotChangeRow]] = msgspec.msgpack.Decoder(
    Annotated[list[SlotChangeRow], Meta(max_length=limits.MAX_POINTS_AT_ONCE)]
)

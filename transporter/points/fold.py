"""Folding restore points: a synthetic one takes the place of another, with its content and a storage key of its own.

The new point wraps the session keys of every session whose chunks it holds, as the old one did, under the new storage
key and for the new place; chunks are neither opened nor moved. Its id follows from the old one, so that a fold that was
interrupted and is done again meets what it left:

    id = BLAKE3(bind("synthetic point", id of the old point, hash of the old point)), first 16 bytes
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from blake3 import blake3

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.keys.derive import SYNTHETIC_POINT, bind
from transporter.keys.escrow import NO_ESCROW, Escrow
from transporter.keys.key_ring import seal_ring
from transporter.keys.kms_slot import PreparedKmsSlot
from transporter.keys.password import UserKey
from transporter.keys.storage_key import StorageKey
from transporter.points.assemble import OpenedPoint, Place, make_slots
from transporter.repository.point_head import PointHead, encode_head

SYNTHETIC = "synthetic"
"""The kind of such a point."""


def synthetic_id(point_id: bytes, point_hash: bytes) -> bytes:
    """Return the id of the point that takes the place of another (16 bytes)."""
    return blake3(bind(SYNTHETIC_POINT, point_id, point_hash)).digest()[:16]


def synthetic_head(head: PointHead, point_id: bytes) -> PointHead:
    """Return the head of a point with the content of another. It begins a chain: what came before it has gone."""
    return msgspec.structs.replace(
        head, point_id=point_id, kind=SYNTHETIC, parent=b"", parent_hash=b"", cryptograms=[], mac=b""
    )


def fold_sealed(
    opened: OpenedPoint,
    place: Place,
    user_key: UserKey,
    clock: Clock,
    kms_slot: PreparedKmsSlot | None = None,
    escrow: Escrow = NO_ESCROW,
) -> tuple[bytes, list[tuple[bytes, bytes]], StorageKey]:
    """Return (head, [(slot id, slot)], storage key) of the point at ``place`` with the content of one that is open.

    Raises DamagedData where that one is not sealed.
    """
    if opened.ring is None:
        raise DamagedData("a restore point that is not sealed has no keys to be folded", "run scrub at the target")
    storage_key = StorageKey.generate(clock)
    cryptograms = seal_ring(storage_key, opened.ring, place.context, clock=clock)
    head = msgspec.structs.replace(synthetic_head(opened.head, place.point_id), cryptograms=cryptograms)
    head = msgspec.structs.replace(head, mac=opened.ring.metakey.mac(encode_head(head)))
    return encode_head(head), make_slots(storage_key, place.context, user_key, kms_slot, clock, escrow), storage_key


def fold_plain(head: PointHead, point_id: bytes) -> bytes:
    """Return the head of the point with the content of one that nobody sealed."""
    return encode_head(synthetic_head(head, point_id))


def folded_place(place: Place, point_id: bytes) -> Place:
    """Return the place of the new point."""
    return replace(place, point_id=point_id, parent=b"", parent_hash=b"")

"""The repository: packs, journal, index and restore points on a local disk. Opaque bytes and key ids, never a key."""

from __future__ import annotations

from transporter.repository.errors import (
    ChunkMissing,
    PointExists,
    PointMissing,
    RepositoryBusy,
    RepositoryExists,
    RepositoryMissing,
)
from transporter.repository.points import PointRef
from transporter.repository.record import PLAIN_KEY, ChunkRecord
from transporter.repository.repository import Repository
from transporter.repository.slot_store import SlotChange
from transporter.repository.writer import PackWriter

__all__ = [
    "PLAIN_KEY",
    "ChunkMissing",
    "ChunkRecord",
    "PackWriter",
    "PointExists",
    "PointMissing",
    "PointRef",
    "Repository",
    "RepositoryBusy",
    "RepositoryExists",
    "RepositoryMissing",
    "SlotChange",
]

"""The repository: packs, journal, index and restore points on a local disk. Opaque bytes and key ids, never a key."""

from __future__ import annotations

from transporter.repository.errors import (
    ChunkMissing,
    ClockDoubtful,
    PointExists,
    PointKept,
    PointMissing,
    RepositoryBusy,
    RepositoryExists,
    RepositoryMissing,
)
from transporter.repository.keeping import Outcome, Recycled, Rules, Waived
from transporter.repository.keeping_files import PROVIDER
from transporter.repository.points import Origin, PointRef
from transporter.repository.prune import PruneHooks
from transporter.repository.prune_beside import prune_beside
from transporter.repository.prune_report import PruneOptions, PruneProgress, PruneReport
from transporter.repository.record import PLAIN_KEY, ChunkRecord
from transporter.repository.repository import Repository
from transporter.repository.session_lease import SessionLease
from transporter.repository.slot_store import SlotChange
from transporter.repository.writer import PackWriter

__all__ = [
    "PLAIN_KEY",
    "PROVIDER",
    "ChunkMissing",
    "ChunkRecord",
    "ClockDoubtful",
    "Origin",
    "Outcome",
    "PackWriter",
    "PointExists",
    "PointKept",
    "PointMissing",
    "PointRef",
    "PruneHooks",
    "PruneOptions",
    "PruneProgress",
    "PruneReport",
    "Recycled",
    "Repository",
    "RepositoryBusy",
    "RepositoryExists",
    "RepositoryMissing",
    "Rules",
    "SessionLease",
    "SlotChange",
    "Waived",
    "prune_beside",
]

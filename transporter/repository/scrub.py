"""Scrub: prove every byte of a repository, without keys. It changes nothing.

What proves what: a pack's name proves the pack, a record's hash tells which chunks of a damaged pack are hit, a point and a slot
carry their own hash, the format file a checksum, a closed index a seal. The index is compared with the packs; it is a cache,
so what differs there can be repaired and is told apart from damage.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import format_file, limits, pack_file, points
from transporter.repository.errors import PointMissing
from transporter.repository.index import Index, Location
from transporter.repository.layout import FOLDERS, ID_NAME, PACK_NAME, Layout, name_of
from transporter.repository.opening import check_seal
from transporter.repository.point_store import PointStore
from transporter.repository.reconcile import list_packs
from transporter.repository.record import HEADER_LENGTH, Entry

_NEEDS_BATCH = 4096


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far a scrub is."""

    packs_done: int
    packs_total: int
    bytes_done: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (a path below the repository), and what."""

    where: str
    what: str


@dataclass(slots=True)
class ScrubReport:
    """What a scrub looked at and found. ``damage`` needs healing, ``repairable`` a new index, ``notes`` only a glance.

    At most `limits.REPORTED` findings of each kind are spelled out; ``damage_count`` counts all.
    """

    packs: int = 0
    records: int = 0
    points: int = 0
    slots: int = 0
    bytes: int = 0
    damage_count: int = 0
    damage: list[Finding] = field(default_factory=list)
    damaged_packs: list[bytes] = field(default_factory=list)
    damaged_chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    repairable: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged and the index agrees with the packs."""
        return not self.damage_count and not self.repairable

    def hurt(self, where: str, what: str) -> None:
        """Record damage."""
        self.damage_count += 1
        _put(self.damage, Finding(where, what))


def _put[T](into: list[T], finding: T) -> None:
    if len(into) < limits.REPORTED:
        into.append(finding)


class Scrubber:
    """One scrub of one repository."""

    def __init__(self, layout: Layout, index: Index, store: PointStore, repository_id: bytes, clock: Clock) -> None:
        self._layout = layout
        self._index = index
        self._store = store
        self._repository_id = repository_id
        self._clock = clock
        self._report = ScrubReport()
        self._confirmed = 0

    def run(self, on_progress: Callable[[ScrubProgress], None] | None, sample: float | None) -> ScrubReport:
        """Look at everything once and return the report."""
        self._check_format()
        self._check_strays()
        last_pack = self._check_index_file()
        self._check_packs(on_progress, sample, last_pack)
        self._check_journal()
        self._check_points()
        self._check_slots()
        return self._report

"""Scrub: prove every byte of a repository, without keys. It changes nothing.

What proves what: a pack's name proves the pack, a record's hash tells which chunks of a damaged pack are hit, a point
and a slot carry their own hash, the format file a checksum, a closed index a seal. The index is compared with the
packs; it is a cache, so what differs there can be repaired and is told apart from damage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import format_file, limits, points
from transporter.repository.index import Index
from transporter.repository.layout import FOLDERS, ID_NAME, PACK_NAME, Layout, name_of
from transporter.repository.point_store import PointStore
from transporter.repository.scrub_keeping import check_keeping
from transporter.repository.scrub_packs import PackScrubber
from transporter.repository.scrub_points import PointScrubber
from transporter.repository.scrub_report import Finding, ScrubProgress, ScrubReport

__all__ = ["Finding", "ScrubProgress", "ScrubReport", "Scrubber"]

NOWHERE = bytes(32)
"""Where a scrub of everything begins, and ends: no pack has this name."""


class Scrubber:
    """One scrub of one repository."""

    def __init__(
        self, layout: Layout, index: Index | None, store: PointStore, repository_id: bytes, clock: Clock
    ) -> None:
        self._layout = layout
        self._store = store
        self._clock = clock
        self.report = ScrubReport()
        self.packs = PackScrubber(layout, index, repository_id, self.report)
        self._points = PointScrubber(layout, store, self._keys_of, self.report)
        self._last_pack = 0

    def run(self, on_progress: Callable[[ScrubProgress], None] | None, sample: float | None) -> ScrubReport:
        """Look at everything once, or at a share of the packs from a random place on, and return the report."""
        self.begin()
        total, total_bytes = self.packs.count()
        start = NOWHERE if sample is None else self._clock.random_bytes(32)
        most = total if sample is None else math.ceil(total * sample)
        for done, name in enumerate(self.packs.names(start, start), 1):
            if sample is not None and done > most:
                break
            self.packs.take(self.packs.check_pack(name))
            if on_progress is not None:
                on_progress(ScrubProgress(done, max(most, done), self.report.bytes, total_bytes))
        self.end_of_packs(whole=sample is None)
        for point in self.points():
            self.check_point(*point)
        self.check_slots()
        return self.report

    def begin(self) -> None:
        """Look at what is small, and at the index by itself."""
        self._check_format()
        self._check_strays()
        check_keeping(self._layout, self._store, self.report)
        self._last_pack = self.packs.check_index_file()

    def end_of_packs(self, *, whole: bool) -> None:
        """Compare as a whole what was compared pack by pack; ``whole``: all packs were taken by this scrub."""
        self.packs.look_again()
        if whole:
            self.packs.compare_count(self._last_pack)
        self.packs.check_journal()

    def points(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield tenant, job and id of every point."""
        for tenant in self._store.tenants():
            for job in self._store.jobs(tenant):
                for point_id in self._store.ids(tenant, job):
                    yield tenant, job, point_id

    def check_point(self, tenant: str, job: str, point_id: bytes) -> None:
        """Prove a point, and that what it needs is stored."""
        self._points.check(tenant, job, point_id)

    def _keys_of(self, domain: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]] | None:
        return self.packs.ask(lambda index: index.keys_of(domain, ids))

    # -- one thing each ---------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        try:
            format_file.decode(self._layout.format.read_bytes())
        except (DamagedData, OSError) as error:
            self.report.hurt("format", str(error))

    def check_slots(self) -> None:
        """Prove every slot."""
        for folder in _folders(self._layout.slots):
            if not ID_NAME.fullmatch(folder.name):
                continue
            for path in sorted(folder.iterdir()):
                if ID_NAME.fullmatch(path.name):
                    self._check_slot(bytes.fromhex(folder.name), bytes.fromhex(path.name))

    def _check_slot(self, point_id: bytes, slot_id: bytes) -> None:
        self.report.slots += 1
        path = self._layout.slot(point_id, slot_id)
        try:
            points.decode_slot(points.read_small(path, 2 * limits.SLOT_LENGTH), point_id, slot_id)
        except TransporterError as error:
            if path.exists():  # else it was put away meanwhile
                self.report.hurt(str(path.relative_to(self._layout.root)), str(error))

    def _check_strays(self) -> None:
        """Note what is not ours: it proves nothing, but whoever looks after the repository should know."""
        for path in sorted(self._layout.root.iterdir()):
            if path.name not in (*FOLDERS, "format", "quarantine", "recycled"):
                self._stray(path)
        for folder in _folders(self._layout.packs):
            for path in sorted(folder.iterdir()):
                if not PACK_NAME.fullmatch(path.name) or path.name[:2] != folder.name:
                    self._stray(path)
        for tenant in _folders(self._layout.points):
            for job in _folders(tenant):
                if name_of(tenant.name) is None or name_of(job.name) is None:
                    self._stray(job)
                for path in sorted(job.iterdir()):
                    if not ID_NAME.fullmatch(path.name):
                        self._stray(path)

    def _stray(self, path: Path) -> None:
        self.report.note(str(path.relative_to(self._layout.root)), "not part of the repository")


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []

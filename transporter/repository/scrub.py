"""Scrub: prove every byte of a repository, without keys. It changes nothing.

What proves what: a pack's name proves the pack, a record's hash tells which chunks of a damaged pack are hit, a point
and a slot carry their own hash, the format file a checksum, a closed index a seal. The index is compared with the
packs; it is a cache, so what differs there can be repaired and is told apart from damage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import format_file, limits, points
from transporter.repository.errors import PointMissing
from transporter.repository.index import Index
from transporter.repository.layout import FOLDERS, ID_NAME, PACK_NAME, Layout, name_of
from transporter.repository.point_store import PointStore
from transporter.repository.scrub_packs import PackScrubber
from transporter.repository.scrub_report import Finding, ScrubProgress, ScrubReport

__all__ = ["Finding", "ScrubProgress", "ScrubReport", "Scrubber"]

_NEEDS_BATCH = 4096


class Scrubber:
    """One scrub of one repository."""

    def __init__(
        self, layout: Layout, index: Index | None, store: PointStore, repository_id: bytes, clock: Clock
    ) -> None:
        self._layout = layout
        self._store = store
        self._report = ScrubReport()
        self._packs = PackScrubber(layout, index, repository_id, clock, self._report)

    def run(self, on_progress: Callable[[ScrubProgress], None] | None, sample: float | None) -> ScrubReport:
        """Look at everything once and return the report."""
        self._check_format()
        self._check_strays()
        last_pack = self._packs.check_index_file()
        self._packs.check_packs(on_progress, sample, last_pack)
        self._packs.check_journal()
        self._check_points()
        self._check_slots()
        return self._report

    # -- one thing each ---------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        try:
            format_file.decode(self._layout.format.read_bytes())
        except (DamagedData, OSError) as error:
            self._report.hurt("format", str(error))

    def _check_points(self) -> None:
        for tenant in self._store.tenants():
            for job in self._store.jobs(tenant):
                for point_id in self._store.ids(tenant, job):
                    self._check_point(tenant, job, point_id)

    def _check_point(self, tenant: str, job: str, point_id: bytes) -> None:
        where = str(self._layout.point(tenant, job, point_id).relative_to(self._layout.root))
        self._report.points += 1
        try:
            ref = self._store.ref(tenant, job, point_id)
            self._report.bytes += ref.size
            lost = {chunk_id for domain, chunk_id in self._report.damaged_chunks if domain == ref.domain}
            missing = hit = 0
            batch: list[bytes] = []
            for chunk_id in self._store.read_needs(tenant, job, point_id):
                batch.append(chunk_id)
                hit += chunk_id in lost
                if len(batch) == _NEEDS_BATCH:
                    missing += self._missing(ref.domain, batch)
                    batch = []
            missing += self._missing(ref.domain, batch)
        except PointMissing:
            return
        except TransporterError as error:
            self._report.hurt(where, str(error))
            return
        if missing:
            self._report.hurt(where, f"{missing} chunks that it needs are not in the index")
        if hit:
            self._report.hurt(where, f"{hit} chunks that it needs are damaged")

    def _missing(self, domain: bytes, ids: list[bytes]) -> int:
        known = self._packs.ask(lambda index: index.keys_of(domain, ids))
        return 0 if known is None else sum(chunk_id not in known for chunk_id in ids)

    def _check_slots(self) -> None:
        for folder in _folders(self._layout.slots):
            if not ID_NAME.fullmatch(folder.name):
                continue
            for path in sorted(folder.iterdir()):
                if ID_NAME.fullmatch(path.name):
                    self._check_slot(bytes.fromhex(folder.name), bytes.fromhex(path.name))

    def _check_slot(self, point_id: bytes, slot_id: bytes) -> None:
        self._report.slots += 1
        path = self._layout.slot(point_id, slot_id)
        try:
            points.decode_slot(points.read_small(path, 2 * limits.SLOT_LENGTH), point_id, slot_id)
        except TransporterError as error:
            if path.exists():  # else it was put away meanwhile
                self._report.hurt(str(path.relative_to(self._layout.root)), str(error))

    def _check_strays(self) -> None:
        """Note what is not ours: it proves nothing, but whoever looks after the repository should know."""
        for path in sorted(self._layout.root.iterdir()):
            if path.name not in (*FOLDERS, "format", "quarantine"):
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
        self._report.note(str(path.relative_to(self._layout.root)), "not part of the repository")


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []

"""Scrub: prove every byte of a repository, without keys. It changes nothing.

What proves what: a pack's name proves the pack, a record's hash tells which chunks of a damaged pack are hit, a point and
a slot carry their own hash, the format file a checksum, a closed index a seal. The index is compared with the packs; it is
a cache, so what differs there can be repaired and is told apart from damage.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import format_file, limits, pack_file, points
from transporter.repository.errors import PointMissing
from transporter.repository.index import Index
from transporter.repository.layout import FOLDERS, ID_NAME, PACK_NAME, Layout, name_of
from transporter.repository.opening import check_seal
from transporter.repository.point_store import PointStore
from transporter.repository.reconcile import list_packs
from transporter.repository.record import HEADER_LENGTH, Entry, is_whole, parse_header

_NEEDS_BATCH = 4096
_T = TypeVar("_T")
_Id = bytes  # ScrubReport has a field of the type's name


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
    damaged_packs: list[_Id] = field(default_factory=list)
    damaged_chunks: list[tuple[_Id, _Id]] = field(default_factory=list)
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


def _put(into: list[_T], finding: _T) -> None:
    if len(into) < limits.REPORTED:
        into.append(finding)


class Scrubber:
    """One scrub of one repository."""

    def __init__(
        self, layout: Layout, index: Index | None, store: PointStore, repository_id: bytes, clock: Clock
    ) -> None:
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

    # -- one thing each ---------------------------------------------------------------------------------------------

    def _check_format(self) -> None:
        try:
            format_file.decode(self._layout.format.read_bytes())
        except (DamagedData, OSError) as error:
            self._report.hurt("format", str(error))

    def _check_index_file(self) -> int:
        """Look at the index's file by itself; return the number of its newest pack."""
        if self._index is None:
            self._repair("index", "there is no usable index")
            return 0
        try:
            for problem in filter(None, [check_seal(self._layout), *self._index.check()]):
                self._repair("index/chunks.db", problem)
            return self._index.last_pack()
        except (TransporterError, OSError) as error:
            self._repair("index/chunks.db", str(error))
            self._index = None
            return 0

    def _repair(self, where: str, what: str) -> None:
        _put(self._report.repairable, Finding(where, what))

    # -- packs ------------------------------------------------------------------------------------------------------

    def _check_packs(
        self, on_progress: Callable[[ScrubProgress], None] | None, sample: float | None, last_pack: int
    ) -> None:
        folders = [f"{number:02x}" for number in range(256)]
        total = sum(len(list_packs(self._layout, folder)) for folder in folders)
        done = 0
        for folder in folders:
            names = list_packs(self._layout, folder)
            self._compare_folder(folder, names)
            for name in names:
                if self._drawn(sample):
                    self._check_pack(name)
                done += 1
                if on_progress is not None:
                    on_progress(ScrubProgress(done, total, self._report.bytes))
        if sample is None and not self._report.damage_count and self._index is not None:
            self._compare_count(last_pack)

    def _drawn(self, sample: float | None) -> bool:
        return sample is None or int.from_bytes(self._clock.random_bytes(4), "big") < sample * 2**32

    def _compare_folder(self, folder: str, names: list[bytes]) -> None:
        if self._index is None:
            return
        known = self._guarded(lambda index: index.packs_of_folder(folder)) or []
        for name in sorted(set(known) - set(names)):
            if not self._layout.pack(name).exists():  # it may have been published since the folder was listed
                self._report.hurt(_pack_path(name), "the pack is gone")
                _put(self._report.damaged_packs, name)

    def _check_pack(self, name: bytes) -> None:
        path = self._layout.pack(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # removed since the folder was listed; the next scrub compares again
        except OSError as error:
            self._hurt_pack(name, f"cannot be read: {error.strerror}")
            return
        try:
            self._check_open_pack(fd, name)
        except OSError as error:
            self._hurt_pack(name, f"cannot be read: {error.strerror}")
        finally:
            os.close(fd)

    def _check_open_pack(self, fd: int, name: bytes) -> None:
        self._report.packs += 1
        self._report.bytes += os.fstat(fd).st_size
        if pack_file.hash_file(fd) != name:
            self._hurt_pack(name, "its bytes do not have the hash that is its name")
            self._find_damaged_records(fd)
            return
        try:
            header = pack_file.read_header(fd)
            entries = pack_file.read_footer(fd)
        except DamagedData as error:
            self._hurt_pack(name, str(error))
            return
        if header.repository_id != self._repository_id:
            self._hurt_pack(name, "it belongs to another repository")
            return
        self._report.records += len(entries)
        self._compare_entries(name, entries)

    def _hurt_pack(self, name: bytes, what: str) -> None:
        self._report.hurt(_pack_path(name), what)
        _put(self._report.damaged_packs, name)

    def _find_damaged_records(self, fd: int) -> None:
        """Name the chunks that a damaged pack took along: those whose records do not prove themselves."""
        try:
            entries = pack_file.read_footer(fd)
        except DamagedData:
            try:
                start = pack_file.read_header(fd).length
            except DamagedData:
                return
            entries = [entry for entry, whole in pack_file.walk_records(fd, start) if not whole]
        for entry in entries:
            raw = os.pread(fd, HEADER_LENGTH + entry.stored_length, entry.offset)
            if parse_header(raw, entry.offset) != entry or not is_whole(raw):
                _put(self._report.damaged_chunks, (entry.domain, entry.chunk_id))

    # -- index against packs ----------------------------------------------------------------------------------------

    def _guarded(self, ask: Callable[[Index], _T]) -> _T | None:
        """Ask the index; if it fails it is reported once and not asked again."""
        if self._index is None:
            return None
        try:
            return ask(self._index)
        except TransporterError as error:
            self._repair("index/chunks.db", str(error))
            self._index = None
            return None

    def _compare_entries(self, name: bytes, entries: list[Entry]) -> None:
        if self._index is None:
            return
        if not self._guarded(lambda index: index.knows_pack(name)):
            self._repair(_pack_path(name), "the index does not know this pack")
            return
        for domain in sorted({entry.domain for entry in entries}):
            mine = [entry for entry in entries if entry.domain == domain]
            for start in range(0, len(mine), limits.LOOKUP_BATCH):
                self._compare_batch(name, domain, mine[start : start + limits.LOOKUP_BATCH])

    def _compare_batch(self, name: bytes, domain: bytes, entries: list[Entry]) -> None:
        found = self._guarded(lambda index: index.locate(domain, [entry.chunk_id for entry in entries]))
        if found is None:
            return
        places = {(place.entry.chunk_id, place.entry.key_id): place for place in found}
        for entry in entries:
            place = places.get((entry.chunk_id, entry.key_id))
            if place is None:
                self._repair(_pack_path(name), f"the index lacks chunk {entry.chunk_id.hex()}")
            elif place.pack == name and place.entry.offset == entry.offset:
                if place.entry == entry:
                    self._confirmed += 1
                else:
                    self._repair(_pack_path(name), f"the index is wrong about chunk {entry.chunk_id.hex()}")

    def _compare_count(self, last_pack: int) -> None:
        """Find rows of the index that no pack confirms: each place is confirmed once, so the numbers must be equal."""
        counted = self._guarded(lambda index: index.count_chunks(last_pack))
        if counted is not None and counted > self._confirmed:
            self._repair("index/chunks.db", f"{counted - self._confirmed} chunks are not where the index says")

    # -- journal, points, slots, strays -----------------------------------------------------------------------------

    def _check_journal(self) -> None:
        """Look at packs that are being written, or were at a crash: a torn end is right, damage before it is not."""
        for path in sorted(self._layout.journal.glob("*.pack")):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                self._check_open_journal(fd, path)
            finally:
                os.close(fd)

    def _check_open_journal(self, fd: int, path: Path) -> None:
        where = f"journal/{path.name}"
        _put(self._report.notes, Finding(where, "a pack that is being written, or waits for salvage"))
        try:
            start = pack_file.read_header(fd).length
        except DamagedData:
            if os.fstat(fd).st_size > pack_file.LONGEST_HEADER:
                self._report.hurt(where, "its header is damaged")
            return
        for entry, whole in pack_file.walk_records(fd, start):
            end = entry.offset + HEADER_LENGTH + entry.stored_length
            if not whole and end < os.fstat(fd).st_size:
                self._report.hurt(where, f"the record of chunk {entry.chunk_id.hex()} is damaged")
                _put(self._report.damaged_chunks, (entry.domain, entry.chunk_id))

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
            missing = 0
            batch: list[bytes] = []
            for chunk_id in self._store.read_needs(tenant, job, point_id):
                batch.append(chunk_id)
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

    def _missing(self, domain: bytes, ids: list[bytes]) -> int:
        known = self._guarded(lambda index: index.keys_of(domain, ids))
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
        except FileNotFoundError:
            self._report.slots -= 1
        except TransporterError as error:
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
        _put(self._report.notes, Finding(str(path.relative_to(self._layout.root)), "not part of the repository"))


def _pack_path(name: bytes) -> str:
    return f"packs/{name.hex()[:2]}/{name.hex()}"


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []

"""Proving packs and journals, and comparing the index with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import limits, pack_file
from transporter.repository.index import Index
from transporter.repository.layout import PACK_FOLDER, Layout
from transporter.repository.opening import check_seal
from transporter.repository.reconcile import list_packs
from transporter.repository.record import HEADER_LENGTH, Entry, is_whole, parse_header
from transporter.repository.scrub_report import ScrubProgress, ScrubReport

_T = TypeVar("_T")


class PackScrubber:
    """The part of a scrub that looks at packs, journals and the index."""

    def __init__(
        self, layout: Layout, index: Index | None, repository_id: bytes, clock: Clock, report: ScrubReport
    ) -> None:
        self._layout = layout
        self._index = index
        self._repository_id = repository_id
        self._clock = clock
        self._report = report
        self._confirmed = 0

    def check_index_file(self) -> int:
        """Look at the index's file by itself; return the number of its newest pack."""
        if self._index is None:
            self._report.repair("index", "there is no usable index")
            return 0
        try:
            problems = list(filter(None, [check_seal(self._layout), *self._index.check()]))
            if not problems:
                return self._index.last_pack()
            for problem in problems:
                self._report.repair("index/chunks.db", problem)
            self._index = None  # what it says is no evidence against the packs
            return 0
        except (TransporterError, OSError) as error:
            self._report.repair("index/chunks.db", str(error))
            self._index = None
            return 0

    # -- packs ------------------------------------------------------------------------------------------------------

    def check_packs(
        self, on_progress: Callable[[ScrubProgress], None] | None, sample: float | None, last_pack: int
    ) -> None:
        """Prove all packs (or a share of them) and compare the index with each."""
        present = {path.name for path in self._layout.packs.iterdir() if PACK_FOLDER.fullmatch(path.name)}
        folders = sorted(present | set(self.ask(lambda index: index.pack_folders()) or ()))
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
        known = self.ask(lambda index: index.packs_of_folder(folder)) or []
        for name in sorted(set(known) - set(names)):
            if not self._layout.pack(name).exists():  # it may have been published since the folder was listed
                self._hurt_pack(name, "the pack is gone")

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
        self._report.lost_pack(name, _pack_path(name), what)

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
                self._report.lost_chunk(entry.domain, entry.chunk_id)

    # -- index against packs ----------------------------------------------------------------------------------------

    def ask(self, ask: Callable[[Index], _T]) -> _T | None:
        """Ask the index; if it fails it is reported once and not asked again."""
        if self._index is None:
            return None
        try:
            return ask(self._index)
        except TransporterError as error:
            self._report.repair("index/chunks.db", str(error))
            self._index = None
            return None

    def _compare_entries(self, name: bytes, entries: list[Entry]) -> None:
        if self._index is None:
            return
        if not self.ask(lambda index: index.knows_pack(name)):
            if self._index is None or self._being_published(name):
                return
            self._report.repair(_pack_path(name), "the index does not know this pack")
            return
        for domain in sorted({entry.domain for entry in entries}):
            mine = [entry for entry in entries if entry.domain == domain]
            for start in range(0, len(mine), limits.LOOKUP_BATCH):
                self._compare_batch(name, domain, mine[start : start + limits.LOOKUP_BATCH])

    def _being_published(self, name: bytes) -> bool:
        """Tell whether a writer is between linking the pack and entering it (the journal name goes last)."""
        try:
            linked = self._layout.pack(name).stat().st_nlink > 1
        except FileNotFoundError:
            linked = False
        return linked or bool(self.ask(lambda index: index.knows_pack(name)))

    def _compare_batch(self, name: bytes, domain: bytes, entries: list[Entry]) -> None:
        found = self.ask(lambda index: index.locate(domain, [entry.chunk_id for entry in entries]))
        if found is None:
            return
        places = {(place.entry.chunk_id, place.entry.key_id): place for place in found}
        for entry in entries:
            place = places.get((entry.chunk_id, entry.key_id))
            if place is None:
                self._report.repair(_pack_path(name), f"the index lacks chunk {entry.chunk_id.hex()}")
            elif place.pack == name and place.entry.offset == entry.offset:
                if place.entry == entry:
                    self._confirmed += 1
                else:
                    self._report.repair(_pack_path(name), f"the index is wrong about chunk {entry.chunk_id.hex()}")

    def _compare_count(self, last_pack: int) -> None:
        """Find rows of the index that no pack confirms: each place is confirmed once, so the numbers must be equal."""
        counted = self.ask(lambda index: index.count_chunks(last_pack))
        if counted is not None and counted > self._confirmed:
            self._report.repair("index/chunks.db", f"{counted - self._confirmed} chunks are not where the index says")

    # -- journal ----------------------------------------------------------------------------------------------------

    def check_journal(self) -> None:
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
        self._report.note(where, "a pack that is being written, or waits for salvage")
        try:
            start = pack_file.read_header(fd).length
        except DamagedData:
            if os.fstat(fd).st_size > pack_file.LONGEST_HEADER:
                self._report.hurt(where, "its header is damaged")
            return
        torn: list[Entry] = []
        for entry, whole in pack_file.walk_records(fd, start):
            if not whole:
                torn.append(entry)
                continue
            for damaged in torn:  # records are written in order: one that is not whole before one that is was so once
                self._report.hurt(where, f"the record of chunk {damaged.chunk_id.hex()} is damaged")
                self._report.lost_chunk(damaged.domain, damaged.chunk_id)
            torn.clear()


def _pack_path(name: bytes) -> str:
    return f"packs/{name.hex()[:2]}/{name.hex()}"

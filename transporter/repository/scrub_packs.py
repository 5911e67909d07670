"""Proving packs and journals, and comparing the index with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from transporter.errors import DamagedData, TransporterError
from transporter.repository import limits, pack_file
from transporter.repository.index import Index
from transporter.repository.layout import PACK_FOLDER, Layout
from transporter.repository.opening import check_seal
from transporter.repository.reconcile import list_packs
from transporter.repository.record import HEADER_LENGTH, Entry, is_whole, parse_header
from transporter.repository.scrub_report import ScrubReport

_T = TypeVar("_T")


@dataclass(slots=True)
class PackFindings:
    """What was found of one pack; ``confirmed``: places of the index that it has as the index says."""

    report: ScrubReport = field(default_factory=ScrubReport)
    confirmed: int = 0


class PackScrubber:
    """The part of a scrub that looks at packs, journals and the index."""

    def __init__(self, layout: Layout, index: Index | None, repository_id: bytes, report: ScrubReport) -> None:
        self._layout = layout
        self._index = index
        self._repository_id = repository_id
        self._report = report
        self._confirmed = 0
        self._missed: list[bytes] = []
        self.gone: list[bytes] = []
        """Packs that are not there any more."""

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

    def names(self, after: bytes, until: bytes) -> Iterator[bytes]:
        """Yield the names of packs in cyclic order: from behind ``after`` round to ``until``; compare what is known.

        The order is that in which they were proved last: see scrub_state.py.
        """
        present = {path.name for path in self._layout.packs.iterdir() if PACK_FOLDER.fullmatch(path.name)}
        folders = sorted(present | set(self.ask(lambda index: index.pack_folders()) or ()))
        wrapped = after >= until
        first, last = after[:1].hex(), until[:1].hex()
        for folder in [name for name in folders if name >= first and (wrapped or name <= last)]:
            yield from self._names_of_folder(folder, lambda name: name > after and (wrapped or name <= until))
        if wrapped:
            for folder in [name for name in folders if name <= last]:
                yield from self._names_of_folder(folder, lambda name: name <= until)

    def _names_of_folder(self, folder: str, wanted: Callable[[bytes], bool]) -> Iterator[bytes]:
        names = list_packs(self._layout, folder)
        self._compare_folder(folder, names)
        return filter(wanted, names)

    def count(self) -> tuple[int, int]:
        """Return how many packs there are, and their bytes (0: not known), by the index where there is one."""
        usage = self.ask(lambda index: index.usage())
        if usage is not None:
            return sum(tenant.packs for tenant in usage), sum(tenant.bytes for tenant in usage)
        present = [path.name for path in self._layout.packs.iterdir() if PACK_FOLDER.fullmatch(path.name)]
        return sum(len(list_packs(self._layout, folder)) for folder in present), 0

    def _compare_folder(self, folder: str, names: list[bytes]) -> None:
        if self._index is None:
            return
        known = self.ask(lambda index: index.packs_of_folder(folder)) or []
        for name in sorted(set(known) - set(names)):
            # It may have been published since the folder was listed; or a prune removed it.
            if not self._layout.pack(name).exists() and not self.ask(lambda index, name=name: index.is_removed(name)):  # type: ignore[misc]
                self._gone(name)

    def _gone(self, name: bytes) -> None:
        if len(self._missed) < limits.REPORTED:
            self._missed.append(name)
        else:
            self._name_gone(name)

    def _name_gone(self, name: bytes) -> None:
        self._report.lost_pack(name, _pack_path(name), "the pack is gone")
        self.gone.append(name)

    def look_again(self) -> None:
        """Name the packs that are gone, once whoever moved one meanwhile has told the index."""
        for name in self._missed:
            if not self._layout.pack(name).exists() and self.ask(lambda index: index.knows_pack(name)):  # noqa: B023
                self._name_gone(name)
        self._missed.clear()

    def check_pack(self, name: bytes, before_read: Callable[[int], None] | None = None) -> PackFindings:
        """Prove one pack and compare the index with it. Any thread; several at once."""
        found = PackFindings()
        path = self._layout.pack(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return found  # removed since the folder was listed; the next scrub compares again
        except OSError as error:
            return _hurt(found, name, f"cannot be read: {error.strerror}")
        try:
            self._check_open_pack(fd, name, found, before_read)
        except OSError as error:
            _hurt(found, name, f"cannot be read: {error.strerror}")
        finally:
            os.close(fd)
        return found

    def take(self, found: PackFindings) -> None:
        """Add what was found of a pack. One thread."""
        self._report.take(found.report)
        self._confirmed += found.confirmed

    def _check_open_pack(
        self, fd: int, name: bytes, found: PackFindings, before_read: Callable[[int], None] | None
    ) -> None:
        found.report.packs += 1
        found.report.bytes += os.fstat(fd).st_size
        if pack_file.hash_file(fd, before_read) != name:
            _hurt(found, name, "its bytes do not have the hash that is its name")
            _find_damaged_records(fd, found.report)
            return
        try:
            header = pack_file.read_header(fd)
            entries = pack_file.read_footer(fd)
        except DamagedData as error:
            _hurt(found, name, str(error))
            return
        if header.repository_id != self._repository_id:
            _hurt(found, name, "it belongs to another repository")
            return
        found.report.records += len(entries)
        self._compare_entries(name, entries, found)

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

    def _compare_entries(self, name: bytes, entries: list[Entry], found: PackFindings) -> None:
        if self._index is None:
            return
        if not self.ask(lambda index: index.knows_pack(name)):
            if self._index is None or self._being_published(name):
                return
            found.report.repair(_pack_path(name), "the index does not know this pack")
            return
        confirmed = self.ask(lambda index: index.confirmed(name, entries))
        if confirmed is None:
            return
        found.confirmed += confirmed[0]
        for domain in sorted({entry.domain for entry in confirmed[1]}):
            mine = [entry for entry in confirmed[1] if entry.domain == domain]
            for start in range(0, len(mine), limits.LOOKUP_BATCH):
                self._compare_batch(name, domain, mine[start : start + limits.LOOKUP_BATCH], found)

    def _being_published(self, name: bytes) -> bool:
        """Tell whether a writer is between linking the pack and entering it (the journal name goes last)."""
        try:
            linked = self._layout.pack(name).stat().st_nlink > 1
        except FileNotFoundError:
            linked = False
        return linked or bool(self.ask(lambda index: index.knows_pack(name)))

    def _compare_batch(self, name: bytes, domain: bytes, entries: list[Entry], found: PackFindings) -> None:
        located = self.ask(lambda index: index.locate(domain, [entry.chunk_id for entry in entries]))
        if located is None:
            return
        places = {(place.entry.chunk_id, place.entry.key_id): place for place in located}
        for entry in entries:
            place = places.get((entry.chunk_id, entry.key_id))
            if place is None:
                # What `prune` has chosen, or removed since, may have lost places.
                if self.ask(lambda index: index.is_whole(name)):
                    found.report.repair(_pack_path(name), f"the index lacks chunk {entry.chunk_id.hex()}")
            elif place.pack == name and place.entry.offset == entry.offset:
                if place.entry == entry:
                    found.confirmed += 1
                else:
                    found.report.repair(_pack_path(name), f"the index is wrong about chunk {entry.chunk_id.hex()}")

    def compare_count(self, last_pack: int) -> None:
        """Find rows of the index that no pack confirms: each place is confirmed once, so the numbers must be equal.

        After every pack was proved, none of them before this scrub.
        """
        if self._report.damage_count or self._index is None:
            return
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


def _hurt(found: PackFindings, name: bytes, what: str) -> PackFindings:
    found.report.lost_pack(name, _pack_path(name), what)
    return found


def _find_damaged_records(fd: int, report: ScrubReport) -> None:
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
            report.lost_chunk(entry.domain, entry.chunk_id)

"""A point as one stream of bytes: the content of one file, or a tar stream of a tree.

A plan takes entries in path order and returns what comes next: bytes, zeros, or a part of a chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from transporter.errors import DamagedData, JobFailed, UsageError
from transporter.workloads.entry import CONTINUATION, MORE, Entry
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.layout import lay_out
from transporter.workloads.restore_path import Step, Walk
from transporter.workloads.selection import Selection
from transporter.workloads.tar_header import END, header, padding

HELD_AT_MOST = 128 << 20
"""Bytes of extents and holes of one file that are held before its content can begin: a file of some 3 TB."""


class Part(NamedTuple):
    """``length`` bytes at ``chunk_offset`` of a chunk: those at ``offset`` of the file ``path``."""

    path: bytes
    offset: int
    chunk_id: bytes
    chunk_offset: int
    length: int


class Zeros(NamedTuple):
    """That many zeros."""

    length: int


Item = bytes | Part | Zeros


class _Plan:
    """Follows the entries, holds the records of the file that is under way, and checks everything as a restore does."""

    def __init__(self, roots: Sequence[bytes], selection: Selection) -> None:
        self.files = 0
        self._walk = Walk(roots, selection)
        self._selection = selection
        self._links = HardLinks()
        self._long: Entry | None = None
        self._records: list[Entry] = []
        self._held = 0
        self._name = b""
        self._wanted = False

    def take(self, entry: Entry) -> Iterable[Item]:
        """Take the next entry. Raises ``DamagedData``, ``UsageError``, ``JobFailed``."""
        before = self._long
        if entry.flags & CONTINUATION or before is not None:
            if before is None or not entry.flags & CONTINUATION or entry.path != before.path:
                raise DamagedData(f"The manifest breaks off within an entry near {entry.path[:200]!r}.")
            if self._wanted:
                self._hold(entry)
            else:
                self._links.skip_more(before, entry)
            self._long = before if entry.flags & MORE else None
            return [] if self._long is not None or not self._wanted else self._complete()
        return self._first(entry)

    def _first(self, entry: Entry) -> Iterable[Item]:
        self._walk.left(entry)
        name, included = self._walk.enter(entry)
        if entry.flags & MORE and entry.kind != "f":
            raise DamagedData(f"The manifest continues {entry.path[:200]!r}, which is no file.")
        self._wanted = False
        self._long = entry if entry.flags & MORE else None
        if entry.kind == "d":
            step = self._walk.down(entry, name, included)
            return self._folder(step) if included else []
        if not included:
            self._links.skip(entry)
            return []
        if entry.link:
            records = self._links.content_of(entry)
            if records is None:
                return self._further(entry, name)
            return self._file(records, name, entry.link)
        if entry.kind != "f":
            return self._other(entry, name)
        self._records, self._wanted = [], True
        self._hold(entry)
        self._name = name
        return [] if self._long is not None else self._complete()

    def _hold(self, entry: Entry) -> None:
        self._held = (self._held if self._records else 0) + len(entry.packed_extents) + len(entry.packed_holes)
        self._records.append(entry)
        if self._held > HELD_AT_MOST:
            raise JobFailed(f"{os.fsdecode(entry.path[:200])!r} is too long for a stream", "restore it to a folder")

    def _complete(self) -> Iterable[Item]:
        records, self._records = self._records, []
        return self._file(records, self._name, records[0].path)

    def end(self) -> Iterable[Item]:
        """Say that there are no more entries; return what is left. Raises ``DamagedData``, ``UsageError``."""
        if self._long is not None:
            raise DamagedData("The manifest ends within a file.")
        if not self._selection.met:
            raise UsageError("nothing in the restore point is what was asked for", "`transporter search` shows paths")
        return []

    def not_found(self) -> list[bytes]:
        """Return what was asked for and is not in the point."""
        return self._selection.not_found()

    def _folder(self, step: Step) -> Iterable[Item]:
        raise NotImplementedError

    def _file(self, records: list[Entry], name: bytes, link_path: bytes) -> Iterable[Item]:
        raise NotImplementedError

    def _further(self, entry: Entry, name: bytes) -> Iterable[Item]:
        raise NotImplementedError

    def _other(self, entry: Entry, name: bytes) -> Iterable[Item]:
        raise NotImplementedError


def content(records: list[Entry]) -> Iterator[Item]:
    """Yield the content of a file. Raises ``DamagedData``."""
    position = done = 0
    path, size = records[0].path, records[-1].size
    for record in records:
        runs, position = lay_out(record, position)
        for chunk_id, offset, chunk_offset, length in runs:
            if offset > done:
                yield Zeros(offset - done)
            yield Part(path, offset, chunk_id, chunk_offset, length)
            done = offset + length
    if size > done:
        yield Zeros(size - done)


class TarPlan(_Plan):
    """A tar stream of what is selected; paths as a restore to a folder would make them."""

    def __init__(self, roots: Sequence[bytes], selection: Selection) -> None:
        super().__init__(roots, selection)
        self._firsts: dict[bytes, tuple[bytes, int]] = {}

    def end(self) -> Iterable[Item]:
        """Return the end of the stream."""
        super().end()
        return [END]

    def _folder(self, step: Step) -> list[Item]:
        """Return the headers of a folder and of those above it that are not out yet."""
        steps = self._walk.steps
        items: list[Item] = []
        way: list[bytes] = []
        for each in steps[: steps.index(step) + 1]:
            way += [each.name] if each.name else []
            if not each.told:
                each.told = True
                items.append(header(b"/".join(way) + b"/" if way else b"./", each.entry))
        return items

    def _path(self, name: bytes) -> tuple[list[Item], bytes]:
        """Return the headers of folders that must come first, and the path of something in the present one."""
        step = self._walk.step
        if step is None:
            return [], name
        items = [] if step.told else self._folder(step)
        return items, b"/".join([each.name for each in self._walk.steps if each.name] + [name])

    def _file(self, records: list[Entry], name: bytes, link_path: bytes) -> Iterable[Item]:
        self.files += 1
        items, path = self._path(name)
        entry = records[0]
        entry.size = records[-1].size
        if entry.nlink > 1:
            self._firsts[link_path] = path, entry.nlink - 1
        return chain(items, [header(path, entry)], content(records), [padding(entry.size)])

    def _other(self, entry: Entry, name: bytes) -> Iterable[Item]:
        items, path = self._path(name)
        if entry.nlink > 1:
            self._firsts[entry.path] = path, entry.nlink - 1
        return [*items, header(path, entry)]

    def _further(self, entry: Entry, name: bytes) -> Iterable[Item]:
        known = self._firsts.pop(entry.link, None)
        if known is None:
            raise DamagedData(f"{entry.path[:200]!r} is a link to something that is not in the manifest.")
        if known[1] > 1:
            self._firsts[entry.link] = known[0], known[1] - 1
        self.files += entry.kind == "f"
        items, path = self._path(name)
        return [*items, header(path, entry, first=known[0])]


class FilePlan(_Plan):
    """The content of the one file that is selected; nothing is returned before it is known to be the only one."""

    def __init__(self, roots: Sequence[bytes], selection: Selection) -> None:
        super().__init__(roots, selection)
        self._found: list[Entry] = []

    def end(self) -> Iterable[Item]:
        """Return the content."""
        super().end()
        if not self._found:
            raise _not_one("what was asked for is no file")
        self.files = 1
        return content(self._found)

    def _file(self, records: list[Entry], name: bytes, link_path: bytes) -> Iterable[Item]:
        if self._found:
            raise _not_one("several files are what was asked for")
        self._found = records
        return []

    def _folder(self, step: Step) -> Iterable[Item]:
        return []

    def _other(self, entry: Entry, name: bytes) -> Iterable[Item]:
        return []

    def _further(self, entry: Entry, name: bytes) -> Iterable[Item]:
        raise _not_one("several files are what was asked for")


def _not_one(what: str) -> UsageError:
    return UsageError(what, "name one file (--include, or --files-from), or add --tar")

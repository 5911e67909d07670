"""Entries in, blocks of the file-system index out; made beside the manifest, from what is at hand there.

A block ends behind an entry whose path says so (a CRC of it, under the domain's seed, is small), or when it is full. So
the blocks of a part of the tree that did not change are the same in the next point, byte for byte, whatever came or
went elsewhere; they have the same chunk ids then, and are neither sent nor stored again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from zlib import crc32

from transporter.workloads.entry import CONTINUATION, MORE, Entry
from transporter.workloads.fsi import MAX_ENTRIES, PATHS_AT_LEAST, encode_block

USUAL_ENTRIES = 1024
"""Entries of a block on average: some 90 KiB, 15 packed. Fewer would make the head of a point long (38 bytes each),
more would send more for each file that changed."""
_ENDS_BELOW = (1 << 32) // USUAL_ENTRIES


def fsi_seed(id_of: Callable[[memoryview], bytes]) -> int:
    """Return what the borders of FSI blocks are drawn by: of the domain's key, so that they tell nothing outside it."""
    return int.from_bytes(id_of(memoryview(b"borders of the file-system index"))[:4], "big")


class WholeEntries:
    """Makes of the records of a manifest the entries that an index lists: one for each path, none with a NUL in it."""

    def __init__(self) -> None:
        # The first record of an entry of several: the last one's size counts, but only the first has a time.
        self._long: Entry | None = None

    def of(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries that are whole now."""
        if self._long is not None or any(entry.flags & (MORE | CONTINUATION) for entry in entries):
            entries = self._merged(entries)
        if b"\0" in b"".join([entry.path for entry in entries]):
            # No file system has such a name, and no restore could make it; a configuration can name a stream so.
            entries = [entry for entry in entries if b"\0" not in entry.path]
        return entries

    def _merged(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return one entry for each file, of all records that it is continued in."""
        whole = []
        for entry in entries:
            first = self._long if self._long is not None and entry.flags & CONTINUATION else entry
            if entry.flags & MORE:
                self._long = first
                continue
            self._long = None
            whole.append(Entry(first.path, first.kind, size=entry.size, mtime_ns=first.mtime_ns))
        return whole


class FsiBuilder:
    """Takes entries in path order. ``seed``: u32. One thread at a time. Memory: the entries of one unfinished block."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._paths: list[bytes] = []
        self._sizes: list[int] = []
        self._times: list[int] = []
        self._kinds: list[str] = []
        self._whole = WholeEntries()

    def add(self, entries: Sequence[Entry]) -> list[bytes]:
        """Take entries; return the blocks that are complete."""
        entries = self._whole.of(entries)
        paths = [entry.path for entry in entries]
        known = len(self._paths)
        self._paths += paths
        self._sizes += [entry.size for entry in entries]
        self._times += [entry.mtime_ns for entry in entries]
        self._kinds += [entry.kind for entry in entries]
        marks = enumerate(map(crc32, paths, repeat(self._seed)), known + 1)
        return self._cut([at for at, mark in marks if mark < _ENDS_BELOW])

    def finish(self) -> list[bytes]:
        """Return what is left: to be called once, after the last entry."""
        return self._cut([len(self._paths)] if self._paths else [])

    def _cut(self, ends: list[int]) -> list[bytes]:
        blocks = []
        start = 0
        for end in ends:
            while (full := self._full(start, end)) < end:
                blocks.append(self._block(start, full))
                start = full
            blocks.append(self._block(start, end))
            start = end
        total = len(self._paths)
        while (full := self._full(start, total + 1)) <= total:
            blocks.append(self._block(start, full))
            start = full
        for column in (self._paths, self._sizes, self._times, self._kinds):
            del column[:start]
        return blocks

    def _full(self, start: int, end: int) -> int:
        """Return where a block that begins at ``start`` is full, if that is before ``end``; else ``end``.

        Nothing but the entries of the block decides, least of all how they were handed in.
        """
        paths = self._paths
        if start + MAX_ENTRIES >= end and sum(map(len, paths[start:end])) < PATHS_AT_LEAST:
            return end
        length = 0
        for at in range(start, min(start + MAX_ENTRIES, len(paths), end)):
            length += len(paths[at])
            if length >= PATHS_AT_LEAST:
                return min(at + 1, end)
        return min(start + MAX_ENTRIES, end)

    def _block(self, start: int, end: int) -> bytes:
        part = slice(start, end)
        return encode_block(self._paths[part], self._sizes[part], self._times[part], self._kinds[part])

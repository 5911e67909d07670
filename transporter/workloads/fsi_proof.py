"""Does a file-system index list what the manifest has? Entry by entry: path, size, time of modification and type.

The index comes first, block by block, then the manifest, in any pieces. Both are in path order; so what they say is
compared as four columns, each hashed as it comes, and looked at wherever a block ends. Memory: 40 bytes for each block,
whose number the head of a point bounds, and none for an entry.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from blake3 import blake3

from transporter.workloads.entry import Entry
from transporter.workloads.fsi import FsiBlock
from transporter.workloads.fsi_builder import WholeEntries

_DIGEST = 32
_SHOWN = 200
"""Bytes of a path in a message: one may have a megabyte."""


class IndexProof:
    """See the head of the file. One thread at a time."""

    def __init__(self) -> None:
        self._listed, self._found = _Columns(), _Columns()
        self._ends = array("Q")
        self._digests = bytearray()
        self._whole = WholeEntries()
        self._block = 0
        self._first = b""
        self._beyond = 0
        self._differs = False

    def take_block(self, block: FsiBlock) -> None:
        """Take the next block of the index."""
        text = block.names
        self._listed.add(block.count, text, block.sizes(), block.times(), block.kinds())
        self._ends.append(self._listed.count)
        self._digests += self._listed.digest()

    def take_entries(self, entries: Sequence[Entry]) -> None:
        """Take the next records of the manifest, once all blocks are here."""
        rows = self._whole.of(entries)
        start = 0
        while start < len(rows) and not self._differs:
            if self._block == len(self._ends):
                self._first = self._first if self._beyond else rows[start].path
                self._beyond += len(rows) - start
                return
            if self._found.count == (self._ends[self._block - 1] if self._block else 0):
                self._first = rows[start].path
            some = rows[start : start + self._ends[self._block] - self._found.count]
            self._found.add_rows(some)
            start += len(some)
            if self._found.count == self._ends[self._block]:
                at = self._block * _DIGEST
                self._differs = self._found.digest() != self._digests[at : at + _DIGEST]
                self._block += 1

    def problem(self) -> str:
        """Return, behind the last entry, how they differ, for people; empty where they do not."""
        where = repr(self._first[:_SHOWN])
        if self._differs:
            return f"it lists something else than the manifest, at or soon after {where}"
        if self._beyond:
            return f"it lacks {self._beyond} entries of the manifest, from {where} on"
        if self._listed.count > self._found.count:
            return f"it lists {self._listed.count - self._found.count} entries more than the manifest has"
        return ""


class _Columns:
    """Entries, as one hash for each of their four columns."""

    def __init__(self) -> None:
        self.count = 0
        self._hashes = [blake3() for _ in range(4)]

    def add(self, count: int, paths: bytes, sizes: array[int], times: array[int], kinds: bytes) -> None:
        """Take entries: paths with a NUL behind each, u64, i64, a letter each."""
        self.count += count
        for one, data in zip(self._hashes, (paths, sizes.tobytes(), times.tobytes(), kinds), strict=True):
            one.update(data)

    def add_rows(self, rows: Sequence[Entry]) -> None:
        """Take entries; no path holds a NUL."""
        paths = b"".join([row.path + b"\0" for row in rows])
        sizes, times = array("Q", [row.size for row in rows]), array("q", [row.mtime_ns for row in rows])
        self.add(len(rows), paths, sizes, times, "".join([row.kind for row in rows]).encode())

    def digest(self) -> bytes:
        """Return the hash of all that came so far."""
        return blake3(b"".join([one.digest() for one in self._hashes])).digest(_DIGEST)

"""The ids of all chunks that restore points need, in bounded memory: first added in any order, then taken in key order.

Points of one job need nearly the same chunks in nearly the same order, so a needs table is cut into segments by content
(FastCDC on the raw ids, cuts rounded down to whole ids), and a segment that was seen before is skipped. Of new ones the
first 8 bytes of each id are kept: two ids that share them only keep a chunk that might have gone. They are sorted in
runs that fit into memory, and runs are merged as they are taken.
"""

from __future__ import annotations

import os
import sys
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Final

from blake3 import blake3
from pyfastcdc import FastCDC

from transporter.repository import limits
from transporter.repository.connections import damaged_index

ID_LENGTH: Final = 32
PREFIX_LENGTH: Final = 8
# 64 ids on average. Larger ones are skipped faster, smaller ones more often: a change costs the segment it is in.
_SEGMENT: Final = (512, 2048, 8192)
_BLOCK: Final = 2048


def prefixes_of(ids: Sequence[bytes]) -> Sequence[int]:
    """Return the first 8 bytes of each id as an integer. Raises DamagedIndex for what is none."""
    joined = b"".join(ids)
    if len(joined) != ID_LENGTH * len(ids):
        raise damaged_index()
    words = array("Q", joined)[:: ID_LENGTH // PREFIX_LENGTH]
    _in_key_order(words)
    return words


def _in_key_order(words: array[int]) -> None:
    if sys.byteorder == "little":
        words.byteswap()  # ids are compared as bytes: the first one counts most


class LiveIds:
    """A set of ids by their prefixes. Not thread-safe. ``folder``: where a file without a name may grow."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=str(folder))  # noqa: SIM115 - closed by close()
        self._end = 0
        self._cutter = FastCDC(min_size=_SEGMENT[0], avg_size=_SEGMENT[1], max_size=_SEGMENT[2])
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()
        self._filling = array("Q")
        # Runs of the same level have about the same length: merging them costs each id one turn for each level.
        self._levels: list[list[_Run]] = []
        self._taking: list[_Run] | None = None

    def add(self, ids: bytes) -> None:
        """Add a piece of a needs table: whole ids."""
        start = 0
        view = memoryview(ids)
        for piece in self._cutter.cut_buf(view) if ids else ():
            end = (piece.offset + piece.length) // ID_LENGTH * ID_LENGTH
            if end > start:
                self._add_segment(view[start:end])
                start = end

    def _add_segment(self, segment: memoryview) -> None:
        name = blake3(segment).digest(16)
        if name in self._seen or name in self._seen_before:
            return
        self._seen.add(name)
        if len(self._seen) >= limits.SEEN_SEGMENTS:
            self._seen, self._seen_before = set(), self._seen
        # The first 8 of each 32 bytes, by the processor's own integers: nothing here is done id by id.
        self._filling.frombytes(segment.cast("Q")[:: ID_LENGTH // PREFIX_LENGTH].tobytes())
        if len(self._filling) >= limits.SORTED_AT_ONCE:
            self._sort()

    def _sort(self) -> None:
        _in_key_order(self._filling)
        run = array("Q", sorted(set(self._filling)))
        self._filling = array("Q")
        self._put(0, self._write(run))

    def _put(self, level: int, run: _Run) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(run)
        if len(self._levels[level]) >= limits.MERGED_RUNS:
            runs, self._levels[level] = self._levels[level], []
            self._put(level + 1, self._merge(runs))

    def _merge(self, runs: list[_Run]) -> _Run:
        start, count, block = self._end, 0, array("Q")
        for prefix, _same in groupby(merge(*(run.all() for run in runs))):
            block.append(prefix)
            if len(block) == _BLOCK:
                count += self._write(block).left
                block = array("Q")
        count += self._write(block).left
        return _Run(self._file.fileno(), start, count)

    def _write(self, run: array[int]) -> _Run:
        offset = self._end
        raw = memoryview(run).cast("B")
        while raw:
            count = os.pwrite(self._file.fileno(), raw, self._end)
            raw = raw[count:]
            self._end += count
        return _Run(self._file.fileno(), offset, len(run))

    def take(self, upto: int) -> set[int]:
        """Return the prefixes up to ``upto`` (an integer of 8 bytes, big endian) that were not taken yet.

        Nothing can be added any more.
        """
        if self._taking is None:
            if self._filling:
                self._sort()
            self._taking = [run for level in self._levels for run in level]
        taken: set[int] = set()
        for run in self._taking:
            run.take(upto, taken)
        return taken

    def count_left(self) -> int:
        """Return how many prefixes were not taken."""
        self.take(-1)
        return sum(1 for _ in groupby(merge(*(run.all() for run in self._taking or ()))))

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def __enter__(self) -> LiveIds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run:
    """Sorted prefixes in the file, read block by block."""

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self._fd = fd
        self._offset = offset
        self.left = count
        self._block = array("Q")
        self._at = 0

    def _refill(self) -> bool:
        count = min(self.left, _BLOCK)
        self._block, self._at = array("Q"), 0
        if count:
            self._block.frombytes(os.pread(self._fd, count * PREFIX_LENGTH, self._offset))
            self._offset += count * PREFIX_LENGTH
            self.left -= count
        return bool(count)

    def take(self, upto: int, into: set[int]) -> None:
        """Move everything up to ``upto`` into a set."""
        while self._at < len(self._block) or self._refill():
            end = bisect_right(self._block, upto, self._at)
            into.update(self._block[self._at : end])
            self._at = end
            if end < len(self._block):
                return

    def all(self) -> Iterator[int]:
        """Yield everything that was not taken."""
        yield from self._block[self._at :]
        while self._refill():
            yield from self._block

"""Sorting more records than fit into memory: runs that do are sorted and written, and merged as they are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path

from transporter.repository import limits

# Records of a run that are read at once: some 70 KiB.
_BLOCK = 1024


class SortedRecords:
    """Records of ``width`` bytes each, in any order; then in byte order. Not thread-safe.

    ``folder``: where a file without a name may grow.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self._file = tempfile.TemporaryFile(dir=str(folder))  # noqa: SIM115 - closed by close()
        self._width = width
        self._end = 0
        self._filling: list[bytes] = []
        # Runs of one level have about the same length: merging them costs each record one turn for each level.
        self._levels: list[list[tuple[int, int]]] = []

    def add(self, records: Iterable[bytes]) -> None:
        """Add some; at most a few ten thousand at once."""
        self._filling += records
        if len(self._filling) >= limits.SORTED_AT_ONCE:
            self._sort()

    def _sort(self) -> None:
        records, self._filling = self._filling, []
        records.sort()
        self._put(0, self._write([records]))

    def _put(self, level: int, run: tuple[int, int]) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(run)
        if len(self._levels[level]) >= limits.MERGED_RUNS:
            runs, self._levels[level] = self._levels[level], []
            self._put(level + 1, self._write(_blocks(merge(*map(self._read, runs)))))

    def _write(self, blocks: Iterable[Sequence[bytes]]) -> tuple[int, int]:
        start = self._end
        for block in blocks:
            raw = memoryview(b"".join(block))
            while raw:
                count = os.pwrite(self._file.fileno(), raw, self._end)
                raw = raw[count:]
                self._end += count
        return start, self._end

    def _read(self, run: tuple[int, int]) -> Iterator[bytes]:
        at, end = run
        width = self._width
        while at < end:
            raw = os.pread(self._file.fileno(), min(_BLOCK * width, end - at), at)
            yield from (raw[start : start + width] for start in range(0, len(raw), width))
            at += len(raw)

    def blocks(self) -> Iterator[list[bytes]]:
        """Yield all records in order, some at once. Nothing can be added any more."""
        if self._filling:
            self._sort()
        yield from _blocks(merge(*(self._read(run) for level in self._levels for run in level)))

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def __enter__(self) -> SortedRecords:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _blocks(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for record in records:
        block.append(record)
        if len(block) == limits.PRUNE_BATCH:
            yield block
            block = []
    if block:
        yield block

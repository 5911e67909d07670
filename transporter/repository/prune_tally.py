"""Sums for each pack, in a file without a name: a repository of 1 PB has 16 million packs, and memory is bounded."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

LIVE, RIPE, WAITING, LEFT = range(4)
"""Bytes that points need; that may be deleted; that are doomed and wait. After deleting: places that are left."""
_COLUMNS = 4


class Tally:
    """A table of integers < 2⁶⁴, all 0: columns as above, a row for each pack number up to ``last``."""

    def __init__(self, folder: Path, last: int) -> None:
        self.last = last
        with tempfile.TemporaryFile(dir=str(folder)) as file:
            os.ftruncate(file.fileno(), (last + 1) * _COLUMNS * 8)
            self._map = mmap.mmap(file.fileno(), 0)
        self._sums = memoryview(self._map).cast("Q")

    def add(self, pack: int, column: int, count: int) -> None:
        """Add to a sum. Packs that came later have none."""
        if 0 < pack <= self.last:
            self._sums[pack * _COLUMNS + column] += count

    def of(self, pack: int, column: int) -> int:
        """Return a sum."""
        return self._sums[pack * _COLUMNS + column] if 0 < pack <= self.last else 0

    def close(self) -> None:
        """Give the room back."""
        self._sums.release()
        self._map.close()

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Lets the page cache go behind a long sequential write.

A restored image is not read soon, and filling ever new pages of the cache costs far more than the write itself
(measured for 1.3 GB on a virtual machine whose free memory goes back to its host: 3.6 s, against 0.9 s this way);
it also pushes out what other programs use.
"""

from __future__ import annotations

import os
from typing import Final

STEP: Final = 8 << 20
"""Bytes between two advices: some milliseconds of disk time, and calls too rare to count."""
LAG: Final = 32 << 20
"""How far behind pages are dropped. The first advice for a range starts its writing (it drops clean pages only), the
second, this much later, finds it written."""


class DropBehind:
    """For one file that is written about in order. Not exact, and need not be: advice only."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = STEP

    def wrote(self, fd: int, end: int) -> None:
        """Note that the file is written up to about ``end``."""
        while end >= self._next:
            start = self._next - STEP
            os.posix_fadvise(fd, start, STEP, os.POSIX_FADV_DONTNEED)
            if start >= LAG:
                os.posix_fadvise(fd, start - LAG, STEP, os.POSIX_FADV_DONTNEED)
            self._next += STEP

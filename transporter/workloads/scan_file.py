"""A file being read that does not fit one buffer, has holes, or was seen to change: the careful way of reading."""

from __future__ import annotations

import errno
import os
from array import array

from transporter.workloads.entry import CHANGED, UNTRUSTED
from transporter.workloads.pending import Pending

MAX_READ = 4 << 20
"""Bytes of one system call: more gains nothing, and a call cannot be cancelled."""


def data_ranges(fd: int, size: int) -> array[int]:
    """Return where a file has data: offset, length, offset, length… in bytes, in order, never past ``size``.

    Uses SEEK_DATA and SEEK_HOLE; a file system without them says "all data".
    """
    ranges = array("Q")
    position = 0
    try:
        while position < size:
            start = os.lseek(fd, position, os.SEEK_DATA)
            if start >= size:
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            if end <= start:
                break
            ranges.extend((start, end - start))
            position = end
    except OSError as error:
        if error.errno != errno.ENXIO:  # ENXIO: no data from here to the end
            return array("Q", (0, size))
    return ranges


def holes_between(ranges: array[int], size: int) -> array[int]:
    """Return the complement of data ranges within ``size`` bytes, in the same form."""
    holes = array("Q")
    position = 0
    for index in range(0, len(ranges), 2):
        start = ranges[index]
        if start > position:
            holes.extend((position, start - position))
        position = start + ranges[index + 1]
    if size > position:
        holes.extend((position, size - position))
    return holes


class FileReading:
    """Reads exactly the data ranges that were found when the file was opened; owns the descriptor.

    When the file turns out shorter, the entry's end and size are brought down to what was read, so that the entry
    agrees with itself; when anything of it changed meanwhile, it is flagged.
    """

    def __init__(self, fd: int, state: os.stat_result, pending: Pending, ranges: array[int] | None) -> None:
        self.fd = fd
        self.pending = pending
        self.error: OSError | None = None
        self._state = state
        self._ranges = ranges
        self._index = 0
        self._position = ranges[0] if ranges else 0
        self._left = ranges[1] if ranges else (0 if ranges is not None else state.st_size)
        self._total = 0
        self._short = False
        self.done = not self._left

    def fill(self, view: memoryview) -> int:
        """Read into ``view``; returns the bytes read. ``done`` says whether the file is at its end."""
        filled = 0
        while not self.done and filled < len(view):
            want = min(self._left, len(view) - filled, MAX_READ)
            got = self._read(view[filled : filled + want])
            if not got:
                self._cut()
                break
            filled += got
            self._advance(got)
        return filled

    def close(self) -> None:
        """Compare the file with what it was when it was opened, and close it.

        A shortened ``end`` is set last of all: whoever sees it may finish the entry at once, in another thread.
        """
        try:
            after = os.fstat(self.fd)
            before = self._state
            if (after.st_size, after.st_mtime_ns, after.st_ctime_ns) != (
                before.st_size,
                before.st_mtime_ns,
                before.st_ctime_ns,
            ):
                self.pending.flags |= CHANGED | UNTRUSTED
        finally:
            os.close(self.fd)
        if self._short:
            self.pending.end = self.pending.start + self._total

    def _read(self, view: memoryview) -> int:
        try:
            return os.preadv(self.fd, [view], self._position)
        except OSError as error:
            self.error = error
            return 0

    def _advance(self, count: int) -> None:
        self._position += count
        self._left -= count
        self._total += count
        if self._left:
            return
        self._index += 2
        if self._ranges is None or self._index >= len(self._ranges):
            self.done = True
        else:
            self._position = self._ranges[self._index]
            self._left = self._ranges[self._index + 1]

    def _cut(self) -> None:
        """The file ends (or cannot be read) before its data does: what has been read is the entry."""
        pending = self.pending
        self.done = self._short = True
        pending.size = self._position
        pending.flags |= CHANGED | UNTRUSTED
        if pending.holes:
            kept = [i for i in range(0, len(pending.holes), 2) if pending.holes[i] < self._position]
            pending.holes = array("Q", (value for i in kept for value in pending.holes[i : i + 2]))

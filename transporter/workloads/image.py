"""A disk image or block device: fixed blocks of 1 MiB, aligned to its start; holes and zero blocks never travel."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from transporter.errors import JobFailed, UsageError
from transporter.workloads.entry import (
    CONTINUATION,
    EXTENT,
    HOLE,
    MAX_RECORD_EXTENTS,
    MORE,
    PAGED,
    UNTRUSTED,
    Entry,
)
from transporter.workloads.notes import Note
from transporter.workloads.owners import OwnerNames

BLOCK_LENGTH = 1 << 20
"""Bytes of a block: aligned, so that a change touches one chunk and equal data finds itself again."""
_ZEROS = bytes(64 << 10)


class Block(NamedTuple):
    """``length`` bytes at ``offset`` of the image lie at ``at`` of the buffer."""

    offset: int
    length: int
    at: int


class ImageReader:
    """Reads the blocks that hold data, in order. One thread at a time.

    Raises ``UsageError`` when ``path`` is neither a file nor a block device. What lies between the blocks it
    returns reads as zeros.
    """

    def __init__(self, path: bytes | str) -> None:
        self.path = os.path.abspath(os.fsencode(path))
        self.roots = [self.path.lstrip(b"/")]
        self.finished = False
        self.bytes_read = 0
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"{os.fsdecode(self.path)!r} cannot be opened: {error.strerror}.") from error
        self._state = os.fstat(self._fd)
        if not (stat.S_ISREG(self._state.st_mode) or stat.S_ISBLK(self._state.st_mode)):
            self.close()
            raise UsageError(f"{os.fsdecode(self.path)!r} is neither a file nor a block device.")
        self.bytes_total = os.lseek(self._fd, 0, os.SEEK_END)
        self._position = 0  # a multiple of BLOCK_LENGTH, or the end
        self._data_end = 0  # up to where data is known to go on

    def next_blocks(self, buffer: memoryview) -> list[Block]:
        """Fill ``buffer`` (at least one block long) with blocks, one after the other; none at the end of the image.

        Raises ``JobFailed`` when the image cannot be read: an image with a gap is no image.
        """
        blocks: list[Block] = []
        at = 0
        while len(buffer) - at >= BLOCK_LENGTH and self._seek_data():
            length = min(BLOCK_LENGTH, self.bytes_total - self._position)
            view = buffer[at : at + length]
            self._read(view)
            if not is_zero(view):
                blocks.append(Block(self._position, length, at))
                at += length
            self._position += length
        self.bytes_read += at
        return blocks

    def entry(self) -> Entry:
        """Return the first record of the image's entry, without its extents."""
        state = self._state
        owners = OwnerNames()
        return Entry(
            self.roots[0], "f", PAGED | UNTRUSTED, self.bytes_total, state.st_mtime_ns, state.st_ctime_ns,
            state.st_dev, state.st_ino, state.st_mode & 0o777, state.st_uid, state.st_gid,
            owners.user(state.st_uid), owners.group(state.st_gid),
        )  # fmt: skip

    def take_notes(self) -> list[Note]:
        """Return a note if the image has changed since it was opened: to be asked for at the end."""
        now = os.fstat(self._fd) if self._fd >= 0 else self._state
        if (now.st_size, now.st_mtime_ns) == (self._state.st_size, self._state.st_mtime_ns):
            return []
        self._state = now
        return [Note("changed", self.roots[0], "changed while it was read", gap=False)]

    def close(self) -> None:
        """Close the image."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.finished = True

    def _seek_data(self) -> bool:
        """Move on to the next block with data in it; says whether there is one."""
        if self._position >= self.bytes_total:
            self.finished = True
            return False
        if self._position < self._data_end:
            return True
        try:
            start = os.lseek(self._fd, self._position, os.SEEK_DATA)
            self._data_end = os.lseek(self._fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here to the end
                start = self.bytes_total
            else:  # a device or file system that knows no holes
                start, self._data_end = self._position, self.bytes_total
        self._position = max(self._position, start - start % BLOCK_LENGTH)
        if start >= self.bytes_total:
            self._position = self.bytes_total
            self.finished = True
            return False
        return True

    def _read(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                got = os.preadv(self._fd, (view[done:],), self._position + done)
            except OSError as error:
                raise self._failed(self._position + done, error.strerror) from error
            if not got:
                raise self._failed(self._position + done, "it has become shorter")
            done += got

    def _failed(self, offset: int, reason: str | None) -> JobFailed:
        shown = os.fsdecode(self.path)
        return JobFailed(
            f"{shown!r} cannot be read at byte {offset}: {reason}.", "Repair it, or copy what is left of it."
        )


class ImageManifest:
    """Makes the records of an image's one entry from its blocks, in order."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._size = entry.size
        self._extents = bytearray()
        self._holes = bytearray()
        self._position = 0
        self._ready: list[Entry] = []

    def add(self, chunk_id: bytes, offset: int, length: int) -> None:
        """Say that the block at ``offset`` is that chunk. Blocks must come in order; what is left out is a hole."""
        if len(self._extents) >= MAX_RECORD_EXTENTS * EXTENT.size:
            self._close_record(MORE)
            self._entry = Entry(self._entry.path, "f", CONTINUATION | PAGED, self._size)
        self._hole_to(offset)
        self._extents += EXTENT.pack(chunk_id, 0, length)
        self._position += length

    def finish(self) -> None:
        """Close the last record: to be called once."""
        self._hole_to(self._size)
        self._close_record(0)

    def take_ready(self) -> list[Entry]:
        """Return the records made since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def _hole_to(self, offset: int) -> None:
        if offset < self._position:
            raise ValueError(f"a block at {offset}, after {self._position}")
        if offset > self._position:
            self._holes += HOLE.pack(self._position, offset - self._position)
            self._position = offset

    def _close_record(self, flags: int) -> None:
        entry = self._entry
        entry.flags |= flags
        entry.packed_extents, entry.packed_holes = bytes(self._extents), bytes(self._holes)
        self._extents.clear()
        self._holes.clear()
        self._ready.append(entry)


def is_zero(view: memoryview) -> bool:
    """Return whether all bytes are zero. Real data is told apart by a byte or two, without a look at the rest.

    The comparison copies 64 KiB at a time: comparing ``bytes`` runs at the speed of memory, comparing memoryviews
    does not.
    """
    length = len(view)
    if not length or view[0] or view[length // 2] or view[-1]:
        return not length
    for start in range(0, length, len(_ZEROS)):
        part = bytes(view[start : start + len(_ZEROS)])
        if part != (_ZEROS if len(part) == len(_ZEROS) else _ZEROS[: len(part)]):
            return False
    return True

"""A file that grows by records and is written past the page cache.

Why: a pack is written once and not read soon, and filling page-cache pages costs up to 2 s of processor time for each
GB (measured on a virtual machine whose memory was not yet touched), direct writes 0.1 s. So records are gathered in an
aligned buffer, and whole blocks of it go to the disk with O_DIRECT; the last, partial block stays in the buffer, and is
written padded with zeros whenever the file is flushed. The zeros end the records for whoever salvages the file.

Where a file system knows no O_DIRECT the same writes go through the page cache.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Final

from transporter.repository import files, limits

# Direct writes must be aligned to the device's blocks, in the file, in memory and in length: 4 KiB on today's devices.
BLOCK: Final = 4096
# A whole record, or a footer, and a partial block before it.
CAPACITY: Final = (limits.STORED_LENGTH + 4 * BLOCK) // BLOCK * BLOCK
# Large enough that direct writes cost next to nothing, small enough that a killed process loses little.
EAGER: Final = 1 << 20


class _Spare:
    """One buffer kept for the next pack: touching new memory is dear."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: mmap.mmap | None = None

    def take(self) -> mmap.mmap:
        with self._lock:
            kept, self._kept = self._kept, None
        return mmap.mmap(-1, CAPACITY) if kept is None else kept

    def give(self, buffer: mmap.mmap) -> None:
        with self._lock:
            self._kept = buffer  # (one kept before goes with its last reference)


_spare = _Spare()


class JournalFile:
    """An append-only file. Thread-safe; what was appended is in the file after `flush` and durable after `sync`."""

    def __init__(self, path: Path) -> None:
        self._fd = _create(path)
        self._reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # buffered: reads need not be aligned
        self._lock = threading.Lock()
        self._buffer = _spare.take()
        self._view = memoryview(self._buffer)
        self._start = 0  # where in the file the buffer begins: a multiple of BLOCK
        self._used = 0
        self._flushed = 0  # length at the last flush
        self.length = 0
        """Bytes appended: start + used, but whole at any moment, for those who look without the lock."""

    def append(self, *parts: bytes | memoryview, eager: bool = True) -> None:
        """Add ``parts`` (at most a record together). OSError leaves the file as it was.

        What is not ``eager`` stays in the buffer whole until it is flushed, so that it can be taken back.
        """
        total = sum(len(part) for part in parts)
        with self._lock:
            if self._used + total > CAPACITY:
                self._write(self._used // BLOCK * BLOCK)
            at = self._used
            for part in parts:
                self._view[at : at + len(part)] = part
                at += len(part)
            self._used = at
            self.length += total
            if eager and self._used >= EAGER:
                try:
                    self._write(self._used // BLOCK * BLOCK)
                except OSError:
                    self._used -= total
                    self.length -= total
                    raise

    def take_back(self, count: int) -> None:
        """Forget the last ``count`` bytes: appended, not eagerly, since the last `flush` that succeeded."""
        with self._lock:
            self._used -= count
            self.length -= count

    def flush(self) -> None:
        """Hand all that was appended to the disk. OSError: nothing is lost, try again."""
        with self._lock:
            if self._flushed == self.length:
                return
            end = -(-self._used // BLOCK) * BLOCK
            self._view[self._used : end] = bytes(end - self._used)
            self._write(end)
            self._flushed = self.length

    def _write(self, count: int) -> None:
        """Write the first ``count`` bytes of the buffer and keep what follows its last whole block."""
        if not count:
            return
        files.write_at(self._fd, self._view[:count], self._start)
        whole = min(count, self._used // BLOCK * BLOCK)
        rest = self._used - whole
        self._view[:rest] = self._view[whole : self._used]
        self._start += whole
        self._used = rest

    def sync(self) -> None:
        """Return once what was flushed is on the disk. Appending may go on meanwhile."""
        files.sync_data(self._fd)

    def end(self) -> None:
        """Cut the padding off and return once the file is on the disk."""
        files.truncate(self._fd, self.length)
        files.sync(self._fd)

    def cut(self, length: int) -> None:
        """Cut the file itself; nothing may be appended after."""
        files.truncate(self._fd, length)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that were appended, wherever they are by now."""
        with self._lock:
            before = max(0, min(length, self._start - offset))
            head = os.pread(self._reader, before, offset) if before else b""
            at = offset + before - self._start
            return head + bytes(self._view[at : at + length - before])

    def close(self) -> None:
        """Close; what was not flushed is gone."""
        with self._lock:
            os.close(self._fd)
            os.close(self._reader)
            self._view.release()
            _spare.give(self._buffer)


def _create(path: Path) -> int:
    try:
        return files.create(path, os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    files.discard(path)  # some systems create the file before they refuse the flag
    return files.create(path)

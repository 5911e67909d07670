"""Writing large restored images past the page cache.

Filling ever new pages of the cache costs processor time (2.6 s for 1.3 GB against 0.3 s, on a virtual machine), and
pushes out what other programs use. Only whole, aligned pages go this way; anything else takes the plain descriptor,
and where the file system refuses direct writes, all does.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from typing import Final

from transporter.workloads.sparse_write import PAGE, write_at

BUFFER: Final = 1 << 20
"""Bytes of a thread's aligned memory: one block of an image."""
_memory = threading.local()


def _aligned() -> mmap.mmap:
    """Return this thread's page-aligned memory: direct writes take no other."""
    buffer: mmap.mmap | None = getattr(_memory, "buffer", None)
    if buffer is None:
        buffer = _memory.buffer = mmap.mmap(-1, BUFFER)
    return buffer


class DirectWriter:
    """Writes to one file through a second, direct descriptor. Thread-safe; ``fd`` stays its owner's."""

    def __init__(self, name: bytes, folder: int, fd: int) -> None:
        self._fd = fd
        try:
            self._direct = os.open(name, os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            self._direct = -1  # tmpfs and others know no direct writes

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Raises ``OSError``."""
        whole = len(data) - len(data) % PAGE if self._direct >= 0 and offset % PAGE == 0 else 0
        done = 0
        while done < whole:
            count = min(BUFFER, whole - done)
            if not self._write_pages(data[done : done + count], offset + done):
                break
            done += count
        if done < len(data):
            write_at(self._fd, data[done:], offset + done)

    def _write_pages(self, pages: memoryview, offset: int) -> bool:
        """Write whole pages; False when they have to go the plain way after all.

        From where they are, if the device can take them from there (memory shared with a daemon is aligned), else from
        a copy that is aligned.
        """
        if self._accepted(pages, offset):
            return True
        buffer = _aligned()
        buffer[: len(pages)] = pages
        with memoryview(buffer) as view:
            return self._accepted(view[: len(pages)], offset)

    def _accepted(self, pages: memoryview, offset: int) -> bool:
        try:
            return os.pwrite(self._direct, pages, offset) == len(pages)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False  # memory that is not aligned, or blocks larger than our pages

    def close(self) -> None:
        """Close the direct descriptor."""
        if self._direct >= 0:
            os.close(self._direct)
            self._direct = -1

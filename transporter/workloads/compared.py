"""A file that is there already, and that a restored one is compared with, piece by piece.

Nothing is written to it. Pieces that it has already are not fetched where the chunk that they are out of can be put
together from what lies here: its id, a keyed hash, proves them. Once a piece differs a new file is made beside it, and
gets a copy of the ranges that were alike.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable

from blake3 import blake3

from transporter.workloads.entry import MAX_CHUNK_LENGTH
from transporter.workloads.folders import Folder, FolderCache
from transporter.workloads.image import is_zero
from transporter.workloads.restored import Group, Piece
from transporter.workloads.sparse_write import write_at

IdOf = Callable[[memoryview], bytes]
"""Names a chunk by its plain bytes: keyed BLAKE3 under the domain's key."""
COPY = 1 << 20


def chunk_id(key: bytes, data: memoryview) -> bytes:
    """Return the id of a chunk, as `ChunkIdKey.id_of` does."""
    return blake3(data, key=key).digest()


class Base:
    """The file that is there. ``same``: ranges (offset, length) found alike so far; ``lock`` guards them.

    ``own``: it is what an interrupted restore had begun, in the staging folder: pieces are written to itself.
    """

    __slots__ = ("folder", "lock", "name", "own", "same", "state")

    def __init__(self, folder: Folder, name: bytes, state: os.stat_result, *, own: bool) -> None:
        self.folder = folder
        self.name = name
        self.state = state
        self.own = own
        self.same: list[tuple[int, int]] = []
        self.lock = threading.RLock()

    def agrees(self, offset: int, length: int) -> None:
        """Note that a range is alike."""
        if self.same and sum(self.same[-1]) == offset:
            offset, before = self.same.pop()
            length += before
        self.same.append((offset, length))

    def unchanged(self, state: os.stat_result) -> bool:
        """Tell whether it still is what it was when it was looked at first."""
        return _stamp(state) == _stamp(self.state)


def _stamp(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


class BaseReader:
    """Opens bases one by one: there may be more of them than a process may have files open. ``lock``: the cache's."""

    def __init__(self, cache: FolderCache, lock: threading.RLock) -> None:
        self._cache = cache
        self._lock = lock

    def open(self, base: Base) -> int:
        """Return a descriptor, the caller's. Raises ``OSError``, also when another file is there now."""
        with self._lock:
            folder = self._cache.fd(base.folder)
            # O_NONBLOCK: a fifo that was put in its place must not hang us.
            fd = os.open(base.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or (state.st_dev, state.st_ino) != (base.state.st_dev, base.state.st_ino):
            os.close(fd)
            raise FileNotFoundError(2, "the file was replaced", base.name)
        return fd

    def read(self, base: Base, offset: int, view: memoryview) -> bool:
        """Fill ``view`` with what stands at ``offset``; False where that cannot be."""
        try:
            fd = self.open(base)
        except OSError:
            return False
        try:
            done = 0
            while done < len(view):
                got = os.preadv(fd, (view[done:],), offset + done)
                if not got:
                    return False
                done += got
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def unchanged(self, base: Base) -> bool:
        """Tell whether a base still is what it was."""
        try:
            fd = self.open(base)
        except OSError:
            return False
        try:
            return base.unchanged(os.fstat(fd))
        finally:
            os.close(fd)

    def zeros(self, base: Base, offset: int, length: int) -> bool:
        """Tell whether a range reads as zeros; what was never written is not read."""
        try:
            fd = self.open(base)
        except OSError:
            return False
        try:
            return _zeros(fd, offset, min(offset + length, base.state.st_size))
        except OSError:
            return False
        finally:
            os.close(fd)

    def copy_same(self, base: Base, to: int) -> None:
        """Copy the ranges that were alike to another file. Raises ``OSError``."""
        if not base.same:
            return
        fd = self.open(base)
        try:
            for offset, length in base.same:
                _copy(fd, to, offset, length)
        finally:
            os.close(fd)


def _zeros(fd: int, position: int, end: int) -> bool:
    while position < end:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return True  # no data from here on
        if position >= end:
            return True
        data = os.pread(fd, min(COPY, end - position), position)
        if not data or not is_zero(memoryview(data)):
            return not data
        position += len(data)
    return True


def _copy(source: int, target: int, offset: int, length: int) -> None:
    """Copy a range to the same place, within the file system where that can: then nothing is moved at all."""
    end = offset + length
    while offset < end:
        try:
            done = os.copy_file_range(source, target, min(end - offset, 1 << 30), offset, offset)
        except OSError:
            data = os.pread(source, min(COPY, end - offset), offset)
            write_at(target, memoryview(data), offset)
            done = len(data)
        if not done:
            raise OSError(5, "the file became shorter")
        offset += done


class Prover:
    """Puts chunks together from what lies here. For one thread."""

    def __init__(self, read: Callable[[Base, int, memoryview], bool], id_of: IdOf) -> None:
        self._fill = read
        self._id_of = id_of
        self._buffer = memoryview(bytearray(MAX_CHUNK_LENGTH))

    def prove(self, group: Group) -> memoryview | None:
        """Return the chunk of a group if all its pieces lie here and it is the one; good until the next call."""
        end = 0
        for piece in group.pieces:
            if piece.file.base is None or piece.file.failed or piece.chunk_offset > end:
                return None
            end = max(end, piece.chunk_offset + piece.length)
        for piece in group.pieces:
            if not self._read(piece):
                return None
        chunk = self._buffer[:end]
        return chunk if self._id_of(chunk) == group.chunk_id else None

    def _read(self, piece: Piece) -> bool:
        base = piece.file.base
        assert base is not None
        view = self._buffer[piece.chunk_offset : piece.chunk_offset + piece.length]
        return piece.file_offset + piece.length <= base.state.st_size and self._fill(base, piece.file_offset, view)

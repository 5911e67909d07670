"""Restores an image onto a block device: reads what is there, and writes only the blocks that differ.

A device has no second name under which something could be put together: what is killed half-way leaves it written in
part. The same restore again goes on, since blocks that are right by then are not fetched.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence

from transporter.errors import DamagedData, DiskFull, JobFailed, UsageError
from transporter.workloads.compared import IdOf
from transporter.workloads.entry import CONTINUATION, MAX_CHUNK_LENGTH, MORE, Entry
from transporter.workloads.image import is_zero
from transporter.workloads.layout import lay_out
from transporter.workloads.notes import LostRange, Note
from transporter.workloads.restore_files import content_of
from transporter.workloads.restore_path import Walk
from transporter.workloads.restored import Group, Piece, RestoredFile, StagedFolder
from transporter.workloads.selection import Selection
from transporter.workloads.sparse_write import write_at

STEP = 1 << 20
"""Bytes that are read or zeroed at once."""


def open_device(path: bytes) -> int:
    """Open a block device for writing, nobody else's. Raises ``UsageError``."""
    shown = os.fsdecode(path)
    try:
        if not stat.S_ISBLK(os.stat(path).st_mode):
            raise UsageError(f"{shown!r} is no block device.", "For a file: --output DIR.")
        # O_EXCL: the kernel refuses what is mounted, swapped to, or part of another device, and keeps others off it.
        fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(f"{shown!r} is in use.", "Unmount it, and stop what else uses it.") from error
        raise UsageError(f"{shown!r} cannot be opened for writing: {error.strerror}.") from error
    if not stat.S_ISBLK(os.fstat(fd).st_mode):  # it was replaced just now
        os.close(fd)
        raise UsageError(f"{shown!r} is no block device.", "For a file: --output DIR.")
    return fd


class DeviceWriter:
    """What ``TreeWriter`` is for a folder, with the same methods; groups may be written by several threads.

    ``open_it``: how the device is opened. Raises ``UsageError``, also when ``overwrite`` does not say that everything
    on the device may be lost.
    """

    resumed = False

    def __init__(
        self,
        device: bytes,
        roots: Sequence[bytes],
        id_of: IdOf,
        *,
        overwrite: bool,
        open_it: Callable[[bytes], int] = open_device,
    ) -> None:
        self._shown = os.fsdecode(device)
        self._fd = open_it(device)
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        if not overwrite:
            self.abort()
            raise UsageError(
                f"what is on {self._shown!r} ({self._size:,} bytes) would be overwritten.",
                "If it may: add --overwrite.",
            )
        self._id_of = id_of
        self._walk = Walk(roots, Selection())
        self._file: RestoredFile | None = None
        self._long = False
        self._position = 0
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(MAX_CHUNK_LENGTH))
        self._notes: list[Note] = []
        self._lost: list[LostRange] = []
        self.bytes_written = 0
        self.files = self.unchanged = self.damaged = 0

    def place(self, entries: Sequence[Entry]) -> list[Group]:
        """Compare the next records with what is there; return what is to be fetched. Raises ``DamagedData``."""
        groups: list[Group] = []
        for entry in entries:
            file = self._follow(entry)
            runs, self._position = lay_out(entry, self._position)
            for offset, length in entry.iter_holes():
                self._guarded(self._zero, offset, offset + length)
            for chunk_id, offset, chunk_offset, length in runs:
                piece = Piece(file, offset, chunk_offset, length)
                if not self._is_there(chunk_id, piece):
                    groups.append(Group(chunk_id, [piece]))
        return groups

    def _follow(self, entry: Entry) -> RestoredFile:
        """Check that entries are the records of one image that fits. Raises ``DamagedData``, ``UsageError``."""
        if self._file is None:
            self._walk.left(entry)
            self._walk.enter(entry)
            if entry.kind != "f" or entry.flags & CONTINUATION:
                raise UsageError("The restore point is no image.", "Restore it to a folder: --output DIR.")
            if entry.size > self._size:
                raise UsageError(
                    f"{self._shown!r} has {self._size:,} bytes, the image {entry.size:,}.", "Choose a larger device."
                )
            self._file = RestoredFile(StagedFolder(None, b"", None), b"", entry)
        elif not self._long:
            raise UsageError("The restore point is no single image.", "Restore it to a folder: --output DIR.")
        elif not entry.flags & CONTINUATION or entry.path != self._file.entry.path or entry.size > self._size:
            raise DamagedData(f"The manifest breaks off within an entry near {entry.path[:200]!r}.")
        self._long = bool(entry.flags & MORE)
        self._file.entry.size = entry.size
        return self._file

    def end(self) -> list[Group]:
        """Say that there are no more records. Raises ``DamagedData``."""
        if self._file is None or self._long:
            raise DamagedData("The manifest ends within a file.")
        return []

    def _is_there(self, chunk_id: bytes, piece: Piece) -> bool:
        """Tell whether the device has a chunk already where it belongs: then its id names what is read there."""
        if piece.chunk_offset:
            return False
        view = self._buffer[: piece.length]
        self._guarded(self._read, view, piece.file_offset)
        return self._id_of(view) == chunk_id

    def _read(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            got = os.preadv(self._fd, (view[done:],), offset + done)
            if not got:
                raise OSError(errno.EIO, "the device has become shorter")
            done += got

    def _zero(self, position: int, end: int) -> None:
        """Make a range read as zeros; what does already is not written."""
        if end > self._size:
            raise DamagedData("The holes of an image lie outside of it.")
        while position < end:
            view = self._buffer[: min(STEP, end - position)]
            self._read(view, position)
            if not is_zero(view):
                write_at(self._fd, memoryview(bytes(len(view))), position)
                with self._lock:
                    self.bytes_written += len(view)
            position += len(view)

    def write_group(self, group: Group, plaintext: memoryview) -> None:
        """Write one block. Raises ``DiskFull``, ``JobFailed``, ``DamagedData``."""
        for piece in group.pieces:
            self._guarded(write_at, self._fd, content_of(piece, plaintext), piece.file_offset)
            with self._lock:
                self.bytes_written += piece.length

    def skip_group(self, group: Group, reason: str) -> None:
        """Leave a block as it was: its chunk cannot be had."""
        with self._lock:
            for piece in group.pieces:
                if not self.damaged:
                    self.damaged = 1
                    text = f"written without some blocks, which are as they were: {reason}"
                    self._notes.append(Note("partial", piece.file.entry.path, text, gap=True))
                self._lost.append(LostRange(piece.file.entry.path, piece.file_offset, piece.length, reason))

    def finish(self) -> None:
        """Have everything on the disk. Raises ``JobFailed``."""
        self._guarded(os.fsync, self._fd)

    def publish(self) -> None:
        """Close the device: it has had its name all the time."""
        assert self._file is not None
        self.files = 1
        if self._file.entry.size < self._size:
            text = f"the device is larger: bytes from {self._file.entry.size:,} on are as they were"
            self._notes.append(Note("changed", self._file.entry.path, text, gap=False))
        self.abort()

    def abort(self, *, keep: bool = False) -> None:
        """Close the device. What is written is written."""
        del keep
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        with self._lock:
            taken, self._notes = self._notes, []
            return taken

    def take_lost(self) -> list[LostRange]:
        """Return the ranges that could not be had since the last call."""
        with self._lock:
            taken, self._lost = self._lost, []
            return taken

    def _guarded(self, call: Callable[..., object], /, *arguments: object) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # a thin device
                raise DiskFull(f"No room is left under {self._shown!r}.", "Free some, and run it again.") from error
            raise JobFailed(
                f"{self._shown!r} cannot be read or written: {error.strerror}; it is written in part.",
                "See the system's log; the same restore again goes on.",
            ) from error

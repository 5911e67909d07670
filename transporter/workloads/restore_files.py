"""Writes the contents of files in the staging folder, and finishes each as soon as its last byte is there."""

from __future__ import annotations

import os
from contextlib import suppress

from transporter.workloads.entry import PAGED
from transporter.workloads.restore_stage import NO_ROOM, Stage
from transporter.workloads.restored import Piece, RestoredFile
from transporter.workloads.sparse_write import write_at, write_pages

O_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileWriter:
    """Thread-safe: several threads may write pieces, also of one file."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lock = stage.lock
        self._open: set[RestoredFile] = set()

    def close(self) -> None:
        """Close what is open: for a restore that is given up. No thread may be writing any more."""
        with self._lock:
            for file in self._open:
                os.close(file.fd)
                file.fd = -1
            self._open.clear()

    def write(self, piece: Piece, data: memoryview) -> None:
        """Write one piece. Raises ``DiskFull``; a file that cannot be written for another reason is left out."""
        file = piece.file
        try:
            if file.left == piece.length and file.complete and file.fd < 0:
                self._write_whole(file, piece, data)
            else:
                self._write_part(file, piece, data)
        except OSError as error:
            if error.errno in NO_ROOM:
                self._stage.stop(error, file.entry)
            self.fail(file, error.strerror or str(error))

    def _write_whole(self, file: RestoredFile, piece: Piece, data: memoryview) -> None:
        """Make, write and finish a file with one piece left to write: no other thread knows of it."""
        with self._lock:
            # A handle of our own: creating a file takes the kernel longest, and must not keep the other threads
            # waiting for the lock; meanwhile the cache may close its handle of the folder.
            folder = os.dup(self._stage.cache.fd(file.folder))
        try:
            fd = os.open(file.name, O_CREATE, self._stage.metadata.creation_mode(file.entry), dir_fd=folder)
        finally:
            os.close(folder)
        file.created = True
        try:
            _write(file, fd, data, piece.file_offset)
            if file.sparse:
                os.ftruncate(fd, file.entry.size)
            self._stage.metadata.to_new_file(fd, file.entry)
        finally:
            os.close(fd)
        with self._lock:
            file.left = 0
            file.done = True
            self._stage.files += 1
            self._stage.bytes_written += len(data)
            self._stage.release(file.folder)

    def _write_part(self, file: RestoredFile, piece: Piece, data: memoryview) -> None:
        with self._lock:
            if file.failed:
                return
            if file.fd < 0:
                file.fd = self._create(file)
                self._open.add(file)
            file.busy += 1
        try:
            _write(file, file.fd, data, piece.file_offset)
        finally:
            with self._lock:
                file.busy -= 1
                file.left -= piece.length
                self._stage.bytes_written += len(data)
                last = not file.failed and file.complete and not file.left
                self._close_if_failed(file)
        if last:
            self._finish_file(file)

    def _create(self, file: RestoredFile) -> int:
        mode = self._stage.metadata.creation_mode(file.entry)
        fd = os.open(file.name, O_CREATE, mode, dir_fd=self._stage.cache.fd(file.folder))
        file.created = True
        return fd

    def finish_planned(self, file: RestoredFile) -> None:
        """Finish a file that has nothing (more) to be written, from the plan's thread."""
        try:
            if file.fd < 0:
                file.fd = self._create(file)
                self._open.add(file)
            self._finish_file(file)
        except OSError as error:
            if error.errno in NO_ROOM:
                self._stage.stop(error, file.entry)
            self.fail(file, error.strerror or str(error))

    def _finish_file(self, file: RestoredFile) -> None:
        """Set length and metadata of a file whose content is complete, and close it."""
        if file.sparse:
            os.ftruncate(file.fd, file.entry.size)
        self._stage.metadata.to_new_file(file.fd, file.entry)
        with self._lock:
            self._open.discard(file)
            os.close(file.fd)
            file.fd = -1
            file.done = True
            self._stage.files += 1
            self._stage.release(file.folder)

    def fail(self, file: RestoredFile, reason: str) -> None:
        """Leave a file out: a file that cannot be whole is not published at all."""
        with self._lock:
            if file.failed or file.done:
                return
            file.failed = True
            self._stage.note("not-restored", file.entry.path, reason, gap=True)
            if file.created:
                with suppress(OSError):
                    os.unlink(file.name, dir_fd=self._stage.cache.fd(file.folder))
            self._close_if_failed(file)
            self._stage.release(file.folder)

    def _close_if_failed(self, file: RestoredFile) -> None:
        if file.failed and not file.busy and file.fd >= 0:
            self._open.discard(file)
            os.close(file.fd)
            file.fd = -1


def _write(file: RestoredFile, fd: int, data: memoryview, offset: int) -> None:
    if file.entry.flags & PAGED:
        write_pages(fd, data, offset)
    else:
        write_at(fd, data, offset)
    if file.behind is not None:
        file.behind.wrote(fd, offset + len(data))

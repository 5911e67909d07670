"""Writes the contents of files in the staging folder, and finishes each as soon as its last byte is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from transporter.errors import DamagedData
from transporter.workloads.direct_write import DirectWriter
from transporter.workloads.drop_behind import STEP
from transporter.workloads.entry import PAGED
from transporter.workloads.restore_stage import NO_ROOM, Stage
from transporter.workloads.restored import Piece, RestoredFile
from transporter.workloads.sparse_write import write_at, write_pages

O_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def content_of(piece: Piece, plaintext: memoryview) -> memoryview:
    """Return the piece's bytes. Raises ``DamagedData`` when the chunk has fewer."""
    data = plaintext[piece.chunk_offset : piece.chunk_offset + piece.length]
    if len(data) != piece.length:
        raise DamagedData(f"A chunk is shorter than {piece.file.entry.path!r} says.")
    return data


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
                file.close()
            self._open.clear()

    def write(self, piece: Piece, data: memoryview) -> None:
        """Write one piece. Raises ``DiskFull``; a file that cannot be written for another reason is left out."""
        try:
            self._write_part(piece.file, piece, data)
        except OSError as error:
            self._failed(piece.file, error)

    def write_small(self, pieces: Sequence[Piece], plaintext: memoryview) -> None:
        """Write the pieces of a group, most of them whole files; what each small file of a restore costs is here.

        The lock is held throughout: taken anew for each file it costs more than it gives the other threads. With it,
        a folder's descriptor is good for as long as the files of that folder come.
        """
        with self._lock:
            for piece in pieces:
                file = piece.file
                if file.failed:
                    continue
                data = content_of(piece, plaintext)
                try:
                    if file.left == piece.length and file.complete and file.fd < 0 and not file.sparse:
                        self._write_whole(file, data)
                    else:
                        self._write_part(file, piece, data)
                except OSError as error:
                    self._failed(file, error)

    def _write_whole(self, file: RestoredFile, data: memoryview) -> None:
        """Make, write and finish a file with one piece left to write; no other thread knows of it."""
        metadata = self._stage.metadata
        folder = self._stage.cache.fd(file.folder)
        fd = os.open(file.name, O_CREATE, metadata.creation_mode(file.entry), dir_fd=folder)
        file.created = True
        try:
            written = os.pwrite(fd, data, 0)
            if written != len(data):
                write_at(fd, data[written:], written)
            metadata.to_new_file(fd, file.entry)
        finally:
            os.close(fd)
        file.left = 0
        file.done = True
        self._stage.files += 1
        self._stage.bytes_written += len(data)
        self._stage.release(file.folder)

    def _failed(self, file: RestoredFile, error: OSError) -> None:
        if error.errno in NO_ROOM:
            self._stage.stop(error, file.entry)
        self.fail(file, error.strerror or str(error))

    def _write_part(self, file: RestoredFile, piece: Piece, data: memoryview) -> None:
        with self._lock:
            if file.failed:
                return
            if file.fd < 0:
                self._create(file)
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

    def _create(self, file: RestoredFile) -> None:
        entry, folder = file.entry, self._stage.cache.fd(file.folder)
        file.fd = os.open(file.name, O_CREATE, self._stage.metadata.creation_mode(entry), dir_fd=folder)
        file.created = True
        self._open.add(file)
        if entry.flags & PAGED and entry.size > STEP:
            file.direct = DirectWriter(file.name, folder, file.fd)

    def finish_planned(self, file: RestoredFile) -> None:
        """Finish a file that has nothing (more) to be written, from the plan's thread."""
        try:
            if file.fd < 0:
                self._create(file)
            self._finish_file(file)
        except OSError as error:
            self._failed(file, error)

    def _finish_file(self, file: RestoredFile) -> None:
        """Set length and metadata of a file whose content is complete, and close it."""
        if file.sparse:
            os.ftruncate(file.fd, file.entry.size)
        self._stage.metadata.to_new_file(file.fd, file.entry)
        with self._lock:
            self._open.discard(file)
            file.close()
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
            file.close()


def _write(file: RestoredFile, fd: int, data: memoryview, offset: int) -> None:
    if file.direct is not None:
        write_pages(file.direct.write, data, offset)
        return
    if file.entry.flags & PAGED:
        write_pages(partial(write_at, fd), data, offset)
    else:
        write_at(fd, data, offset)
    if file.behind is not None:
        file.behind.wrote(fd, offset + len(data))

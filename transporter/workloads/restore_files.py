"""Writes the contents of files in the staging folder, and finishes each as soon as its last byte is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from transporter.errors import DamagedData
from transporter.workloads.direct_write import DirectWriter
from transporter.workloads.drop_behind import STEP
from transporter.workloads.entry import PAGED
from transporter.workloads.restore_names import MAX_NAME
from transporter.workloads.restore_stage import NO_ROOM, Stage
from transporter.workloads.restored import Piece, RestoredFile
from transporter.workloads.sparse_write import write_at, write_pages

O_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
PARTIAL = b".transporter-partial"
"""Behind the name of a file that was restored without some of its content."""
O_AGAIN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
        self.finish_compared: Callable[[RestoredFile], None] = self.finish_file

    def close(self) -> None:
        """Close what is open: for a restore that is given up. No thread may be writing any more."""
        with self._lock:
            for file in self._open:
                file.close()
            self._open.clear()

    def write(self, piece: Piece, data: memoryview) -> None:
        """Write one piece. Raises ``DiskFull``; a file that cannot be written for another reason is left out."""
        self.guarded(piece.file, self.write_part, piece.file, piece, data)

    def guarded(self, file: RestoredFile, call: Callable[..., None], /, *arguments: object) -> None:
        """Do something for a file; what the system refuses ends that file, or, without room, the restore."""
        try:
            call(*arguments)
        except OSError as error:
            self._failed(file, error)

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
                        self.write_part(file, piece, data)
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

    def write_part(self, file: RestoredFile, piece: Piece, data: memoryview) -> None:
        """Write one piece; the last one finishes the file. Raises ``OSError``."""
        with self._lock:
            if file.failed:
                return
            if file.fd < 0:
                self.create(file)
            file.busy += 1
        try:
            _write(file, file.fd, data, piece.file_offset)
        except BaseException:
            with self._lock:
                file.busy -= 1
                self._close_if_failed(file)
            raise
        with self._lock:
            file.busy -= 1
        self.written(file, piece.length, len(data))

    def written(self, file: RestoredFile, length: int, count: int) -> None:
        """Note that ``length`` bytes of a file are in place, ``count`` of them written now. Raises ``OSError``."""
        with self._lock:
            file.left -= length
            self._stage.bytes_written += count
            last = not file.failed and file.complete and not file.left
            self._close_if_failed(file)
        if last:
            self._finish(file)

    def create(self, file: RestoredFile) -> None:
        """Make and open a file, or open the one that an interrupted restore had begun. Raises ``OSError``."""
        with self._lock:
            entry, folder = file.entry, self._stage.cache.fd(file.folder)
            flags = O_CREATE if file.base is None or not file.base.own else O_AGAIN
            file.fd = os.open(file.name, flags, self._stage.metadata.creation_mode(entry), dir_fd=folder)
            file.created = True
            self._open.add(file)
            if entry.flags & PAGED and entry.size > STEP:
                file.direct = DirectWriter(file.name, folder, file.fd)

    def _finish(self, file: RestoredFile) -> None:
        if file.base is None:
            self.finish_file(file)
        else:
            self.finish_compared(file)

    def finish_planned(self, file: RestoredFile) -> None:
        """Finish a file that has nothing (more) to be written, from the plan's thread."""
        self.guarded(file, self._finish, file)

    def finish_file(self, file: RestoredFile) -> None:
        """Set length and metadata of a file whose content is complete, and close it. Raises ``OSError``."""
        if file.fd < 0:
            self.create(file)
        if file.sparse or file.base is not None:
            os.ftruncate(file.fd, file.entry.size)
        if file.base is not None and file.base.own:
            self._stage.metadata.to_existing(file.fd, file.entry)
        else:
            self._stage.metadata.to_new_file(file.fd, file.entry)
        with self._lock:
            self._open.discard(file)
            file.close()
            file.done = True
            if file.partial:
                self._rename_partial(file)
            self._stage.files += 1
            self._stage.release(file.folder)

    def lose(self, piece: Piece, reason: str, *, partial: bool) -> None:
        """Do without a piece: leave its file out, or let it have a hole there, and another name."""
        file = piece.file
        with self._lock:
            first, file.lost = not file.lost, True
            self._stage.damaged += first
        if not partial:
            self.fail(file, f"some of its content is lost: {reason}")
        elif not file.failed:
            file.partial = file.sparse = True
            self.guarded(file, self.written, file, piece.length, 0)

    def _rename_partial(self, file: RestoredFile) -> None:
        """Let nobody take a file with holes for the one that was backed up. Raises ``OSError``."""
        name = file.name[: MAX_NAME - len(PARTIAL)] + PARTIAL
        self._stage.clear(file.folder, name)
        fd = self._stage.cache.fd(file.folder)
        os.rename(file.name, name, src_dir_fd=fd, dst_dir_fd=fd)
        file.name = name
        self._stage.note("partial", file.entry.path, f"restored with holes, as {os.fsdecode(name)!r}", gap=True)

    def fail(self, file: RestoredFile, reason: str) -> None:
        """Leave a file out: a file that cannot be whole is not published at all."""
        with self._lock:
            if file.failed or file.done:
                return
            file.failed = True
            self._stage.note("not-restored", file.entry.path, reason, gap=True)
            if file.created or (file.base is not None and file.base.own):
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

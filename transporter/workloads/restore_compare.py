"""Files of a restore that are compared with what is there already: kept, or put together out of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from transporter.workloads.compared import Base, BaseReader, IdOf, Prover
from transporter.workloads.in_place import InPlace
from transporter.workloads.restore_files import FileWriter
from transporter.workloads.restore_stage import Stage
from transporter.workloads.restored import Group, Piece, RestoredFile
from transporter.workloads.sparse_write import write_at

ZEROS = bytes(64 << 10)


class Comparing:
    """Takes the pieces of files that have a ``base``. Threads as for `FileWriter`; ``settle`` from the plan's.

    Locks are taken in this order: a base's, then the stage's.
    """

    def __init__(self, stage: Stage, files: FileWriter, in_place: InPlace | None, id_of: IdOf | None) -> None:
        self._stage = stage
        self._files = files
        self._in_place = in_place
        self._own = BaseReader(stage.cache, stage.lock)
        self._there = BaseReader(in_place.cache, stage.lock) if in_place is not None else self._own
        self._prover = Prover(self._read, id_of) if id_of is not None else None
        files.finish_compared = self.finish
        # What to do with a file that differs; a dry run does something else.
        self.differs: Callable[[RestoredFile], None] = self._diverge

    def begin(self, file: RestoredFile, base: Base) -> None:
        """Compare a file, whose first record is laid out next, with what is there."""
        file.base = base
        if not base.own and base.state.st_size != file.entry.size:
            self._files.guarded(file, self.differs, file)

    def holes(self, file: RestoredFile, holes: Iterable[tuple[int, int]]) -> None:
        """Compare the holes of one record: what is there must read as zeros."""
        base = file.base
        if base is None or (file.fd >= 0 and not base.own):
            return
        for offset, length in holes:
            if self._reader(base).zeros(base, offset, length):
                continue
            if not base.own:
                self._files.guarded(file, self.differs, file)
                return
            self._files.guarded(file, self._clear, file, offset, min(offset + length, base.state.st_size))

    def settle(self, group: Group) -> bool:
        """Tell whether a group need not be fetched: everything it is for is there already."""
        if self._prover is None:
            return False
        chunk = self._prover.prove(group)
        if chunk is None:
            return False
        for piece in group.pieces:
            data = chunk[piece.chunk_offset : piece.chunk_offset + piece.length]
            self._files.guarded(piece.file, self._agree, piece, data)
        return True

    def take(self, piece: Piece, data: memoryview) -> None:
        """Compare a piece of a chunk that was fetched."""
        self._files.guarded(piece.file, self._take, piece, data)

    def finish(self, file: RestoredFile) -> None:
        """Finish a file whose content is complete: keep what is there, or what was made. Raises ``OSError``."""
        base = file.base
        assert base is not None
        if base.own:
            self._files.finish_file(file)
        elif not self._there.unchanged(base):
            self._files.fail(file, "it was changed while it was compared: run it again")
        elif file.fd < 0 and base.state.st_size == file.entry.size and not file.partial:
            self._keep(file, base)
        else:
            if file.fd < 0:
                self.differs(file)
            if not file.failed:
                self._files.finish_file(file)

    def _keep(self, file: RestoredFile, base: Base) -> None:
        assert self._in_place is not None
        with self._stage.lock:
            file.done = True
            file.kept = base.folder, base.name
            self._stage.files += 1
            self._in_place.kept(base.folder, base.name, base.state, file.entry)
            self._stage.release(file.folder)

    def _read(self, base: Base, offset: int, view: memoryview) -> bool:
        return self._reader(base).read(base, offset, view)

    def _reader(self, base: Base) -> BaseReader:
        return self._own if base.own else self._there

    def _take(self, piece: Piece, data: memoryview) -> None:
        base = piece.file.base
        assert base is not None
        here = bytearray(len(data))
        if self._read(base, piece.file_offset, memoryview(here)) and here == data:
            self._agree(piece, data)
            return
        with base.lock:
            if piece.file.fd < 0 and not base.own and not piece.file.failed:
                self.differs(piece.file)
        self._files.write_part(piece.file, piece, data)

    def _agree(self, piece: Piece, data: memoryview) -> None:
        base = piece.file.base
        assert base is not None
        with base.lock:
            if piece.file.fd < 0 or base.own:
                base.agrees(piece.file_offset, piece.length)
                self._files.written(piece.file, piece.length, 0)
                return
        self._files.write_part(piece.file, piece, data)

    def _diverge(self, file: RestoredFile) -> None:
        """Make the new file, and give it what was alike so far."""
        assert file.base is not None
        self._files.create(file)
        self._there.copy_same(file.base, file.fd)

    def _clear(self, file: RestoredFile, position: int, end: int) -> None:
        """Write zeros where a file that an interrupted restore had begun shall have a hole and has something else."""
        if file.fd < 0:
            self._files.create(file)
        while position < end:
            part = min(len(ZEROS), end - position)
            write_at(file.fd, memoryview(ZEROS)[:part], position)
            position += part

"""Where the bytes of a file lie, from any offset on. Of a file of any length one record's worth of it is in memory."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from transporter.workloads.layout import Run, lay_out
from transporter.workloads.tree_index import TreeIndex


class FilePiece(NamedTuple):
    """``length`` bytes at ``offset`` of a chunk; ``chunk_id`` empty: of zeros."""

    chunk_id: bytes
    offset: int
    length: int


class FileMap:
    """The map of one file. ``number``: of its first name in the tree. Not thread-safe."""

    def __init__(self, tree: TreeIndex, number: int) -> None:
        self._tree = tree
        entry = tree.entry(number)
        self.size = entry.size
        self._places = tree.places(number)
        self._laid = -1
        self._runs: list[Run] = []
        if self._places is None:
            self._runs, self._end = lay_out(entry, 0)
            self._begin = 0
        else:
            self._starts = [place[0] for place in self._places]
            self._lay(0)

    def _lay(self, record: int) -> None:
        assert self._places is not None
        if record != self._laid:
            self._begin, offset, length = self._places[record]
            self._runs, self._end = lay_out(self._tree.record_at(offset, length), self._begin)
            self._laid = record

    def pieces(self, offset: int, length: int) -> list[FilePiece]:
        """Return what makes up ``length`` bytes at ``offset``, in order; less where the file ends."""
        pieces: list[FilePiece] = []
        stop = min(offset + length, self.size)
        while offset < stop:
            if self._places is not None:
                self._lay(bisect_right(self._starts, offset) - 1)
            end = min(stop, self._end)
            self._collect(offset, end, pieces)
            if end <= offset:
                break  # a file that became shorter while its records left: what was said of it last counts
            offset = end
        return pieces

    def _collect(self, offset: int, end: int, pieces: list[FilePiece]) -> None:
        runs = self._runs
        at = max(bisect_right(runs, offset, key=_offset_of) - 1, 0)
        while offset < end:
            if at < len(runs):
                chunk_id, begin, inside, long = runs[at]
                if offset < begin:
                    stop = min(begin, end)
                    pieces.append(FilePiece(b"", 0, stop - offset))
                    offset = stop
                    continue
                if offset < begin + long:
                    stop = min(begin + long, end)
                    pieces.append(FilePiece(chunk_id, inside + offset - begin, stop - offset))
                    offset = stop
                at += 1
            else:
                pieces.append(FilePiece(b"", 0, end - offset))
                offset = end


def _offset_of(run: Run) -> int:
    return run[1]

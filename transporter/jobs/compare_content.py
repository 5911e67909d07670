"""Two files of two points, compared by what is in them: chunk by chunk, up to the first difference."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from transporter.errors import DamagedData
from transporter.jobs.fetch import Wanted
from transporter.jobs.recovery import Recovery, wait_for
from transporter.workloads.file_map import FileMap, FilePiece

# Pieces (of at most a chunk) that are asked for ahead.
AHEAD = 6
# Bytes of a file whose pieces are looked up together.
STRETCH = 256 << 20


@dataclass(frozen=True)
class _Side:
    piece: FilePiece
    recovery: Recovery
    wanted: Wanted | None

    async def content(self) -> bytes:
        if self.wanted is None:
            return bytes(self.piece.length)
        plain = await wait_for(self.wanted)
        end = self.piece.offset + self.piece.length
        if end > len(plain):
            raise DamagedData("a file goes on behind the end of a chunk", "run verify; restore another point")
        return bytes(plain[self.piece.offset : end])  # two memoryviews are compared byte by byte

    def done(self) -> None:
        if self.wanted is not None:
            self.recovery.content.done(self.wanted)


async def same_content(old: Recovery, old_map: FileMap, new: Recovery, new_map: FileMap, *, same_names: bool) -> bool:
    """Tell whether two files of one size have the same content. ``same_names``: equal chunk ids mean equal chunks.

    Raises DamagedData where a chunk cannot be had.
    """
    waiting: deque[tuple[_Side, _Side]] = deque()

    async def next_is_same() -> bool:
        left, right = waiting.popleft()
        try:
            return await left.content() == await right.content()
        finally:
            left.done()
            right.done()

    try:
        for left, right in _doubtful(old_map, new_map, same_names=same_names):
            waiting.append((await _side(old, left), await _side(new, right)))
            if len(waiting) >= AHEAD and not await next_is_same():
                return False
        while waiting:
            if not await next_is_same():
                return False
    finally:
        for left_side, right_side in waiting:
            left_side.done()
            right_side.done()
    return True


async def _side(recovery: Recovery, piece: FilePiece) -> _Side:
    if not piece.chunk_id:
        return _Side(piece, recovery, None)
    wanted = await recovery.content.want(piece.chunk_id, piece.offset + piece.length)
    return _Side(piece, recovery, wanted)


def _doubtful(old: FileMap, new: FileMap, *, same_names: bool) -> Iterator[tuple[FilePiece, FilePiece]]:
    """Yield pieces of both files, cut alike, of which where they lie does not say that they are the same."""
    for left, right in _alike(_pieces(old), _pieces(new)):
        if left == right and (same_names or not left.chunk_id):
            continue
        yield left, right


def _pieces(file: FileMap) -> Iterator[FilePiece]:
    for at in range(0, file.size, STRETCH):
        yield from file.pieces(at, STRETCH)


def _alike(left: Iterator[FilePiece], right: Iterator[FilePiece]) -> Iterator[tuple[FilePiece, FilePiece]]:
    """Cut two rows of pieces at each other's borders."""
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        length = min(one.length, other.length)
        yield one._replace(length=length), other._replace(length=length)
        one = _rest(one, length) or next(left, None)
        other = _rest(other, length) or next(right, None)


def _rest(piece: FilePiece, taken: int) -> FilePiece | None:
    if taken == piece.length:
        return None
    return FilePiece(piece.chunk_id, piece.offset + taken if piece.chunk_id else 0, piece.length - taken)

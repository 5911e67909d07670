"""Chunks in pieces: cut on one side, put together on the other. Sans-IO.

On a long line the connections of a session differ in speed, from moment to moment, by the factor of ten. A chunk that
lies on a slow one holds up the end of a backup, and everything behind it in a restore; its pieces go over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.frame import Buffer
from protocol.messages import Chunk, Piece

# Chunks of which some pieces have come and some have not, in bytes: what a peer can make this side hold.
# A backup has 16 MiB under way, and one chunk more at the most.
BACKUP_AT_MOST: Final = 24 * limits.MIB
# A recovery asks ahead for 22 MiB of what it takes for ordinary chunks; the longest are three times as long.
RECOVERY_AT_MOST: Final = 96 * limits.MIB


class Cutter:
    """A stored chunk, from the front of which pieces are cut. Its memory may not change meanwhile."""

    def __init__(self, header: Chunk, stored: Buffer) -> None:
        self._header = header
        self._stored = memoryview(stored)
        self._index = 0
        self._steps = _steps(len(self._stored))

    @property
    def empty(self) -> bool:
        """Whether all of it has been cut off."""
        return self._index >= self._steps

    def cut(self, steps: int = 1) -> tuple[Piece, memoryview]:
        """Return the next piece and its bytes: ``steps`` × PIECE of them (1 to MAX_PIECE / PIECE), or all that is left.

        An empty chunk has one piece without bytes. Not to be called once the chunk is empty.
        """
        header, index = self._header, self._index
        piece = Piece(
            id=header.id,
            codec=header.codec,
            plain_length=header.plain_length,
            length=len(self._stored),
            index=index,
            flags=header.flags,
        )
        self._index += steps
        return piece, self._stored[index * limits.PIECE : self._index * limits.PIECE]


def _steps(length: int) -> int:
    return max(1, -(-length // limits.PIECE))


@dataclass
class _Open:
    """A chunk of which pieces have come. ``missing``: numbers of the steps that have not."""

    first: Piece
    memory: bytearray = field(repr=False)
    missing: set[int] = field(default_factory=set)


class Assembler:
    """Puts the chunks of one session together from their pieces; ``most``: bytes of those that are not whole yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[bytes, _Open] = {}
        self._held = 0

    def add(self, piece: Piece, payload: memoryview) -> tuple[Chunk, memoryview] | None:
        """Take in a piece; return the chunk and its stored bytes when it is whole. Raises RemoteProtocolError."""
        open_chunk = self._open.get(piece.id) or self._begin(piece)
        first = open_chunk.first
        if (piece.codec, piece.plain_length, piece.length, piece.flags) != (
            first.codec,
            first.plain_length,
            first.length,
            first.flags,
        ):
            raise RemoteProtocolError("the pieces of a chunk do not belong together")
        start = piece.index * limits.PIECE
        end = start + len(payload)
        steps = range(piece.index, piece.index + _steps(len(payload)))
        fits = end == piece.length or (end < piece.length and len(payload) and len(payload) % limits.PIECE == 0)
        if not fits or not open_chunk.missing.issuperset(steps):
            raise RemoteProtocolError("a piece of a chunk came twice, or has a wrong length or place")
        open_chunk.memory[start:end] = payload
        open_chunk.missing.difference_update(steps)
        if open_chunk.missing:
            return None
        del self._open[piece.id]
        self._held -= first.length
        header = Chunk(id=first.id, codec=first.codec, plain_length=first.plain_length, flags=first.flags)
        return header, memoryview(open_chunk.memory)

    def _begin(self, piece: Piece) -> _Open:
        if piece.length > limits.MAX_CHUNK_PAYLOAD:
            raise RemoteProtocolError(f"a chunk of {piece.length} bytes in pieces")
        if self._held + piece.length > self._most:
            raise RemoteProtocolError("too many chunks were begun in pieces and not finished")
        self._held += piece.length
        begun = self._open[piece.id] = _Open(piece, bytearray(piece.length), set(range(_steps(piece.length))))
        return begun

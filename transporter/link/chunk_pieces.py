"""Chunks of a session in pieces: those that go out, over whatever channel is free, and those that come in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import trio

from protocol.data import Event
from protocol.errors import RemoteProtocolError
from protocol.frame import Buffer
from protocol.messages import Chunk, Piece
from protocol.pieces import Assembler, pieces_of
from transporter.errors import RefusedByPeer


class PieceQueue:
    """Cuts what ``next_chunk`` returns: a chunk's header and its stored bytes."""

    def __init__(self, next_chunk: Callable[[], Awaitable[tuple[Chunk, Buffer]]]) -> None:
        self._next_chunk = next_chunk
        self._pieces: Iterator[tuple[Piece, memoryview]] = iter(())
        # One channel waits for the next chunk, the others for that one.
        self._taking = trio.Lock()

    async def next(self) -> tuple[Piece, memoryview]:
        """Return the next piece."""
        async with self._taking:
            while (piece := next(self._pieces, None)) is None:
                self._pieces = pieces_of(*await self._next_chunk())
            return piece


class IncomingChunks:
    """Chunks as they come on any data channel of a session."""

    def __init__(self, peer: str) -> None:
        self._assembler = Assembler()
        self._peer = peer

    def take(self, event: Event) -> tuple[Chunk, memoryview] | None:
        """Return the chunk that an event is, or completes; None for a piece that leaves some missing.

        Raises RefusedByPeer for anything that is no chunk, and for pieces that do not fit.
        """
        if isinstance(event.message, Chunk):
            return event.message, event.payload
        if not isinstance(event.message, Piece):
            raise RefusedByPeer("an unexpected message on a data channel", "update the transporter there")
        try:
            return self._assembler.add(event.message, event.payload)
        except RemoteProtocolError as error:
            raise RefusedByPeer(f"{self._peer} broke the protocol: {error}", "update the transporter there") from error

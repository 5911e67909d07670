"""Chunks of a session in pieces: those that go out, over whatever channel is free, and those that come in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from protocol.data import Event
from protocol.errors import RemoteProtocolError
from protocol.frame import Buffer
from protocol.limits import MAX_PIECE, PIECE
from protocol.messages import Chunk, Piece
from protocol.pieces import Assembler, Cutter
from transporter.errors import RefusedByPeer

# How long a piece may occupy a connection that is as fast as the others.
HOLD_SECONDS = 0.08
MEASURE_SECONDS = 0.1


class PieceQueue:
    """Cuts what ``next_chunk`` returns (a chunk's header and its stored bytes); ``channels``: how many take from it.

    A piece costs each end some 200 microseconds, however long it is; but so long as it is on its way over a slow
    connection, its chunk waits. Hence as many steps as a connection carries in ``HOLD_SECONDS``.
    """

    def __init__(self, next_chunk: Callable[[], Awaitable[tuple[Chunk, Buffer]]], channels: Callable[[], int]) -> None:
        self._next_chunk = next_chunk
        self._channels = channels
        self._cutter: Cutter | None = None
        # One channel waits for the next chunk, the others for that one.
        self._taking = trio.Lock()
        self._steps = 1
        self._since: float | None = None
        self._taken = 0

    async def next(self) -> tuple[Piece, memoryview]:
        """Return the next piece."""
        async with self._taking:
            while self._cutter is None or self._cutter.empty:
                self._cutter = Cutter(*await self._next_chunk())
            piece, data = self._cutter.cut(self._steps)
        self._measure(len(data))
        return piece, data

    def _measure(self, taken: int) -> None:
        now = trio.current_time()
        self._taken += taken
        self._since = now if self._since is None else self._since
        elapsed = now - self._since
        if elapsed < MEASURE_SECONDS:
            return
        carried = self._taken / elapsed / max(1, self._channels()) * HOLD_SECONDS
        self._steps = max(1, min(round(carried / PIECE), MAX_PIECE // PIECE))
        self._since, self._taken = now, 0


class IncomingChunks:
    """Chunks as they come on any data channel of a session; ``most``: see `protocol.pieces`."""

    def __init__(self, peer: str, most: int) -> None:
        self._assembler = Assembler(most)
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

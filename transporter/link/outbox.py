"""Chunks that a job has put: those that wait for a data channel, and those that are out and not yet durable.

All of them stay in memory, bounded in bytes, until the peer has said that they are durable. Outlives sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from pipeline.channel import ByteBudget
from pipeline.chunk import Chunk

# Chunks that are out and not yet durable at the other end: memory here, and what a crash there can cost.
UNACKNOWLEDGED_BYTES = 16 << 20
# Ids of chunks that were put in this run (8 MiB of memory); an older repetition is asked for like any other chunk.
REMEMBERED = 65_536
# Chunks in one question; a batch of Have may have as many.
AT_ONCE = 1024
ID_LENGTH = 32

Have = Callable[[list[bytes]], Awaitable[list[bytes | None]]]


class Outbox:
    """``changed`` is unparked when there is something to take; ``moved`` is called when something became durable."""

    def __init__(self, moved: Callable[[], None]) -> None:
        self._moved = moved
        self._queue: deque[Chunk] = deque()
        self._unacknowledged: dict[bytes, Chunk] = {}
        # Of the unacknowledged ones: those that a data channel of any session took.
        self._sent: set[bytes] = set()
        self._claimed: dict[bytes, None] = {}
        self._budget = ByteBudget("unacknowledged", UNACKNOWLEDGED_BYTES)
        self._drained = trio.lowlevel.ParkingLot()
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def waiting(self) -> bool:
        """Whether a chunk waits for a data channel."""
        return bool(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the chunks that no data channel has taken yet."""
        return sum(chunk.size for chunk in self._queue)

    @property
    def owed(self) -> bool:
        """Whether any chunk is not yet durable."""
        return bool(self._unacknowledged)

    def claim(self, chunk_id: bytes) -> bool:
        """Tell whether this chunk still has to be put; False for one that this run has put lately."""
        if chunk_id in self._claimed:
            return False
        self._claimed[chunk_id] = None
        if len(self._claimed) > REMEMBERED:
            del self._claimed[next(iter(self._claimed))]
        return True

    async def put(self, chunk: Chunk) -> None:
        """Take a packed chunk in; waits for room, returns as soon as it is queued."""
        await self._budget.acquire(chunk.size)
        self._unacknowledged[chunk.chunk_id] = chunk
        self._queue.append(chunk)
        self.changed.unpark()

    def take(self) -> Chunk:
        """Return the next chunk, to be sent. Only while one is ``waiting``."""
        chunk = self._queue.popleft()
        self._sent.add(chunk.chunk_id)
        return chunk

    def stored(self, ids: bytes) -> None:
        """Let go of chunks that are durable."""
        for at in range(0, len(ids), ID_LENGTH):
            chunk_id = ids[at : at + ID_LENGTH]
            chunk = self._unacknowledged.pop(chunk_id, None)
            if chunk is not None:
                self._sent.discard(chunk_id)
                self._budget.release(chunk.size)
                self._moved()
        if not self._unacknowledged:
            self._drained.unpark_all()

    async def drained(self) -> None:
        """Wait until everything that was put is durable at the other end."""
        while self._unacknowledged:
            await self._drained.park()

    async def offer_again(self, have: Have, usable: Callable[[bytes], bool]) -> None:
        """Ask a new session which of the chunks that were sent arrived after all; queue the others.

        Nobody need be asked about those that no channel has taken yet: on a first session that is all of them.
        """
        waiting = [chunk for chunk_id, chunk in self._unacknowledged.items() if chunk_id in self._sent]
        self._queue = deque(chunk for chunk in self._queue if chunk.chunk_id not in self._sent)
        again = []
        for at in range(0, len(waiting), AT_ONCE):
            part = waiting[at : at + AT_ONCE]
            known = await have([chunk.chunk_id for chunk in part])
            for chunk, key_id in zip(part, known, strict=True):
                if key_id is None or not usable(key_id):
                    again.append(chunk)
                else:
                    self.stored(chunk.chunk_id)
        self._queue.extendleft(reversed(again))

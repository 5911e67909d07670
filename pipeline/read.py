"""The first stage: fill buffers with content, one thread, in units of a few MiB.

One reader thread, on purpose: many threads doing small Python system calls fight for the interpreter lock, and two of
them read a tree of small files several times slower than one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from pipeline.channel import ByteChannel
from pipeline.chunk import Buffer, Unit
from pipeline.workers import Lane


class BufferPool:
    """A fixed number of buffers, made on first use; ``take`` waits until one is free."""

    def __init__(self, count: int, headroom: int, block: int) -> None:
        self._left = count
        self._headroom = headroom
        self._block = block
        self._free: list[Buffer] = []
        self._waiting = trio.Semaphore(count)
        self._closed = False

    async def take(self) -> Buffer:
        """Return a buffer with one user."""
        await self._waiting.acquire()
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = Buffer(self._headroom, self._block, self._give_back)
        buffer.hold()
        return buffer

    def _give_back(self, buffer: Buffer) -> None:
        if not self._closed:
            self._free.append(buffer)
            self._waiting.release()

    def close(self) -> None:
        """Let the memory go at once: pool and buffers refer to each other, and a cycle waits for the collector."""
        self._closed = True
        self._free.clear()


async def read_stage(
    fill: Callable[[memoryview], tuple[int, Any, bool]],
    pool: BufferPool,
    outgoing: ByteChannel[Unit],
    lane: Lane,
) -> None:
    """Read units until ``fill`` says that it was the last.

    ``fill(block)`` returns (bytes filled, what travels beside them, whether that was the end).
    """
    last = False
    while not last:
        buffer = await pool.take()
        length, pending, last = await lane.run(fill, buffer.block)
        await outgoing.send(Unit(buffer, length, pending, last))
    outgoing.close()

"""Recovery, the target's half: requests in, stored chunks out, in batches sorted by where they lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from pipeline.channel import ByteChannel
from pipeline.workers import Lane
from protocol.data import HEADROOM
from protocol.messages import Chunk as ChunkHeader
from transporter.errors import DamagedData
from transporter.repository import ChunkMissing, ChunkRecord

QUEUE_BYTES = 16 << 20
QUEUE_ITEMS = 64
# Ids only: 32 bytes each.
REQUESTS_AT_MOST = 1 << 16


def _split(ids: bytes) -> Iterator[bytes]:
    return (ids[at : at + 32] for at in range(0, len(ids), 32))


@dataclass(frozen=True, slots=True)
class Request:
    """A chunk that was asked for, in any form but those sealed under one of the keys ``without``."""

    chunk_id: bytes
    without: Sequence[bytes]


@dataclass(slots=True)
class Outgoing:
    """A stored chunk with room for its frame in front."""

    header: ChunkHeader
    memory: bytearray = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.memory)


class ChunkReader:
    """Reads what is asked for. ``to_wire`` opens the repository's own sealing where the zone says so."""

    def __init__(
        self,
        read: Callable[[bytes, Sequence[bytes]], ChunkRecord],
        to_wire: Callable[[ChunkRecord], tuple[ChunkHeader, bytes | bytearray | memoryview]],
        missing: Callable[[bytes, Sequence[bytes], str], Awaitable[None]],
        lane: Lane,
    ) -> None:
        self._read = read
        self._to_wire = to_wire
        self._missing = missing
        self._lane = lane
        self.requests: ByteChannel[Request] = ByteChannel(
            "requests", REQUESTS_AT_MOST, 32 * REQUESTS_AT_MOST, lambda request: 32 + 32 * len(request.without)
        )
        self.outgoing: ByteChannel[Outgoing] = ByteChannel("outgoing", QUEUE_ITEMS, QUEUE_BYTES, lambda item: item.size)

    async def ask(self, ids: bytes, without: bytes) -> None:
        """Queue requests: chunk ids and the ids of keys that the initiator has not, 32 bytes each."""
        keys = tuple(_split(without))
        for chunk_id in _split(ids):
            await self.requests.send(Request(chunk_id, keys))

    async def serve(self) -> None:
        """Read and queue until cancelled."""
        async for request in self.requests:
            chunk_id = request.chunk_id
            try:
                item = await self._lane.run(self._load, request)
            except ChunkMissing:
                await self._missing(chunk_id, request.without, "missing")
            except DamagedData:
                await self._missing(chunk_id, request.without, "damaged")
            else:
                await self.outgoing.send(item)

    def _load(self, request: Request) -> Outgoing:
        header, stored = self._to_wire(self._read(request.chunk_id, request.without))
        memory = bytearray(HEADROOM + len(stored))
        memory[HEADROOM:] = stored
        return Outgoing(header, memory)

    async def next_chunk(self) -> Outgoing:
        """Return the next chunk for any data channel."""
        return await self.outgoing.receive()


__all__ = ["ChunkReader", "Outgoing", "trio"]

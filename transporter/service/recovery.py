"""A recovery session, the target's half: heads and chunks out; opened here first where this end sealed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from pipeline.run import open_tasks
from protocol.control import Received
from protocol.data import HEADROOM
from protocol.messages import Chunk, Fin, Get, Missing, Stop, Stopped
from transporter.errors import RefusedByPeer
from transporter.link.broken import LinkBroken
from transporter.link.chunk_pieces import PieceQueue
from transporter.link.data_link import DataLink
from transporter.points.assemble import OpenedPoint
from transporter.repository import ChunkRecord
from transporter.service.open_channels import OpenChannels
from transporter.service.reading import ChunkReader
from transporter.service.session import ServiceSession

PLAIN_FORM = b"\0"
ToWire = Callable[[ChunkRecord], tuple[Chunk, bytes | bytearray | memoryview]]


def as_stored(record: ChunkRecord) -> tuple[Chunk, bytes | bytearray | memoryview]:
    """The initiator opens it: pass it on as it lies in its pack."""
    return Chunk(id=record.chunk_id, codec=record.codec, plain_length=record.plain_length), record.stored


def opened_here(point: OpenedPoint) -> ToWire:
    """This end sealed it and holds the keys: open it, and send the plain form (under Key B, like everything)."""

    def to_wire(record: ChunkRecord) -> tuple[Chunk, bytes | bytearray | memoryview]:
        data = point.opener.open(record.chunk_id, record.codec, record.plain_length, record.stored)
        header = Chunk(id=record.chunk_id, codec=record.codec, plain_length=record.plain_length)
        return header, PLAIN_FORM + bytes(data)

    return to_wire


@dataclass(eq=False)
class _Sending:
    """What goes out over one channel: cancelled when it was given up, before anything did."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    begun: bool = False


class RecoveryService:
    """Serves one recovery session from Started to its end."""

    def __init__(self, session: ServiceSession, key_ids: frozenset[bytes] | None, to_wire: ToWire) -> None:
        self._session = session
        self._store = session.repository.store
        self._key_ids = key_ids
        self._open = OpenChannels()
        self._pieces = PieceQueue(self._next_stored, lambda: self._open.count)
        self._chunks = ChunkReader(self._read, to_wire, self._lost, session.provider.lookups)

    async def run(self, channels: trio.MemoryReceiveChannel[DataLink]) -> None:
        """Serve until Stop or until the link is gone."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._accept, channels, nursery)
            nursery.start_soon(self._chunks.serve)
            await self._converse()
            nursery.cancel_scope.cancel()

    async def _accept(self, channels: trio.MemoryReceiveChannel[DataLink], nursery: trio.Nursery) -> None:
        async for channel in channels:
            self._open.opened()
            sending = _Sending()
            nursery.start_soon(self._send, channel, sending)
            nursery.start_soon(self._receive, channel, sending)

    async def _send(self, channel: DataLink, sending: _Sending) -> None:
        with sending.scope:
            while True:
                if self._session.start.pieces:
                    piece, data = await self._pieces.next()
                    sending.begun = True
                    await channel.send(piece, data)
                    continue
                item = await self._chunks.next_chunk()
                sending.begun = True
                await channel.send_chunk(item.header, item.memory)

    async def _next_stored(self) -> tuple[Chunk, memoryview]:
        item = await self._chunks.next_chunk()
        return item.header, memoryview(item.memory)[HEADROOM:]

    async def _receive(self, channel: DataLink, sending: _Sending) -> None:
        try:
            event = await channel.receive()
        except LinkBroken:
            if channel.answered or sending.begun:
                raise
            # Given up as soon as it was opened: no chunk may go there any more.
            sending.scope.cancel()
            self._open.finished()
            return
        if not isinstance(event.message, Fin):
            raise RefusedByPeer("an unexpected message on a data channel", "update the transporter")
        await channel.finish()
        self._open.finished()

    def _read(self, chunk_id: bytes, without: Sequence[bytes]) -> ChunkRecord:
        key_ids = self._key_ids
        if without:
            (stored_under,) = self._store.have(self._session.domain, [chunk_id])
            key_ids = frozenset(stored_under if key_ids is None else key_ids).difference(without)
        return self._store.read(self._session.domain, chunk_id, key_ids)

    async def _lost(self, chunk_id: bytes, _without: Sequence[bytes], reason: str) -> None:
        await self._session.link.send(Missing(id=chunk_id, reason=reason))

    async def _converse(self) -> None:
        while True:
            received = await self._session.link.receive()
            if isinstance(received.message, Stop):
                await self._open.all_finished()
                await self._session.link.send(Stopped())
                return
            if isinstance(received.message, Get):
                self._session.check_peer()
                await self._chunks.ask(received.message.ids, received.message.without)
            else:
                await self._session.general(received)(received)


__all__ = ["Received", "RecoveryService", "as_stored", "opened_here"]

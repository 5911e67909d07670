"""A backup session, the target's half: answers HAVE, writes what comes, and commits one restore point."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing

import trio

from pipeline.run import open_tasks
from protocol.control import Received
from protocol.limits import MAX_KEY_IDS, MAX_SLOTS
from protocol.lost_messages import join_claims
from protocol.messages import (
    Commit,
    CommitPlain,
    Committed,
    Fin,
    Flush,
    Flushed,
    GetLost,
    Have,
    HaveReply,
    Lost,
    Needs,
    PutSlot,
    SlotStored,
    Stop,
    Stopped,
    Stored,
)
from protocol.pieces import BACKUP_AT_MOST
from transporter.errors import RefusedByPeer
from transporter.link.broken import LinkBroken
from transporter.link.chunk_pieces import IncomingChunks
from transporter.link.data_link import DataLink
from transporter.points.chunk_writing import ChunkWriter
from transporter.points.needed_chunks import NeededChunks
from transporter.repository import PackWriter
from transporter.service.committing import CommitRequest, commit_in_thread
from transporter.service.lost import lost_claims
from transporter.service.open_channels import OpenChannels
from transporter.service.sealing import TargetSealing
from transporter.service.session import ServiceSession

# The list of needed chunks waits for its commit in a file: 32 bytes a chunk, 4 million chunks (4 TB) at most.
NEEDS_AT_MOST = 128 << 20


class BackupService:
    """Serves one backup session from Started to its end."""

    def __init__(self, session: ServiceSession, sealing: TargetSealing, writer: PackWriter) -> None:
        self._session = session
        self._sealing = sealing
        self._writer = writer
        self._provider = session.provider
        self._store = session.repository.store
        self._needs = NeededChunks(self._store.scratch)
        self._open = OpenChannels()
        self._incoming = IncomingChunks(session.peer.name, BACKUP_AT_MOST)
        self._slots: list[tuple[bytes, bytes]] = []
        self._chunks = ChunkWriter(writer, sealing.to_record, self._acknowledge, session.provider.writes)

    async def run(self, channels: trio.MemoryReceiveChannel[DataLink]) -> None:
        """Serve until Stop or until the link is gone. What has arrived by then is kept."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._accept, channels, nursery)
            nursery.start_soon(self._chunks.write)
            nursery.start_soon(self._chunks.sync)
            await self._converse()
            nursery.cancel_scope.cancel()

    async def close(self) -> None:
        """Close the packs. What was received is worth keeping: the next session or run does not send it again."""
        self._needs.close()
        with trio.CancelScope(shield=True):
            await self._provider.writes.run(self._chunks.drain)

    async def _accept(self, channels: trio.MemoryReceiveChannel[DataLink], nursery: trio.Nursery) -> None:
        async for channel in channels:
            self._open.opened()
            nursery.start_soon(self._receive, channel)

    async def _receive(self, channel: DataLink) -> None:
        while True:
            try:
                event = await channel.receive()
            except LinkBroken:
                if channel.answered:
                    raise
                # Given up as soon as it was opened: nothing came on it, and nothing is lost.
                self._open.finished()
                return
            if isinstance(event.message, Fin):
                await channel.finish()
                self._open.finished()
                return
            whole = self._incoming.take(event)
            if whole is not None:
                await self._chunks.put(*whole)

    async def _acknowledge(self, ids: bytes) -> None:
        await self._session.link.send(Stored(chunks=ids))

    # --- the conversation -------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        answers: dict[type, Callable[[Received], Awaitable[None]]] = {
            Have: self._have,
            Needs: self._note_needs,
            PutSlot: self._put_slot,
            Flush: self._flush,
            GetLost: self._get_lost,
            Commit: self._commit,
            CommitPlain: self._commit,
        }
        while True:
            received = await self._session.link.receive()
            if isinstance(received.message, Stop):
                await self._open.all_finished()
                await self._session.link.send(Stopped())
                return
            answer = answers.get(type(received.message)) or self._session.general(received)
            await answer(received)

    async def _have(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, Have)
        ids = [message.ids[at : at + 32] for at in range(0, len(message.ids), 32)]
        found = await self._provider.lookups.run(self._store.have, self._session.domain, ids)
        # A reply names each key id once and each chunk by a byte. One key more than a byte can name: the chunk counts
        # as unknown, and is sent again at worst.
        marks: dict[bytes, int] = {}
        known = bytearray()
        for key_ids in found:
            usable = self._sealing.choose(key_ids)
            if usable is not None and usable not in marks and len(marks) < MAX_KEY_IDS:
                marks[usable] = len(marks) + 1
            known.append(0 if usable is None else marks.get(usable, 0))
        await self._session.link.send(HaveReply(batch=message.batch, known=bytes(known), key_ids=list(marks)))

    async def _note_needs(self, received: Received) -> None:
        assert isinstance(received.message, Needs)
        if self._needs.length + len(received.message.ids) > NEEDS_AT_MOST:
            raise RefusedByPeer("a restore point names too many chunks", "split the job")
        await self._provider.writes.run(self._needs.add, received.message.ids)

    async def _put_slot(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, PutSlot)
        if message.point != self._session.start.resume:
            raise RefusedByPeer("a slot of another restore point", "update the transporter")
        if len(self._slots) >= MAX_SLOTS:
            raise RefusedByPeer(f"a restore point has at most {MAX_SLOTS} slots", "update the transporter")
        self._slots.append((message.slot, bytes(received.payload)))

    async def _get_lost(self, _received: Received) -> None:
        session = self._session
        claims = await self._provider.lookups.run(lost_claims, self._store, session.tenant, session.domain)
        await session.link.send(Lost(claims=join_claims(claims)))

    async def _flush(self, _received: Received) -> None:
        await self._chunks.caught_up()
        await self._provider.writes.run(self._writer.seal)
        await self._session.link.send(Flushed())

    async def _commit(self, received: Received) -> None:
        """Packs, then slots, then the point: the write order of docs/repository-format.md."""
        message = received.message
        assert isinstance(message, Commit | CommitPlain)
        if message.point != self._session.start.resume:
            raise RefusedByPeer("the restore point does not belong to this session", "update the transporter")
        self._session.check_peer()
        needs, self._needs = self._needs, NeededChunks(self._store.scratch)
        slots, self._slots = self._slots, []
        request = CommitRequest(
            self._session,
            self._sealing,
            bytes(received.payload),
            needs,
            slots,
            sealed=isinstance(received.message, Commit),
        )
        with closing(needs):
            point_hash = await self._provider.writes.run(commit_in_thread, request, self._writer)
        await self._session.link.send(Committed(point=self._session.start.resume, hash=point_hash))


__all__ = ["BackupService", "SlotStored"]

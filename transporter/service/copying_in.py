"""A copy session, the half that stores: says which forms it lacks, writes what comes, proves it, and commits points.

It is blind: what it stores it stores as it comes. Chunks of one session are of one domain, the tenant's own under the
name that the initiator gives; of how many points is not bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing

import trio

from pipeline.run import open_tasks
from protocol.control import Received
from protocol.limits import MAX_SLOTS
from protocol.messages import (
    Chunk,
    CommitCopy,
    Committed,
    Digests,
    Fin,
    Forms,
    GetDigests,
    GetForms,
    Needs,
    PutSlot,
    Stop,
    Stopped,
    Stored,
)
from protocol.pieces import BACKUP_AT_MOST
from transporter.errors import RefusedByPeer, UsageError
from transporter.link.broken import LinkBroken
from transporter.link.chunk_pieces import IncomingChunks
from transporter.link.data_link import DataLink
from transporter.points.chunk_writing import ChunkWriter
from transporter.points.copied import (
    PLAIN_FORM,
    CopyToCommit,
    commit_copy,
    copied_record,
    digests,
    encode_keys,
    forms_of,
    ids_of,
)
from transporter.points.needed_chunks import NeededChunks
from transporter.repository import ChunkRecord, Origin, PackWriter
from transporter.service.mandated import check_allowed
from transporter.service.open_channels import OpenChannels
from transporter.service.session import ServiceSession

# As in a backup: 32 bytes a chunk, 4 million chunks (4 TB) at most.
NEEDS_AT_MOST = 128 << 20


class CopyInService:
    """Serves one copy session, from Started to its end."""

    def __init__(self, session: ServiceSession, writer: PackWriter) -> None:
        self._session = session
        self._provider = session.provider
        self._store = session.repository.store
        self._needs = NeededChunks(self._store.scratch)
        self._open = OpenChannels()
        self._incoming = IncomingChunks(session.peer.name, BACKUP_AT_MOST)
        self._slots: list[tuple[bytes, bytes]] = []
        self._chunks = ChunkWriter(writer, self._to_record, self._acknowledge, session.provider.writes)

    async def run(self, channels: trio.MemoryReceiveChannel[DataLink]) -> None:
        """Serve until Stop or until the link is gone. What has arrived by then is kept."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._accept, channels, nursery)
            nursery.start_soon(self._chunks.write)
            nursery.start_soon(self._chunks.sync)
            await self._converse()
            await self.committed()
            nursery.cancel_scope.cancel()

    async def committed(self) -> None:
        """The initiator has said that it has done. Nothing is remembered where nothing is sealed."""

    async def close(self) -> None:
        """Close the packs. What was received is worth keeping: the next session does not ask for it again."""
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

    def _to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        record = copied_record(header.id, header.codec, header.plain_length, stored)
        if self._store.encrypted and stored[0] == PLAIN_FORM:
            raise RefusedByPeer(
                "a chunk that is not sealed may not lie in a repository that is encrypted at rest",
                "seal it on the way (--encrypt source) or at the target (--encrypt target)",
            )
        return record

    async def _acknowledge(self, ids: bytes) -> None:
        await self._session.link.send(Stored(chunks=ids))

    # --- the conversation -----------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        answers: dict[type, Callable[[Received], Awaitable[None]]] = {
            GetForms: self._forms,
            GetDigests: self._digests,
            Needs: self._note_needs,
            PutSlot: self._put_slot,
            CommitCopy: self._commit,
        }
        while True:
            received = await self._session.link.receive()
            if isinstance(received.message, Stop):
                await self._open.all_finished()
                await self._session.link.send(Stopped())
                return
            answer = answers.get(type(received.message)) or self._session.general(received)
            await answer(received)

    async def _forms(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetForms)
        self._session.check_peer()
        found = await self._provider.lookups.run(self._store.have, self._session.domain, ids_of(message.ids))
        await self._session.link.send(Forms(), encode_keys(found))

    async def _digests(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetDigests)
        own, forms = self._session.domain, forms_of(message.forms)
        read = await self._provider.lookups.run(digests, self._store, own, message.domain, forms)
        await self._session.link.send(Digests(digests=read))

    async def _note_needs(self, received: Received) -> None:
        assert isinstance(received.message, Needs)
        if self._needs.length + len(received.message.ids) > NEEDS_AT_MOST:
            raise RefusedByPeer("a restore point names too many chunks", "split the job")
        await self._provider.writes.run(self._needs.add, received.message.ids)

    async def _put_slot(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, PutSlot)
        if len(self._slots) >= MAX_SLOTS:
            raise RefusedByPeer(f"a restore point has at most {MAX_SLOTS} slots", "update the transporter")
        self._slots.append((message.slot, bytes(received.payload)))

    async def _commit(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, CommitCopy)
        session = self._session
        session.check_peer()
        check_allowed(session.link, message)
        needs, self._needs = self._needs, NeededChunks(self._store.scratch)
        slots, self._slots = self._slots, []
        copy = CopyToCommit(
            session.tenant,
            session.start.job,
            session.domain,
            message.point,
            Origin(message.repository_id, message.tenant, message.committed_ns, message.hash, message.resealed),
            bytes(received.payload),
            slots,
        )
        with closing(needs):
            try:
                point_hash = await self._provider.writes.run(
                    commit_copy, self._store, copy, needs.parts(), needs.digest()
                )
            except UsageError as error:
                raise RefusedByPeer(error.what, error.remedy) from error
        await session.link.send(Committed(point=message.point, hash=point_hash))

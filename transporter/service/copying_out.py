"""A copy session, the half that reads: points and chunks as they lie here, whoever sealed them. No key is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from protocol.control import Received
from protocol.messages import (
    CopyHead,
    Digests,
    FetchForms,
    Forms,
    GetCopy,
    GetDigests,
    GetForms,
    GetNeeds,
    Missing,
    NeedsPart,
    Stop,
    Stopped,
)
from transporter.errors import RefusedByPeer
from transporter.link.data_link import DataLink
from transporter.points.copied import digests, encode_keys, forms_of, ids_of, needs_parts, read_copy
from transporter.repository import ChunkRecord
from transporter.service.recovery import RecoveryService, as_stored
from transporter.service.session import ServiceSession


class CopyOutService(RecoveryService):
    """Serves one copy session, from Started to its end: one point at a time."""

    def __init__(self, session: ServiceSession) -> None:
        super().__init__(session, None, as_stored)
        # The point that the session is about: (job, id). None before the first.
        self._point: tuple[str, bytes] | None = None
        self._needs_at: tuple[int, Iterator[bytes]] | None = None

    async def run(self, channels: trio.MemoryReceiveChannel[DataLink]) -> None:
        """Serve until Stop or until the link is gone."""
        try:
            await super().run(channels)
        finally:
            self._needs_at = None

    def _read(self, chunk_id: bytes, without: Sequence[bytes]) -> ChunkRecord:
        """Read a form: here the one key of a request is the one that it is to be under."""
        return self._store.read(self._session.domain, chunk_id, frozenset(without))

    async def _lost(self, chunk_id: bytes, keys: Sequence[bytes], reason: str) -> None:
        await self._session.link.send(Missing(id=chunk_id, reason=reason, key=keys[0]))

    async def _converse(self) -> None:
        answers: dict[type, Callable[[Received], Awaitable[None]]] = {
            GetCopy: self._get_copy,
            GetNeeds: self._get_needs,
            GetForms: self._get_forms,
            GetDigests: self._get_digests,
            FetchForms: self._fetch,
        }
        while True:
            received = await self._session.link.receive()
            if isinstance(received.message, Stop):
                await self._open.all_finished()
                await self._session.link.send(Stopped())
                return
            answer = answers.get(type(received.message)) or self._session.general(received)
            await answer(received)

    async def _get_copy(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetCopy)
        session = self._session
        session.check_peer()
        tenant = session.tenant
        copied = await session.provider.lookups.run(read_copy, self._store, tenant, message.job, message.point)
        # Only what lies under the tenant's own points names a domain: so it is the tenant's own.
        session.domain = copied.domain
        self._point, self._needs_at = (message.job, message.point), None
        reply = CopyHead(
            point=message.point,
            repository_id=copied.origin.repository_id,
            tenant=copied.origin.tenant,
            committed_ns=copied.origin.committed_ns,
            hash=copied.origin.hash,
            needs=copied.needs,
            slot_ids=b"".join(slot_id for slot_id, _ in copied.slots),
            slots=[slot for _, slot in copied.slots],
        )
        await session.link.send(reply, copied.head)

    def _about(self) -> tuple[str, bytes]:
        if self._point is None:
            raise RefusedByPeer("no restore point was named", "update the transporter")
        return self._point

    async def _get_needs(self, received: Received) -> None:
        assert isinstance(received.message, GetNeeds)
        job, point = self._about()
        start = received.message.start
        if self._needs_at is None or self._needs_at[0] != start:
            self._needs_at = start, needs_parts(self._store, self._session.tenant, job, point, start)
        _, parts = self._needs_at
        part = await self._session.provider.lookups.run(next, parts, b"")
        self._needs_at = start + len(part) // 32, parts
        await self._session.link.send(NeedsPart(ids=part))

    async def _get_forms(self, received: Received) -> None:
        assert isinstance(received.message, GetForms)
        self._about()
        lookups = self._session.provider.lookups
        found = await lookups.run(self._store.have, self._session.domain, ids_of(received.message.ids))
        await self._session.link.send(Forms(), encode_keys(found))

    async def _get_digests(self, received: Received) -> None:
        message = received.message
        assert isinstance(message, GetDigests)
        self._about()
        forms = forms_of(message.forms)
        lookups = self._session.provider.lookups
        read = await lookups.run(digests, self._store, self._session.domain, message.domain, forms)
        await self._session.link.send(Digests(digests=read))

    async def _fetch(self, received: Received) -> None:
        assert isinstance(received.message, FetchForms)
        self._about()
        self._session.check_peer()
        for chunk_id, key_id in forms_of(received.message.forms):
            await self._chunks.ask(chunk_id, key_id)

"""The ends of a copy that are at a peer: sessions of purpose ``copy-out`` and ``copy-in``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from pipeline.channel import ByteChannel
from pipeline.chunk import Chunk
from protocol.data import HEADROOM
from protocol.limits import MAX_IDS, MAX_SLOTS, SLOT_ID
from protocol.messages import (
    Chunk as ChunkHeader,
)
from protocol.messages import (
    CommitCopy,
    Committed,
    CopyHead,
    Digests,
    FetchForms,
    Forms,
    GetCopy,
    GetDigests,
    GetForms,
    GetNeeds,
    Mandated,
    Needs,
    NeedsPart,
    PutSlot,
    Refused,
    Start,
)
from protocol.messages import (
    Mandate as MandateMessage,
)
from transporter.errors import DamagedData, RefusedByPeer
from transporter.jobs.context import JobContext
from transporter.jobs.copy_ends import CopyRow, Lost, StoredChunk, Take
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.data_path import open_data_session
from transporter.link.dial import Peer
from transporter.link.session import ANSWER_SECONDS, Session, SessionHandlers
from transporter.points.copied import (
    NO_DIGEST,
    CopiedPoint,
    Form,
    copied_record,
    copy_domain,
    decode_keys,
    join_forms,
)
from transporter.repository import Origin
from transporter.repository.point_head import PointHead

STREAMS = 2
# Chunks that wait for a data channel: enough to keep several busy, little enough to lose with a session.
QUEUE_ITEMS = 64
QUEUE_BYTES = 16 << 20
FORM_LENGTH = 64


async def _show(mandate: bytes, link: ControlLink) -> None:
    """Show a mandate, and wait until it is taken."""
    await link.send(MandateMessage(), mandate)
    with trio.move_on_after(ANSWER_SECONDS) as deadline:
        answer = (await link.receive()).message
    if deadline.cancelled_caught:
        raise LinkBroken("the peer did not answer in time")
    if isinstance(answer, Refused):
        raise refusal_to_error(answer.code, answer.what, answer.remedy)
    if not isinstance(answer, Mandated):
        raise RefusedByPeer("the peer does not know mandates", "update the transporter there")


def _open(
    context: JobContext,
    peer: Peer,
    start: Start,
    handlers: SessionHandlers,
    before: Callable[[ControlLink], Awaitable[None]] | None = None,
) -> AbstractAsyncContextManager[Session]:
    most = context.config.limits.max_streams
    streams = min(STREAMS, most)
    return open_data_session(peer, context.identity, start, streams, handlers, context.clock, context.say, most, before)


@dataclass(eq=False)
class _Fetch:
    """Forms that were asked for together and have not all come."""

    take: Take
    lost: Lost
    waiting: set[bytes]
    done: trio.Event = field(default_factory=trio.Event)
    left: int = 0

    def __post_init__(self) -> None:
        self.left = len(self.waiting)

    def settled(self) -> None:
        """One more was taken, or is lost. Not as soon as it has come: taking it may wait."""
        self.left -= 1
        if not self.left:
            self.done.set()


class SourceThere:
    """A repository at a peer that is read; see `CopySource`."""

    def __init__(self, name: str, pin: bytes) -> None:
        self.name = name
        self.pin = pin
        self.repository_id = b""
        self.session: Session | None = None
        self._fetches: list[_Fetch] = []

    @property
    def _session(self) -> Session:
        assert self.session is not None
        return self.session

    async def open_point(self, row: CopyRow) -> CopiedPoint:
        """Ask for a point."""
        point, job = row.row.point, row.row.job
        answer, head = await self._session.request(GetCopy(job=job, point=point), b"", CopyHead)
        ids = [answer.slot_ids[at : at + SLOT_ID] for at in range(0, len(answer.slot_ids), SLOT_ID)]
        if len(set(ids)) != len(answer.slots) or len(ids) > MAX_SLOTS or answer.point != point:
            raise RefusedByPeer("the peer's answer does not fit the question", "update the transporter there")
        origin = Origin(answer.repository_id, answer.tenant, answer.committed_ns, answer.hash)
        slots = list(zip(ids, answer.slots, strict=True))
        return CopiedPoint(point, origin, row.row.domain, answer.needs, bytes(head), slots)

    async def needs(self, start: int) -> bytes:
        """Ask for a part of the list."""
        answer, _ = await self._session.request(GetNeeds(start=start), b"", NeedsPart)
        return answer.ids

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Ask under which keys chunks lie."""
        return await _forms(self._session, ids)

    async def fetch(self, domain: bytes, forms: list[Form], take: Take, lost: Lost) -> None:
        """Ask for chunks, and wait until each has come."""
        fetch = _Fetch(take, lost, {chunk_id + key_id for chunk_id, key_id in forms})
        self._fetches.append(fetch)
        try:
            await self._session.tell(FetchForms(forms=join_forms(forms)))
            await fetch.done.wait()
        finally:
            self._fetches.remove(fetch)

    async def digests(self, domain: bytes, forms: list[Form]) -> bytes:
        """Have chunks read and proven there."""
        return await _digests(self._session, domain, forms)

    async def arrived(self, header: ChunkHeader, stored: memoryview) -> None:
        """Take a chunk in; what nobody asked for is dropped."""
        record = copied_record(header.id, header.codec, header.plain_length, stored)
        form = record.chunk_id + record.key_id
        for fetch in self._fetches:
            if form in fetch.waiting:
                fetch.waiting.remove(form)
                await fetch.take(StoredChunk(record))
                fetch.settled()
                return

    def missing(self, form: bytes, reason: str) -> None:
        """Note that a form cannot be had."""
        for fetch in self._fetches:
            if form in fetch.waiting:
                fetch.waiting.remove(form)
                fetch.lost((form[:32], form[32:]), reason)
                fetch.settled()


@asynccontextmanager
async def open_source_there(context: JobContext, where: str, repository: str, job: str) -> AsyncIterator[SourceThere]:
    """Open a session that reads the repository of the peer ``where``. Raises what the link raises."""
    peer = context.peer(where)
    flow = context.flow(peer.name, job)
    source = SourceThere(f"{where}/{repository}", peer.pin)
    handlers = SessionHandlers(
        trio.sleep_forever, lambda _ids: None, source.arrived, source.missing, lambda: bool(source._fetches), flow
    )
    start = Start(purpose="copy-out", job="", repository=repository, zone="source")
    async with _open(context, peer, start, handlers) as session:
        source.session, source.repository_id = session, session.started.repository_id
        yield source
        await session.close()


class TargetThere:
    """A repository at a peer that points are copied to; see `CopyTarget`."""

    def __init__(self, name: str, gate_shut: Callable[[], bool]) -> None:
        self.name = name
        self.repository_id = b""
        self.tenant = ""
        self.domain = b""
        self.on_stored: Callable[[bytes], None] = lambda _ids: None
        self.session: Session | None = None
        self.queue: ByteChannel[StoredChunk] = ByteChannel("copied", QUEUE_ITEMS, QUEUE_BYTES, lambda item: item.size)
        self._shut = gate_shut
        # Ids of a point's metadata, where the target seals it; of these the ids of its file-system index.
        self._metadata: set[bytes] = set()
        self._fsi: set[bytes] = set()
        self._reopened = trio.lowlevel.ParkingLot()

    @property
    def _session(self) -> Session:
        assert self.session is not None
        return self.session

    def stored(self, ids: bytes) -> None:
        """Pass acknowledgements on."""
        self.on_stored(ids)

    def begin_point(self, head: PointHead) -> None:
        """Note which chunks the target is to seal under which of its keys: only a head tells."""
        self._fsi = {chunk_id for chunk_id, _ in head.fsi or ()}
        self._metadata = self._fsi | {chunk_id for chunk_id, _ in head.manifest}

    def go_on(self) -> None:
        """The gate is open again."""
        self._reopened.unpark_all()

    async def next_chunk(self) -> Chunk:
        """Return the next chunk for a data channel."""
        while self._shut():
            await self._reopened.park()
        item = await self.queue.receive()
        memory = item.memory
        if memory is None:
            # The frame needs room in front of it, and what came over another line has none.
            memory = bytearray(HEADROOM + item.size)
            memory[HEADROOM:] = item.record.stored
        record = item.record
        chunk_id, plain_length = record.chunk_id, record.plain_length
        metadata, fsi = chunk_id in self._metadata, chunk_id in self._fsi
        return Chunk(chunk_id, plain_length, memory, metadata, fsi, record.codec, headroom=HEADROOM)

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Ask under which keys chunks lie."""
        return await _forms(self._session, ids)

    async def put(self, chunk: StoredChunk) -> None:
        """Queue a chunk for the data channels."""
        await self.queue.send(chunk)

    async def digests(self, forms: list[Form]) -> bytes:
        """Have chunks read back and proven."""
        return await _digests(self._session, self.domain, forms)

    async def begin_commit(self) -> None:
        """Nothing to prepare."""

    async def add_needs(self, ids: bytes) -> None:
        """Send a part of the list."""
        for at in range(0, len(ids), 32 * MAX_IDS):
            await self._session.tell(Needs(ids=ids[at : at + 32 * MAX_IDS]))

    async def commit(self, point: CopiedPoint) -> bytes:
        """Send the slots and the head."""
        for slot_id, slot in point.slots:
            await self._session.tell(PutSlot(point=point.point_id, slot=slot_id), slot)
        origin = point.origin
        ask = CommitCopy(
            point.point_id, origin.repository_id, origin.tenant, origin.committed_ns, origin.hash, origin.resealed
        )
        committed, _ = await self._session.request(ask, point.head, Committed)
        return committed.hash


@asynccontextmanager
async def open_target_there(
    context: JobContext,
    where: str,
    repository: str,
    job: str,
    name: bytes,
    run_id: bytes,
    limits_of: str,
    mandate: bytes = b"",
    sealed_by: str | None = None,
) -> AsyncIterator[TargetThere]:
    """Open a session that stores points of ``job``; ``name``: of their chunks. Raises what the link raises.

    ``mandate``: in whose name, where that is not this node's own. ``sealed_by``: a password of the target's, by which
    it seals plain points; empty: the one of its repository. A purpose of its own: a target that cannot do it refuses.
    """
    peer = context.peer(where)
    flow = context.flow(peer.name, limits_of)
    target = TargetThere(f"{where}/{repository}", lambda: context.gate.shut)
    handlers = SessionHandlers(
        target.next_chunk,
        target.stored,
        _no_chunk,
        lambda _id, _reason: None,
        lambda: target.queue.statistics().items > 0,
        flow,
    )
    purpose, zone = ("copy-in", "source") if sealed_by is None else ("copy-seal", "target")
    start = Start(purpose, job, repository, zone, sealed_by or "", resume=run_id, name=name)
    with _gated(context, target):
        async with _open(context, peer, start, handlers, partial(_show, mandate) if mandate else None) as session:
            started = session.started
            if started.domain != copy_domain(started.tenant, name):
                raise RefusedByPeer(
                    "the peer would put copied chunks into a domain that is not theirs",
                    "find out what happened to the target before you go on",
                )
            target.session, target.repository_id = session, started.repository_id
            target.tenant, target.domain = started.tenant, started.domain
            yield target
            await session.close()


@contextmanager
def _gated(context: JobContext, target: TargetThere) -> Iterator[None]:
    before = context.gate.on_open
    context.gate.on_open = target.go_on
    try:
        yield
    finally:
        context.gate.on_open = before


async def _no_chunk(_header: ChunkHeader, _stored: memoryview) -> None:
    """Nobody asked for one."""


async def _forms(session: Session, ids: list[bytes]) -> list[tuple[bytes, ...]]:
    _, payload = await session.request(GetForms(ids=b"".join(ids)), b"", Forms)
    return decode_keys(payload, len(ids))


async def _digests(session: Session, domain: bytes, forms: list[Form]) -> bytes:
    answer, _ = await session.request(GetDigests(domain=domain, forms=join_forms(forms)), b"", Digests)
    if len(answer.digests) != len(NO_DIGEST) * len(forms):
        raise DamagedData("the peer's answer does not fit the question", "update the transporter there")
    return answer.digests

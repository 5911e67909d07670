"""A point opened over the link: its keys, its manifest as a stream of entries, its chunks in the order of need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol.messages import Chunk, GetPoint, PointHead, Start, Started
from transporter.errors import DamagedData, NoKey
from transporter.events import LinkLost, LinkUp, Redialling
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import KEY_ID, MANIFEST_AHEAD_BYTES, MANIFEST_CHUNK, ChunkFetcher, ChunkLink, Wanted
from transporter.jobs.opening import open_by
from transporter.jobs.points import PointRow, Where
from transporter.jobs.preamble import Preamble, split_preamble
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import ChunkOpener
from transporter.link.data_path import open_data_session
from transporter.link.resilient import ResilientLink
from transporter.points.assemble import OpenedPoint, Place
from transporter.points.copied import job_of_head
from transporter.points.ways import KeysAtHand
from transporter.repository.point_head import PointHead as Head
from transporter.repository.point_head import decode_head
from transporter.workloads.entry import Entry
from transporter.workloads.manifest import ManifestDecoder

STREAMS = 2


class PointLink(ChunkLink, Protocol):
    """Over what a point's chunks come, and how much of it: bytes on the wire, and data channels."""

    streams: int

    @property
    def bytes_sent(self) -> int:
        """Bytes from here."""

    @property
    def bytes_received(self) -> int:
        """Bytes to here."""


@dataclass
class Recovery:
    """An open point. ``content`` fetches data chunks; ``entries`` streams the manifest."""

    row: PointRow
    opened: OpenedPoint
    link: PointLink
    content: ChunkFetcher
    metadata: ChunkFetcher
    redials: list[int] = field(default_factory=lambda: [0])

    @property
    def head(self) -> Head:
        """The point's head, authentic."""
        return self.opened.head

    @property
    def chunk_id_key(self) -> ChunkIdKey:
        """What its chunks are named by."""
        return self.opened.chunk_id_key

    async def read_manifest(self, use: Callable[[Preamble, list[Entry]], Awaitable[None]]) -> None:
        """Hand each batch of entries, in path order, to ``use``. Raises DamagedData."""
        decoder = ManifestDecoder()

        async def decode(preamble: Preamble, data: bytes | memoryview) -> None:
            await use(preamble, await trio.to_thread.run_sync(decoder.feed, data))

        await self.read_manifest_bytes(decode)
        decoder.finish()

    async def read_manifest_bytes(self, use: Callable[[Preamble, bytes | memoryview], Awaitable[None]]) -> None:
        """Hand the manifest, piece by piece, to ``use``; chunks are asked for ahead. Raises DamagedData."""
        send, receive = trio.open_memory_channel[Wanted](MANIFEST_AHEAD_BYTES // MANIFEST_CHUNK)
        async with open_tasks() as nursery:
            nursery.start_soon(self._want_manifest, send)
            await self._strip_preamble(receive, use)

    async def _strip_preamble(
        self,
        chunks: trio.MemoryReceiveChannel[Wanted],
        use: Callable[[Preamble, bytes | memoryview], Awaitable[None]],
    ) -> None:
        preamble: Preamble | None = None
        start = bytearray()
        async for wanted in chunks:
            data: bytes | memoryview = await wait_for(wanted)
            if preamble is None:
                start += data
                found = split_preamble(start)
                if found is None:
                    self.metadata.done(wanted)
                    continue
                preamble, data = found
            await use(preamble, data)
            self.metadata.done(wanted)

    async def _want_manifest(self, send: trio.MemorySendChannel[Wanted]) -> None:
        with send:
            for chunk_id, _length in self.head.manifest:
                await send.send(await self.metadata.want(chunk_id))


async def wait_for(wanted: Wanted) -> memoryview:
    """Wait until a chunk is here and return it. Raises what made it unusable."""
    await wanted.ready.wait()
    if wanted.error is not None:
        raise wanted.error
    if wanted.plain is None:
        raise DamagedData("a chunk did not come", "try again")
    return wanted.plain


@dataclass
class RecoverySession:
    """A session for recovery, before any point is opened. ``hurry``: leave without waiting for what is under way."""

    link: ResilientLink
    router: Router
    redials: list[int]
    hurry: bool = False


@asynccontextmanager
async def open_recovery_session(
    context: JobContext, where: Where, row: PointRow, *, announce: bool = True
) -> AsyncIterator[RecoverySession]:
    """Open a session for the recovery of ``row``, a point of the job ``where.job``. Raises what the link raises.

    ``announce``: publish that the link is up, too, and not only what goes wrong with it.
    """
    peer = context.peer(where.peer)
    start = Start(purpose="recovery", job=where.job, repository=where.repository, zone=row.zone, point=row.point)
    most = context.config.limits.max_streams
    streams = min(STREAMS, most)
    router = Router()
    redials = [0]

    def notify(what: str, reason: str, delay: float) -> None:
        if what == "lost":
            redials[0] += 1
            context.bus.publish(LinkLost(peer=peer.name, reason=reason))
            context.bus.publish(Redialling(peer=peer.name, attempt=redials[0], delay=delay))
        elif announce:
            context.bus.publish(LinkUp(peer=peer.name, address=peer.place, streams=streams))

    link = ResilientLink(
        lambda handlers: open_data_session(
            peer, context.identity, start, streams, handlers, context.clock, context.say, most
        ),
        redial_for=float(context.config.limits.redial_for),
        notify=notify,
        on_chunk=router.on_chunk,
        flow=context.flow(peer.name, where.job),
        gate=context.gate,
    )
    link.on_missing = router.on_missing
    session = RecoverySession(link, router, redials)
    async with open_tasks() as nursery:
        nursery.start_soon(link.run)
        yield session
        if session.hurry:
            nursery.cancel_scope.cancel()
        link.finish()


@asynccontextmanager
async def open_recovery(context: JobContext, where: Where, row: PointRow, password: bytes) -> AsyncIterator[Recovery]:
    """Open a session for the recovery of one point of the job ``where.job`` and open the point.

    Raises WrongPassword, NoKey, CorruptedPoint, DamagedData, and what the link raises.
    """
    async with open_recovery_session(context, where, row) as session:
        link = session.link
        started = await link.started()
        question = GetPoint(repository=where.repository, job=where.job, point=row.point)
        answer, head_bytes = await link.request(question, b"", PointHead)
        at_hand = KeysAtHand.of(context.keys)
        opened = await trio.to_thread.run_sync(
            open_head, context, at_hand, where.job, row, started, bytes(head_bytes), answer.slots, password
        )
        opener, key = opened.opener, opened.chunk_id_key
        content = ChunkFetcher(opener, key)
        metadata = ChunkFetcher(opener, key, MANIFEST_CHUNK, MANIFEST_AHEAD_BYTES, kept=0)
        content.link = metadata.link = link
        session.router.fetchers = (metadata, content)
        yield Recovery(row, opened, link, content, metadata, session.redials)


class Router:
    """Chunks of the manifest and of the content come over the same channels."""

    def __init__(self) -> None:
        self.fetchers: tuple[ChunkFetcher, ...] = ()

    async def on_chunk(self, header: Chunk, stored: memoryview) -> None:
        """Hand a chunk to the fetcher that waits for it."""
        waiting = [fetcher for fetcher in self.fetchers if fetcher.waits_for(header.id)]
        if waiting:
            # One chunk may be wanted by both, and comes for each. Who asked for another form than this one goes last.
            key_id = bytes(stored[KEY_ID])
            await min(waiting, key=lambda fetcher: fetcher.had_under(header.id, key_id)).on_chunk(header, stored)

    def on_missing(self, chunk_id: bytes, reason: str) -> None:
        """Tell every fetcher that a chunk cannot be had."""
        for fetcher in self.fetchers:
            fetcher.on_missing(chunk_id, reason)


def open_head(
    context: JobContext,
    at_hand: KeysAtHand,
    job: str,
    row: PointRow,
    started: Started,
    head: bytes,
    slots: list[bytes],
    password: bytes = b"",
) -> OpenedPoint:
    """Open a point whose head and slots came over a session. Raises as `KeysAtHand.open`."""
    if row.zone != Zone.SOURCE:
        # The trusted end is the target: it opens what it sealed, and says how chunks are named.
        if not started.chunk_id_key:
            raise NoKey("the peer did not say how chunks are named", "update the transporter there")
        plain = decode_head(head)
        if (plain.point_id, plain.job, plain.zone) != (row.point, job_of_head(job), row.zone):
            raise DamagedData("this is not the restore point that was asked for", "run scrub at the target")
        if plain.domain != started.domain and not row.is_copy:
            raise DamagedData("the restore point is of another domain than its chunks", "run scrub at the target")
        return OpenedPoint(plain, None, ChunkOpener((), allow_plain=True), ChunkIdKey(started.chunk_id_key))
    place = Place(started.tenant, job_of_head(job), started.repository_id, row.point, started.domain, row.zone)
    return open_by(context, at_hand, head, slots, lambda _head: place, password)

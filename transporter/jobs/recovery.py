"""A point opened over the link: its keys, its manifest as a stream of entries, its chunks in the order of need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol.messages import Chunk, GetPoint, PointHead, Start, Started
from transporter.errors import DamagedData, NoKey
from transporter.events import LinkLost, LinkUp, Redialling
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import KEY_ID, MANIFEST_AHEAD_BYTES, MANIFEST_CHUNK, ChunkFetcher, Wanted
from transporter.jobs.manifest_stream import PREAMBLE_AT_MOST, Preamble
from transporter.jobs.points import PointRow, Where
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.password import PasswordHash, hash_password
from transporter.keys.session_key import ChunkOpener
from transporter.keys.slot import SlotInfo
from transporter.keys.storage_key import StorageKey
from transporter.link.data_path import open_data_session
from transporter.link.resilient import ResilientLink
from transporter.points.assemble import OpenedPoint, Place, find_in, open_point
from transporter.repository.point_head import PointHead as Head
from transporter.repository.point_head import decode_head
from transporter.workloads.entry import Entry
from transporter.workloads.manifest import ManifestDecoder

STREAMS = 2


@dataclass
class Recovery:
    """An open point. ``content`` fetches data chunks; ``entries`` streams the manifest."""

    row: PointRow
    head: Head
    link: ResilientLink
    content: ChunkFetcher
    metadata: ChunkFetcher
    redials: list[int] = field(default_factory=lambda: [0])

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


def split_preamble(data: bytearray) -> tuple[Preamble, bytes] | None:
    """Return (preamble, what follows it), or None while it is incomplete. Raises DamagedData."""
    if len(data) < 4:
        return None
    length = int.from_bytes(data[:4], "big")
    if length > PREAMBLE_AT_MOST:
        raise DamagedData("the manifest does not begin as one does", "restore another point")
    if len(data) < 4 + length:
        return None
    try:
        preamble = msgspec.msgpack.decode(data[4 : 4 + length], type=Preamble)
    except msgspec.DecodeError as error:
        raise DamagedData("the manifest does not begin as one does", "restore another point") from error
    return preamble, bytes(data[4 + length :])


async def wait_for(wanted: Wanted) -> memoryview:
    """Wait until a chunk is here and return it. Raises what made it unusable."""
    await wanted.ready.wait()
    if wanted.error is not None:
        raise wanted.error
    if wanted.plain is None:
        raise DamagedData("a chunk did not come", "try again")
    return wanted.plain


def typed_password(password: bytes) -> Callable[[SlotInfo], PasswordHash | None] | None:
    """Return how to stretch a password that a person just typed; None without one."""
    if not password:
        return None
    return lambda info: hash_password(password, info.salt, info.params)


@asynccontextmanager
async def open_recovery(
    context: JobContext, where: Where, row: PointRow, password: bytes, *, by_kept_key: bool
) -> AsyncIterator[Recovery]:
    """Open a session for the recovery of one point of the job ``where.job`` and open the point.

    ``by_kept_key``: also by the storage key that this home kept, where no slot opens it. Not to prove that a point is
    in order: without this home it would not open.

    Raises WrongPassword, NoKey, CorruptedPoint, DamagedData, and what the link raises.
    """
    peer = context.peer(where.peer)
    start = Start(purpose="recovery", job=where.job, repository=where.repository, zone=row.zone, point=row.point)
    most = context.config.limits.max_streams
    streams = min(STREAMS, most)
    router = _Router()
    redials = [0]

    def notify(what: str, reason: str) -> None:
        if what == "lost":
            redials[0] += 1
            context.bus.publish(LinkLost(peer=peer.name, reason=reason))
            context.bus.publish(Redialling(peer=peer.name, attempt=redials[0], delay=0.0))
        else:
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
    async with open_tasks() as nursery:
        nursery.start_soon(link.run)
        started = await link.started()
        question = GetPoint(repository=where.repository, job=where.job, point=row.point)
        answer, head_bytes = await link.request(question, b"", PointHead)
        head, opener, key = await trio.to_thread.run_sync(
            _open, context, where.job, row, started, bytes(head_bytes), answer.slots, password, by_kept_key
        )
        content = ChunkFetcher(opener, key)
        metadata = ChunkFetcher(opener, key, MANIFEST_CHUNK, MANIFEST_AHEAD_BYTES, kept=0)
        content.link = metadata.link = link
        router.fetchers = (metadata, content)
        yield Recovery(row, head, link, content, metadata, redials)
        link.finish()


class _Router:
    """Chunks of the manifest and of the content come over the same channels."""

    def __init__(self) -> None:
        self.fetchers: tuple[ChunkFetcher, ...] = ()

    async def on_chunk(self, header: Chunk, stored: memoryview) -> None:
        waiting = [fetcher for fetcher in self.fetchers if fetcher.waits_for(header.id)]
        if waiting:
            # One chunk may be wanted by both, and comes for each. Who asked for another form than this one goes last.
            key_id = bytes(stored[KEY_ID])
            await min(waiting, key=lambda fetcher: fetcher.had_under(header.id, key_id)).on_chunk(header, stored)

    def on_missing(self, chunk_id: bytes, reason: str) -> None:
        for fetcher in self.fetchers:
            fetcher.on_missing(chunk_id, reason)


def _open(
    context: JobContext,
    job: str,
    row: PointRow,
    started: Started,
    head: bytes,
    slots: list[bytes],
    password: bytes,
    by_kept_key: bool,
) -> tuple[Head, ChunkOpener, ChunkIdKey]:
    if row.zone != Zone.SOURCE:
        # The trusted end is the target: it opens what it sealed, and says how chunks are named.
        if not started.chunk_id_key:
            raise NoKey("the peer did not say how chunks are named", "update the transporter there")
        plain = decode_head(head)
        if (plain.point_id, plain.job, plain.zone) != (row.point, job, row.zone):
            raise DamagedData("this is not the restore point that was asked for", "run scrub at the target")
        if plain.domain != started.domain:
            raise DamagedData("the restore point is of another domain than its chunks", "run scrub at the target")
        return plain, ChunkOpener((), allow_plain=True), ChunkIdKey(started.chunk_id_key)
    place = Place(started.tenant, job, started.repository_id, row.point, started.domain, row.zone)

    find = find_in(context.keys.find_by_salt, typed_password(password))

    def kept(point: bytes) -> StorageKey | None:
        key = context.keys.storage_key(point) if by_kept_key else None
        if key is not None:
            context.say(
                f"no slot of restore point {point.hex()[:8]} opens it; the key that this node kept is tried. "
                "Without this node it would be lost: run scrub there"
            )
        return key

    opened: OpenedPoint = open_point(head, slots, lambda _head: place, find, kept)
    return opened.head, opened.opener, opened.chunk_id_key

"""A point of a repository of this node, opened as one at a peer is: the same fetchers, and the disk for a line."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from pipeline.run import open_tasks
from pipeline.workers import Lane, processors
from protocol.messages import Chunk
from transporter.errors import DamagedData, UsageError
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import MANIFEST_AHEAD_BYTES, MANIFEST_CHUNK, ChunkFetcher
from transporter.jobs.opening import open_by
from transporter.jobs.points import DAMAGED, PointRow
from transporter.jobs.recovery import Recovery, Router
from transporter.points.assemble import OpenedPoint, Place
from transporter.points.copied import place_of
from transporter.points.ways import KeysAtHand
from transporter.repository import ChunkMissing, ChunkRecord, PointRef, Repository
from transporter.repository.point_head import PointHead, decode_head


class LinkHere:
    """What a fetcher asks where there is no line. What waits is bounded by the fetchers' budgets."""

    def __init__(self, store: Repository, domain: bytes, opened: OpenedPoint, router: Router) -> None:
        self._store = store
        # Of a copy another one than its head names.
        self._domain = domain
        self._key_ids = opened.opener.key_ids
        self._router = router
        self._lane = Lane(processors())
        self._waiting: deque[tuple[bytes, frozenset[bytes]]] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self.streams = 0
        self.bytes_sent = 0
        self.bytes_received = 0

    async def ask_for(self, chunk_id: bytes) -> None:
        """Read one chunk soon."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ask_for_another(chunk_id, ())

    def ask_for_another(self, chunk_id: bytes, without: Sequence[bytes]) -> None:
        """Read a chunk soon, in a form that is not sealed under one of these keys."""
        self._waiting.append((chunk_id, frozenset(without)))
        self._changed.unpark()

    def arrived(self, chunk_id: bytes) -> None:
        """Nothing is on a line that could break."""

    async def run(self) -> None:
        """Read what is asked for until cancelled."""
        async with open_tasks() as nursery:
            for _ in range(processors()):
                nursery.start_soon(self._read_all)

    async def _read_all(self) -> None:
        while True:
            while not self._waiting:
                await self._changed.park()
            chunk_id, without = self._waiting.popleft()
            try:
                record = await self._lane.run(self._read, chunk_id, without)
            except ChunkMissing:
                self._router.on_missing(chunk_id, "missing")
            except DamagedData:
                self._router.on_missing(chunk_id, "damaged")
            else:
                header = Chunk(id=record.chunk_id, codec=record.codec, plain_length=record.plain_length)
                self.bytes_received += len(record.stored)
                await self._router.on_chunk(header, memoryview(record.stored))

    def _read(self, chunk_id: bytes, without: frozenset[bytes]) -> ChunkRecord:
        return self._store.read(self._domain, chunk_id, frozenset(self._key_ids) - without)


def rows_here(store: Repository, job: str, tenant: str) -> tuple[str, list[PointRow]]:
    """Return the tenant (the one that has such a job, where none is named) and the points of its job, oldest first.

    Raises UsageError where several tenants have a job of that name.
    """
    having = [one for one in store.tenants() if tenant in ("", one) and store.points(one, job)]
    if len(having) > 1:
        raise UsageError(
            f"{len(having)} tenants have a job {job!r} in this repository: {', '.join(having)}", "say which: --tenant"
        )
    rows = [_row(store, ref) for ref in store.points(having[0], job)] if having else []
    return (having[0] if having else tenant), rows


def _row(store: Repository, ref: PointRef) -> PointRow:
    try:
        head = decode_head(store.head_unproved(ref.tenant, ref.job, ref.point_id))
    except DamagedData:
        return PointRow(ref.point_id, ref.job, DAMAGED, ref.committed_ns)
    count, origin = head.statistics.get, ref.origin
    row = PointRow(
        head.point_id, ref.job, head.kind, head.created_ns, head.zone, head.encrypted, head.parent, head.workload,
        max(count("bytes", 0), 0), max(count("files", 0), 0), max(count("skipped", 0), 0),
    )  # fmt: skip
    if origin is None:
        return row
    copied = {"origin": origin.repository_id, "copied_ns": origin.copied_ns, "resealed": origin.resealed}
    return msgspec.structs.replace(row, **copied)


@asynccontextmanager
async def open_recovery_here(
    context: JobContext, store: Repository, tenant: str, row: PointRow, password: bytes
) -> AsyncIterator[Recovery]:
    """Open a point of a repository of this node, as `open_recovery` does one at a peer, and with the same errors."""
    opening = partial(_open, context, store, tenant, row, password)
    domain, opened = await trio.to_thread.run_sync(opening)
    router = Router()
    link = LinkHere(store, domain, opened, router)
    content = ChunkFetcher(opened.opener, opened.chunk_id_key)
    metadata = ChunkFetcher(opened.opener, opened.chunk_id_key, MANIFEST_CHUNK, MANIFEST_AHEAD_BYTES, kept=0)
    content.link = metadata.link = link
    router.fetchers = (metadata, content)
    async with open_tasks() as nursery:
        nursery.start_soon(link.run)
        yield Recovery(row, opened, link, content, metadata)
        nursery.cancel_scope.cancel()


def _open(
    context: JobContext, store: Repository, tenant: str, row: PointRow, password: bytes
) -> tuple[bytes, OpenedPoint]:
    """Return the domain of its chunks here, and the point."""
    ref = store.point(tenant, row.job, row.point)
    head = store.read_head(tenant, row.job, row.point)
    slots = list(store.slots_of(tenant, row.job, row.point).values())

    def place(head: PointHead) -> Place:
        return place_of(store, ref, head.domain, row.zone)

    return ref.domain, open_by(context, KeysAtHand.of(context.keys), head, slots, place, password)

"""Searching repositories at peers, by what a restore asks too: a session, heads, chunks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from pipeline.workers import Lane, processors
from protocol.messages import Chunk, GetPoint, PointHead
from transporter.errors import KMS_ERRORS, DamagedData, NoKey, RefusedByPeer, TransporterError
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import ChunkFetcher
from transporter.jobs.index_cache import IndexCache, StoredBlock
from transporter.jobs.open_chunk import open_chunk
from transporter.jobs.points import PointRow, Where
from transporter.jobs.recovery import RecoverySession, open_head, open_recovery_session, wait_for
from transporter.jobs.search_point import Groups, PointGroup
from transporter.jobs.search_together import ReadTogether, Wanted, by_id
from transporter.points.ways import KeysAtHand
from transporter.workloads.fsi import MAX_BLOCK

T = TypeVar("T")

# Of blocks that were asked for and are not here yet: enough for a line of 100 Mbit/s and 200 ms, packed.
AHEAD_BYTES = 12 << 20
USUAL_BLOCK = 160 << 10
# Heads that are asked for together. Each is some 100 KiB where a point has a million files.
HEADS_AT_ONCE = 16
# Sessions beside the first, each for a point that one cannot serve; each takes a control connection of the peer's 64.
SESSIONS_BESIDE = 8


async def open_points(
    context: JobContext,
    where: Where,
    rows: list[PointRow],
    session: RecoverySession,
    at_hand: KeysAtHand,
    failed: Callable[[PointRow, TransporterError], None],
) -> list[PointGroup]:
    """Open points of one job; ``failed`` hears of those that do not open. Raises what the link raises."""
    groups = Groups(where.job, str(where))
    started = await session.link.started()
    room = trio.CapacityLimiter(HEADS_AT_ONCE)
    one = Lane(1)

    async def open_one(row: PointRow) -> None:
        async with room:
            question = GetPoint(repository=where.repository, job=where.job, point=row.point)
            try:
                answer, head = await session.link.request(question, b"", PointHead)
            except RefusedByPeer as error:
                failed(row, error)
                return
            opening = partial(open_head, context, at_hand, where.job, row, started, bytes(head), answer.slots)
            try:
                opened = await one.run(opening)
            except (NoKey, DamagedData, RefusedByPeer, *KMS_ERRORS) as error:
                failed(row, error)
                return
        groups.add(opened, sealed=opened.ring is not None)

    async with open_tasks() as nursery:
        for row in rows:
            nursery.start_soon(open_one, row)
    return groups.newest_first()


class ChunksThere:
    """Chunks of a group of points at a peer.

    In zone ``source`` one session gives every chunk of the job. Else the peer opens what it sends, and in one session
    only what the keys of one point open: most often all, as a point inherits the keys of those before. What is refused
    is asked for again in a session of the point that wants it.
    """

    def __init__(
        self,
        context: JobContext,
        where: Where,
        session: RecoverySession,
        group: PointGroup,
        rows: list[PointRow],
        cache: IndexCache,
    ) -> None:
        self._context = context
        self._where = where
        self._group = group
        self._rows = {row.point: row for row in rows}
        self._lane = Lane(processors())
        self._cache = cache
        self._opener = group.opener()
        self.together = ReadTogether(self._read_kept)
        self._first = self._fetcher(session)
        self._beside: dict[int, tuple[trio.Event, list[ChunkFetcher]]] = {}
        self._nursery: trio.Nursery | None = None

    def attach(self, nursery: trio.Nursery) -> None:
        """Keep further sessions, and the tasks that read what is kept here, in this nursery."""
        self._nursery = nursery
        self.together.attach(nursery)

    def _fetcher(self, session: RecoverySession) -> ChunkFetcher:
        group = self._group
        fetcher = ChunkFetcher(
            self._opener, group.chunk_id_key, MAX_BLOCK, AHEAD_BYTES, kept=0, usual=USUAL_BLOCK, opened=self._keep
        )
        fetcher.link = session.link
        session.router.fetchers = (fetcher,)
        return fetcher

    async def fetch(self, number: int, chunk_id: bytes, work: Callable[[memoryview], T]) -> T:
        """Fetch a chunk, open and check it, and work on its plaintext in a thread. Raises DamagedData."""
        try:
            return await self._use(self._first, chunk_id, work)
        except DamagedData:
            row = self._rows[self._group.points[number].point]
            if row.zone == Zone.SOURCE or self._nursery is None:
                raise
            return await self._use(await self._session_of(number, row), chunk_id, work)

    def _read_kept(self, batch: list[Wanted]) -> None:
        """Use what the cache has. What is wrong there is asked for at the peer, which is what a cache is worth."""
        asked = by_id(batch)
        for block in self._cache.get(list(asked)):
            form = block.codec, block.plain_length, block.stored
            with suppress(DamagedData, NoKey, ValueError):
                plain = open_chunk(self._opener, self._group.chunk_id_key, MAX_BLOCK, block.chunk_id, *form)
                for wanted in asked[block.chunk_id]:
                    wanted.use(plain)

    async def _use(self, fetcher: ChunkFetcher, chunk_id: bytes, work: Callable[[memoryview], T]) -> T:
        wanted = await fetcher.want(chunk_id)
        try:
            return await self._lane.run(work, await wait_for(wanted))
        finally:
            fetcher.done(wanted)

    def _keep(self, header: Chunk, stored: memoryview) -> None:
        """Keep a block that was found in order, as it came; in the thread that opened it."""
        if self._cache.put(StoredBlock(header.id, header.codec, header.plain_length, bytes(stored))):
            self._cache.flush()

    async def _session_of(self, number: int, row: PointRow) -> ChunkFetcher:
        if number not in self._beside:
            if len(self._beside) >= SESSIONS_BESIDE:
                raise DamagedData(
                    "a block of the index is of no use in this session", "search that point alone: --point"
                )
            self._beside[number] = trio.Event(), []
            assert self._nursery is not None
            self._nursery.start_soon(self._keep_session, number, row)
        ready, made = self._beside[number]
        await ready.wait()
        return made[0]

    async def _keep_session(self, number: int, row: PointRow) -> None:
        ready, made = self._beside[number]
        async with open_recovery_session(self._context, self._where, row, announce=False) as session:
            await session.link.started()
            made.append(self._fetcher(session))
            ready.set()
            await trio.sleep_forever()

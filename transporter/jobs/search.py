"""Search: entries of restore points by path, size, time and type, from their file-system indexes.

Places are gone through one after the other, the jobs of a place with the newest point first, and all points of a job
side by side (search_sweep.py). What cannot be reached, opened or read is noted, and the rest is searched all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import trio

from pipeline.run import open_tasks
from transporter.errors import KMS_ERRORS, DamagedData, NoKey, TransporterError, UsageError
from transporter.events import DamageFound, FoundFile, Note, SearchHits, display_path
from transporter.jobs import search_here
from transporter.jobs.context import JobContext
from transporter.jobs.points import DAMAGED, LATEST, PointRow, Where, expected_zone, list_points
from transporter.jobs.search_here import ChunksHere, PointHere, open_store, points_here
from transporter.jobs.search_point import PointGroup, SearchPoint
from transporter.jobs.search_report import SearchReport
from transporter.jobs.search_source import Blocks, Chunks, FsiSource, ManifestSource
from transporter.jobs.search_sweep import Finding, Source, sweep
from transporter.points.ways import KeysAtHand
from transporter.repository import Repository
from transporter.workloads.fsi_query import Query

if TYPE_CHECKING:
    from transporter.jobs.search_there import ChunksThere

# Findings that travel together: the first of them must not wait for many others.
HITS_AT_ONCE = 256
# Steps of the search without a finding between two looks at whether it was cancelled: a millisecond or two.
EMPTY_AT_ONCE = 64


@dataclass(frozen=True)
class SearchOrder:
    """What a person asked for. Empty or None: no such bound. ``at``: PEER/REPOSITORY, or a repository of this node.

    ``point``: latest, or the beginning of an id. ``from_ns`` and ``to_ns`` bound the time of a point, inclusively.
    ``each``: a line for each point that has a version, not one for all. ``latest``: of each path the newest version.
    """

    query: Query
    job: str = ""
    at: str = ""
    point: str = ""
    from_ns: int | None = None
    to_ns: int | None = None
    each: bool = False
    latest: bool = False
    limit: int = 0
    zone: str = ""


Row = TypeVar("Row", PointRow, PointHere)


async def search(context: JobContext, order: SearchOrder) -> SearchReport:
    """Search; findings are published as they are found. Raises UsageError for what is no question.

    What went wrong on the way is in the report.
    """
    return await _Search(context, order).run()


class _Enough(Exception):
    """As many lines as were asked for are out."""


class _Search:
    def __init__(self, context: JobContext, order: SearchOrder) -> None:
        self._context = context.each_peer_once()
        self._order = order
        self._matcher = order.query.compiled()
        self._at_hand = KeysAtHand.of(context.keys)
        self.report = SearchReport()

    async def run(self) -> SearchReport:
        here, there = _places(self._context, self._order)
        for where in there:
            if not self.report.cut:
                with self._noted(str(where)):
                    await self._there(where)
        for name in here:
            if not self.report.cut:
                with self._noted(name):
                    await self._here(name)
        return self.report

    @contextmanager
    def _noted(self, place: str) -> Iterator[None]:
        try:
            yield
        except _Enough:
            self.report.cut = True
        except (TransporterError, OSError) as error:
            known = error if isinstance(error, TransporterError) else TransporterError(str(error))
            self.report.unreached[place] = (known.code, known.what, known.remedy)

    # --- which points -------------------------------------------------------------------------------------------

    def _chosen(self, rows: Sequence[Row]) -> list[Row]:
        """Return the points of one job that are asked for, newest first."""
        order = self._order
        newest = sorted(rows, key=lambda row: row.created_ns, reverse=True)
        if order.point == LATEST:
            newest = newest[:1]
        elif order.point:
            newest = [row for row in newest if row.point.hex().startswith(order.point.lower())]
        low = order.from_ns if order.from_ns is not None else -1
        high = order.to_ns if order.to_ns is not None else 1 << 64
        return [row for row in newest if low <= row.created_ns <= high]

    def _damaged(self, point: bytes, what: str) -> None:
        self.report.damaged.append(point.hex())
        self._context.bus.publish(DamageFound(where=f"restore point {point.hex()[:8]}", what=what))

    def _not_open(self, point: bytes, error: TransporterError, *, foreign: bool = False) -> None:
        if isinstance(error, DamagedData):
            self._damaged(point, error.what)
        elif foreign:
            self.report.foreign += 1
        else:
            self.report.closed += 1
            if isinstance(error, KMS_ERRORS):
                self.report.shut = self.report.shut or (error.code, error.what, error.remedy)
            if not isinstance(error, NoKey):
                self._context.say(f"restore point {point.hex()[:8]} is not searched: {error}")

    # --- repositories of this node ------------------------------------------------------------------------------

    async def _here(self, name: str) -> None:
        store = await trio.to_thread.run_sync(open_store, self._context, name)
        try:
            rows = await trio.to_thread.run_sync(
                points_here, store, self._order.job, lambda point: self._damaged(point, "it does not prove itself")
            )
            for _job, some in _by_job(rows, lambda row: (row.tenant, row.job)):
                await self._job_here(store, name, self._chosen(some))
        finally:
            store.close()

    async def _job_here(self, store: Repository, name: str, rows: list[PointHere]) -> None:
        if not rows:
            return

        def failed(row: PointHere, error: TransporterError) -> None:
            self._not_open(row.point, error, foreign=search_here.is_foreign(row))

        groups = await trio.to_thread.run_sync(
            search_here.open_points, self._context, store, name, rows, self._at_hand, failed
        )
        for group in groups:
            await self._group(group, ChunksHere(store, group))

    # --- repositories at peers ----------------------------------------------------------------------------------

    async def _there(self, where: Where) -> None:
        rows = await list_points(self._context, where)
        for row in rows:
            if row.kind == DAMAGED:
                self._damaged(row.point, "the target cannot read it any more")
        sound = [row for row in rows if row.kind != DAMAGED]
        for job, some in _by_job(sound, lambda row: row.job):
            chosen = self._of_its_zone(job, self._chosen(some))
            for alike in _by_origin(chosen):
                await self._job_there(Where(where.peer, where.repository, job), alike)

    def _of_its_zone(self, job: str, rows: list[PointRow]) -> list[PointRow]:
        """Leave out the points that are not of the zone they must be of: the peer alone says that they are ours."""
        zone = expected_zone(self._context, job, self._order.zone)
        others = sorted({row.zone for row in rows if row.zone != zone})
        if others:
            self.report.other_zone += sum(row.zone != zone for row in rows)
            text = (
                f"restore points of job {job} are of zone {', '.join(others)}, not {zone}, and are not searched: --zone"
            )
            self._context.bus.publish(Note(text=text, job=job))
        return [row for row in rows if row.zone == zone]

    async def _job_there(self, where: Where, rows: list[PointRow]) -> None:
        # Here: a search of this node's own repositories must not wait for the import of what makes a line.
        from transporter.jobs.index_cache import IndexCache
        from transporter.jobs.recovery import open_recovery_session
        from transporter.jobs.search_there import ChunksThere, open_points

        def failed(row: PointRow, error: TransporterError) -> None:
            self._not_open(row.point, error)

        async with open_recovery_session(self._context, where, rows[0], announce=False) as session:
            groups = await open_points(self._context, where, rows, session, self._at_hand, failed)
            with closing(IndexCache(self._context.home.index_cache)) as cache:
                for group in groups:
                    chunks = ChunksThere(self._context, where, session, group, rows, cache)
                    try:
                        await self._group(group, chunks)
                    except _Enough:
                        session.hurry = self.report.cut = True
                        return

    # --- one job ------------------------------------------------------------------------------------------------

    async def _group(self, group: PointGroup, chunks: ChunksHere | ChunksThere) -> None:
        points = group.points
        self.report.points += len(points)
        slow = sum(not point.fsi for point in points)
        self.report.slow += slow
        if slow:
            text = f"{slow} restore points of job {points[0].job} have no file-system index: their manifests are read"
            self._context.bus.publish(Note(text=text, job=points[0].job))
        async with open_tasks() as nursery:
            chunks.attach(nursery)
            blocks = Blocks(chunks, self._matcher, nursery)
            sources = [_source(blocks, chunks, number, group) for number in range(len(points))]
            found = _Found(self._context, self._order, self.report, points)
            await sweep(sources, found.take, lambda number, error: self._damaged(points[number].point, error.what))
            nursery.cancel_scope.cancel()
        if self.report.cut:
            raise _Enough


def _source(blocks: Blocks, chunks: Chunks, number: int, group: PointGroup) -> Source:
    point = group.points[number]
    if point.fsi:
        return FsiSource(blocks, number, point.fsi)
    return ManifestSource(blocks, chunks, number, point.manifest, group.chunk_id_key)


class _Found:
    """Makes lines of findings, and publishes them."""

    def __init__(
        self, context: JobContext, order: SearchOrder, report: SearchReport, points: list[SearchPoint]
    ) -> None:
        self._context = context
        self._order = order
        self._report = report
        self._points = points
        self._names = [point.point.hex() for point in points]
        self._last_path: bytes | None = None
        self._empty = 0

    async def take(self, findings: list[Finding]) -> bool:
        """Publish; return whether more is wanted."""
        order, report = self._order, self._report
        lines: list[FoundFile] = []
        for finding in findings:
            path = finding.hit.path
            if order.latest and path == self._last_path:
                continue
            self._last_path = path
            for sources in [[one] for one in finding.sources] if order.each else [finding.sources]:
                if order.limit and report.hits >= order.limit:
                    report.cut = True
                    await self._publish(lines)
                    return False
                report.hits += 1
                lines.append(self._line(finding, sources))
                if len(lines) >= HITS_AT_ONCE:
                    await self._publish(lines)
                    lines = []
        await self._publish(lines)
        return True

    def _line(self, finding: Finding, sources: Sequence[int]) -> FoundFile:
        hit, newest, oldest = finding.hit, self._points[sources[0]], self._points[sources[-1]]
        return FoundFile(
            path=display_path(hit.path),
            size=hit.size,
            mtime_ns=hit.mtime_ns,
            kind=hit.kind,
            job=newest.job,
            repository=newest.repository,
            point=self._names[sources[0]],
            created_ns=newest.created_ns,
            points=len(sources),
            oldest_ns=oldest.created_ns,
        )

    async def _publish(self, lines: list[FoundFile]) -> None:
        bus = self._context.bus
        if not lines:
            # Most blocks hold nothing that is looked for: not a turn of the scheduler for each.
            self._empty = (self._empty + 1) % EMPTY_AT_ONCE
            if self._empty:
                return
        else:
            bus.publish(SearchHits(hits=lines))
        if bus.room is not None:
            await bus.room()
        await trio.lowlevel.checkpoint()


T = TypeVar("T")
K = TypeVar("K", str, tuple[str, str])


def _by_job(rows: list[Row], key: Callable[[Row], K]) -> list[tuple[K, list[Row]]]:
    """Return the points of each job, that with the newest point first."""
    jobs = [(job, list(some)) for job, some in groupby(sorted(rows, key=key), key=key)]
    return sorted(jobs, key=lambda pair: max(row.created_ns for row in pair[1]), reverse=True)


def _by_origin(rows: list[PointRow]) -> list[list[PointRow]]:
    """Divide points by what their keys are bound to and where their chunks lie: copies are of another place."""
    parts: dict[tuple[bytes, bytes, bool], list[PointRow]] = {}
    for row in rows:
        parts.setdefault((row.origin, row.domain if row.is_copy else b"", row.resealed), []).append(row)
    return list(parts.values())


def _places(context: JobContext, order: SearchOrder) -> tuple[list[str], list[Where]]:
    """Return the repositories of this node, and those at peers, that are searched."""
    config, job = context.config, order.job
    if order.at:
        peer, slash, repository = order.at.partition("/")
        if not slash:
            config.repository(peer)
            return [peer], []
        if not peer or not repository:
            raise UsageError(f"--at {order.at}: not a repository", "write PEER/REPOSITORY, or one of this node")
        return [], [Where(peer, repository, job)]
    if job and job in config.jobs:
        return [], [Where(config.jobs[job].peer, config.jobs[job].repository, job)]
    offered = {(peer.name, offer) for peer in context.catalog.peers() for offer in peer.offers}
    used = {(one.peer, one.repository) for one in config.jobs.values()}
    return sorted(config.repositories), [Where(peer, name, job) for peer, name in sorted(offered | used)]

"""Searching the repositories of this node: for reading only, beside the daemon that writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from pipeline.trust_zone import Zone
from transporter.errors import KMS_ERRORS, DamagedData, NoKey, TransporterError
from transporter.jobs.context import JobContext
from transporter.jobs.open_chunk import open_chunk
from transporter.jobs.opening import open_by
from transporter.jobs.search_point import Groups, PointGroup
from transporter.jobs.search_together import ReadTogether, Wanted, by_id
from transporter.points.assemble import Place
from transporter.points.copied import place_of
from transporter.points.ways import KeysAtHand
from transporter.repository import PointMissing, PointRef, Repository
from transporter.repository.point_head import PointHead, decode_head
from transporter.workloads.fsi import MAX_BLOCK

T = TypeVar("T")


@dataclass(frozen=True)
class PointHere:
    """What is known of a point of a repository of this node without opening it."""

    tenant: str
    job: str
    point: bytes
    created_ns: int
    zone: str
    ref: PointRef


def open_store(context: JobContext, name: str) -> Repository:
    """Open a repository of the configuration. Raises what opening one raises."""
    settings = context.config.repository(name)
    place = context.home.repository_path(name, settings.path)
    return Repository.open(place, context.clock, writable=False)


def points_here(store: Repository, job: str, damaged: Callable[[bytes], None]) -> list[PointHere]:
    """Return the points of a job (empty: of all), of all tenants; ``damaged`` hears of those that do not prove."""
    found = []
    for tenant in store.tenants():
        for name, point in store.point_ids(tenant):
            if job and name != job:
                continue
            try:
                ref, raw = store.point_unproved(tenant, name, point)
                head = decode_head(raw)
            except PointMissing:
                continue
            except DamagedData:
                damaged(point)
                continue
            found.append(PointHere(tenant, name, point, head.created_ns, head.zone, ref))
    return found


def open_points(
    context: JobContext,
    store: Repository,
    name: str,
    points: list[PointHere],
    at_hand: KeysAtHand,
    failed: Callable[[PointHere, TransporterError], None],
) -> list[PointGroup]:
    """Open the points of one tenant's job; ``failed`` hears of those that do not open."""
    groups = Groups(points[0].job, name)
    for row in points:
        try:
            head_bytes = store.read_head(row.tenant, row.job, row.point)
            slots = list(store.slots_of(row.tenant, row.job, row.point).values())

            def place(head: PointHead, row: PointHere = row) -> Place:
                return place_of(store, row.ref, head.domain, head.zone)

            opened = open_by(context, at_hand, head_bytes, slots, place)
        except PointMissing:
            continue
        except (NoKey, DamagedData, *KMS_ERRORS) as error:
            failed(row, error)
            continue
        groups.add(opened, sealed=opened.ring is not None, domain=row.ref.domain)
    return groups.newest_first()


class ChunksHere:
    """Chunks of a group of points of a repository of this node."""

    def __init__(self, store: Repository, group: PointGroup) -> None:
        self._store = store
        self._domain = group.domain
        self._opener = group.opener()
        self._chunk_id_key = group.chunk_id_key
        self.together = ReadTogether(self._read)

    def attach(self, nursery: trio.Nursery) -> None:
        """Keep the tasks that read in this nursery."""
        self.together.attach(nursery)

    async def fetch(self, _number: int, _chunk_id: bytes, _work: Callable[[memoryview], T]) -> T:
        """What is not here is nowhere."""
        raise DamagedData("a chunk is missing from the repository", "scrub it; the other points are searched")

    def _read(self, batch: list[Wanted]) -> None:
        asked = by_id(batch)

        def fail(chunk_id: bytes, error: DamagedData) -> None:
            for wanted in asked[chunk_id]:
                wanted.error = error

        for record in self._store.read_many(self._domain, list(asked), self._opener.key_ids, on_problem=fail):
            form = record.codec, record.plain_length, record.stored
            try:
                plain = open_chunk(self._opener, self._chunk_id_key, MAX_BLOCK, record.chunk_id, *form)
                for wanted in asked[record.chunk_id]:
                    wanted.use(plain)
            except DamagedData as error:
                fail(record.chunk_id, error)


def is_foreign(row: PointHere) -> bool:
    """Tell whether a point is a tenant's to open, and not this node's."""
    return row.zone == Zone.SOURCE

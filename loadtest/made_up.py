"""Repositories of any number of small chunks, made up: what grows with their number is measured, not their bytes.

A job of many runs: each needs the same number of chunks, in the order of its files, and each replaces some of them in
small groups here and there, as a tree of files does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from transporter.clock import Clock
from transporter.repository import ChunkRecord, PointRef, Repository
from transporter.repository.index import Index, PackRow
from transporter.repository.layout import Layout
from transporter.repository.limits import PACK_RECORDS
from transporter.repository.points import point_parts
from transporter.repository.rebuild import ROW, encode_row
from transporter.repository.record import Entry
from transporter.repository.sorted_records import SortedRecords

DOMAIN, KEY = b"D" * 16, b"K" * 32
TENANT, JOB = "office", "docs"
STORED = bytes(64)
# Neighbours that change together.
GROUP = 4


def chunk_id(number: int) -> bytes:
    """Return the id of a chunk: evenly spread, as those of a keyed hash."""
    return blake3(number.to_bytes(8, "big")).digest()


def record(number: int) -> ChunkRecord:
    """Return a chunk."""
    return ChunkRecord(chunk_id(number), KEY, 0, len(STORED), STORED)


@dataclass(frozen=True)
class Shape:
    """So many ``chunks`` in all, by so many ``points``; ``share`` of the chunks is in the first point already."""

    chunks: int
    points: int
    share: float = 0.1

    @property
    def width(self) -> int:
        """Return how many chunks a point needs."""
        return max(GROUP, int(self.chunks * self.share))

    @property
    def fresh(self) -> int:
        """Return how many chunks each later run brings."""
        return max(1, (self.chunks - self.width) // max(1, self.points - 1))


def runs(shape: Shape, seed: int = 1) -> Iterator[tuple[range, list[bytes]]]:
    """Yield, for each run, the numbers of the chunks that are new, and all that its point needs, in order."""
    dice = random.Random(seed)
    needed = [chunk_id(number) for number in range(shape.width)]
    yield range(shape.width), needed
    at = shape.width
    for _ in range(shape.points - 1):
        new = range(at, at + shape.fresh)
        numbers = iter(new)
        while True:
            place = dice.randrange(shape.width)
            group = [number for number, _ in zip(numbers, range(GROUP), strict=False)]
            for offset, number in enumerate(group):
                needed[(place + offset) % shape.width] = chunk_id(number)
            if not group:
                break
        at += shape.fresh
        yield new, needed


def make(place: Path, shape: Shape, clock: Clock) -> list[bytes]:
    """Write a repository by the product's own writer; return the ids of its points in the order of their commits."""
    points = []
    with Repository.create(place, clock=clock) as repository:
        for new, needed in runs(shape):
            writer = repository.writer(DOMAIN, TENANT)
            for number in new:
                writer.append(record(number))
            writer.close()
            points.append(_put_point(repository, clock, needed))
    return points


def _put_point(repository: Repository, clock: Clock, needed: list[bytes]) -> bytes:
    """Write a point as it is, unchecked: looking up its chunks would take longer than all the rest."""
    point = clock.random_bytes(16)
    ref = PointRef(TENANT, JOB, point, DOMAIN, clock.now_ns(), 0, b"")
    path = repository.path / "points" / TENANT / JOB / point.hex()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(point_parts(repository.repository_id, ref, b"head", needed)))
    return point


def remove_points(place: Path, points: list[bytes]) -> None:
    """Take points away, as retention does."""
    for point in points:
        (place / "points" / TENANT / JOB / point.hex()).unlink()
        shutil.rmtree(place / "slots" / point.hex(), ignore_errors=True)


def make_index(place: Path, chunks: int, clock: Clock) -> None:
    """Make a repository whose index knows so many chunks, and no pack that holds one: for questions alone."""
    Repository.create(place, clock=clock).close()
    layout = Layout(place)
    layout.index_seal.unlink()  # it is changed below
    index = Index(layout.index, writable=True)
    try:
        with SortedRecords(layout.journal, ROW.size) as rows:
            for start in range(0, chunks, PACK_RECORDS):
                numbers = range(start, min(chunks, start + PACK_RECORDS))
                entries = [Entry(DOMAIN, chunk_id(number), KEY, 0, len(STORED), len(STORED), 0) for number in numbers]
                name = blake3(b"pack %d" % start).digest()
                pack, domains, keys = index.number_pack(PackRow(name, TENANT, len(entries), 1), entries)
                rows.add(encode_row(entry, pack, domains, keys) for entry in entries)
            for block in rows.blocks():
                index.put_rows(map(ROW.unpack, block))
    finally:
        index.close()

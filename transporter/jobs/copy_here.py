"""The ends of a copy that are repositories of this node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice

import trio

from pipeline.run import open_tasks
from pipeline.workers import Lane
from protocol.data import HEADROOM
from protocol.messages import Chunk as ChunkHeader
from transporter.errors import DamagedData
from transporter.jobs.copy_ends import CopyRow, Lost, StoredChunk, Take
from transporter.points.chunk_writing import ChunkWriter
from transporter.points.copied import (
    CopiedPoint,
    CopyToCommit,
    Form,
    commit_copy,
    copied_record,
    copy_domain,
    digest_of,
    digests,
    needs_parts,
    read_copy,
)
from transporter.points.needed_chunks import NeededChunks
from transporter.repository import ChunkRecord, Repository
from transporter.repository.record import HEADER_LENGTH

# Chunks that are read in one hop into a thread: some milliseconds of work, so that cancelling is never far away.
READ_TOGETHER = 8


class SourceHere:
    """A repository of this node that is read; see `CopySource`."""

    def __init__(self, name: str, pin: bytes, store: Repository) -> None:
        self.name = name
        self.pin = pin
        self.repository_id = store.repository_id
        self._store = store
        self._lane = Lane(2)
        self._point: tuple[str, str, bytes] | None = None
        self._domain = b""
        self._parts: tuple[int, Iterator[bytes]] | None = None

    async def open_point(self, row: CopyRow) -> CopiedPoint:
        """Read a point."""
        self._point = row.tenant, row.row.job, row.row.point
        self._parts = None
        copied = await self._lane.run(read_copy, self._store, *self._point)
        self._domain = copied.domain
        return copied

    async def needs(self, start: int) -> bytes:
        """Read a part of the list."""
        assert self._point is not None
        if self._parts is None or self._parts[0] != start:
            self._parts = start, needs_parts(self._store, *self._point, start)
        _, parts = self._parts
        part: bytes = await self._lane.run(next, parts, b"")
        self._parts = start + len(part) // 32, parts
        return part

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Look up under which keys chunks lie."""
        return await self._lane.run(self._store.have, self._domain, ids)

    async def fetch(self, domain: bytes, forms: list[Form], take: Take, lost: Lost) -> None:
        """Read chunks, a few in one hop into a thread."""
        waiting = iter(forms)
        while group := list(islice(waiting, READ_TOGETHER)):
            for form, chunk in zip(group, await self._lane.run(self._read, domain, group), strict=True):
                if chunk is None:
                    lost(form, "missing or damaged")
                else:
                    await take(chunk)

    def _read(self, domain: bytes, forms: list[Form]) -> list[StoredChunk | None]:
        return [self._read_one(domain, form) for form in forms]

    def _read_one(self, domain: bytes, form: Form) -> StoredChunk | None:
        try:
            record = self._store.read(self._domain, form[0], (form[1],))
        except DamagedData:
            return None
        return StoredChunk(record, _with_headroom(record), digest_of(domain, record))

    async def digests(self, domain: bytes, forms: list[Form]) -> bytes:
        """Read chunks and prove them."""
        return await self._lane.run(digests, self._store, self._domain, domain, forms)


class TargetHere:
    """A repository of this node that points are copied to; see `CopyTarget`. ``job``: under which they lie."""

    def __init__(self, name: str, store: Repository, tenant: str, job: str, domain: bytes) -> None:
        self.name = name
        self.repository_id = store.repository_id
        self.tenant = tenant
        self.domain = domain
        self.on_stored: Callable[[bytes], None] = lambda _ids: None
        self._job = job
        self._store = store
        self._lookups = Lane(2)
        self._writes = Lane(2)
        self._writer = store.writer(domain, tenant)
        self.chunks = ChunkWriter(self._writer, _to_record, self._acknowledge, self._writes)
        self._needs = NeededChunks(store.scratch)

    async def _acknowledge(self, ids: bytes) -> None:
        self.on_stored(ids)

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Look up under which keys chunks lie."""
        return await self._lookups.run(self._store.have, self.domain, ids)

    async def put(self, chunk: StoredChunk) -> None:
        """Queue a chunk for the writer."""
        record = chunk.record
        header = ChunkHeader(id=record.chunk_id, codec=record.codec, plain_length=record.plain_length)
        await self.chunks.put(header, memoryview(record.stored))

    async def digests(self, forms: list[Form]) -> bytes:
        """Read chunks back and prove them."""
        return await self._lookups.run(digests, self._store, self.domain, self.domain, forms)

    async def begin_commit(self) -> None:
        """Begin a new list of needed chunks."""
        self._needs.close()
        self._needs = NeededChunks(self._store.scratch)

    async def add_needs(self, ids: bytes) -> None:
        """Note a part of the list."""
        await self._writes.run(self._needs.add, ids)

    async def commit(self, point: CopiedPoint) -> bytes:
        """Commit."""
        return await self._writes.run(self._commit, point)

    def _commit(self, point: CopiedPoint) -> bytes:
        copy = CopyToCommit(
            self.tenant, self._job, self.domain, point.point_id, point.origin, point.head, list(point.slots)
        )
        return commit_copy(self._store, copy, self._needs.parts(), self._needs.digest())

    async def close(self) -> None:
        """Close the packs: what came is worth keeping."""
        self._needs.close()
        with trio.CancelScope(shield=True):
            await self._writes.run(self.chunks.drain)


@asynccontextmanager
async def open_target_here(
    store: Repository, name: str, tenant: str, job: str, chunks: bytes
) -> AsyncIterator[TargetHere]:
    """Write to a repository of this node, which must be open for writing. ``chunks``: what they are called."""
    target = TargetHere(name, store, tenant, job, copy_domain(tenant, chunks))
    try:
        async with open_tasks() as nursery:
            nursery.start_soon(target.chunks.write)
            nursery.start_soon(target.chunks.sync)
            yield target
            nursery.cancel_scope.cancel()
    finally:
        await target.close()


def _with_headroom(record: ChunkRecord) -> bytes | None:
    """Return the memory of a record that was just read, where its header is as long as a frame's room in front."""
    memory = memoryview(record.stored).obj
    if isinstance(memory, bytes) and len(memory) == HEADROOM + len(record.stored) and HEADER_LENGTH == HEADROOM:
        return memory
    return None


def _to_record(header: ChunkHeader, stored: memoryview) -> ChunkRecord:
    return copied_record(header.id, header.codec, header.plain_length, stored)

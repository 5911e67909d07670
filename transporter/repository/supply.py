"""What a damaged repository gets back from a copy of it: the very same records, no keys needed.

A stored chunk does not depend on its pack, so a copy (a repository with the same domains) has it byte for byte: same
chunk id, same key id, same sealed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from transporter.errors import DamagedData
from transporter.repository import limits
from transporter.repository.healing import Supply
from transporter.repository.lost import LostChunk
from transporter.repository.record import ChunkRecord, Entry, seal_header


class Copy(Protocol):
    """A repository as far as it is read for another one's sake."""

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """Return the keys under which each chunk is stored."""

    def read(self, domain: bytes, chunk_id: bytes, key_ids: Sequence[bytes] | None = None) -> ChunkRecord:
        """Return the proven record of a chunk under one of ``key_ids``."""


Check = Callable[[ChunkRecord], None]
"""Raises DamagedData for a record that cannot be the one that was lost."""


class Wanted(NamedTuple):
    """A chunk that is looked for in a copy; ``key_id`` None: under every key that the copy has it under.

    ``proved``: ``check`` knows its hash, so that nothing but the very same record passes.
    """

    tenant: str
    domain: bytes
    chunk_id: bytes
    key_id: bytes | None
    check: Check | None = None
    proved: bool = False


def wanted_of(tenant: str, chunk: LostChunk, digest: bytes) -> Wanted:
    """Return what is wanted in place of a lost chunk. ``digest``: of its record, empty where nobody knows it."""

    def check(record: ChunkRecord) -> None:
        same = (record.codec, record.plain_length, len(record.stored)) == (
            chunk.codec,
            chunk.plain_length,
            chunk.stored_length,
        )
        if not same or (digest and seal_header(chunk.domain, record)[-len(digest) :] != digest):
            raise DamagedData(
                f"what the copy has of chunk {chunk.chunk_id.hex()} is not what was lost", "take another copy"
            )

    return Wanted(tenant, chunk.domain, chunk.chunk_id, chunk.key_id, check, bool(digest))


class Store(Protocol):
    """Takes a record for a tenant's domain; durable once the call that uses it has returned."""

    def __call__(self, domain: bytes, tenant: str, record: ChunkRecord) -> None:
        """Store a record."""


@dataclass
class Supplied:
    """What a copy gave, and what it does not have either. ``unproved``: of these chunks nobody here knew the hash."""

    chunks: int = 0
    unproved: int = 0
    bytes: int = 0
    still_lost: int = 0
    problems: list[str] = field(default_factory=list)

    def failed(self, error: DamagedData) -> None:
        """Note why a chunk could not be had; the first few of these are told."""
        self.still_lost += 1
        if len(self.problems) < limits.REPORTED:
            self.problems.append(error.what)


def supply_from(copy: Copy) -> Supply:
    """Return what looks a record up in a copy."""

    def look_up(entry: Entry) -> ChunkRecord | None:
        try:
            return copy.read(entry.domain, entry.chunk_id, [entry.key_id])
        except DamagedData:
            return None  # it is not there, or damaged, too

    return look_up


def supply_chunks(
    copy: Copy,
    store: Store,
    wanted: Iterable[Wanted],
    before_read: Callable[[int], None] | None = None,
) -> Supplied:
    """Store each of these that the copy has and that passes its check."""
    done = Supplied()
    for tenant, domain, chunk_id, key_id, check, proved in wanted:
        keys = [key_id] if key_id is not None else list(copy.have(domain, [chunk_id])[0])
        found = False
        problem = DamagedData(f"chunk {chunk_id.hex()} is not in the copy, either")
        for key in keys:
            try:
                record = copy.read(domain, chunk_id, [key])
                if check is not None:
                    check(record)
            except DamagedData as error:
                problem = error
                continue
            if before_read is not None:
                before_read(len(record.stored))
            store(domain, tenant, record)
            done.bytes += len(record.stored)
            found = True
        if found:
            done.chunks += 1
            done.unproved += not proved
        else:
            done.failed(problem)
    return done

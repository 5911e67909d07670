"""The two ends of a copy, as the job sees them: a repository that is read, and one that points are copied to.

Each is a repository of this node or one at a peer; `copy_here` and `copy_there` are the two kinds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from transporter.jobs.points import PointRow
from transporter.points.copied import CopiedPoint, Form
from transporter.repository import ChunkRecord


@dataclass(slots=True)
class StoredChunk:
    """A form of a chunk on its way. ``memory``: the stored bytes with room for a frame in front, if there is any."""

    record: ChunkRecord
    memory: bytes | bytearray | memoryview | None = field(default=None, repr=False)
    # The hash of its record in the target's domain; empty until somebody computes it.
    digest: bytes = b""

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return len(self.record.stored)

    @property
    def form(self) -> Form:
        """Which form it is."""
        return self.record.chunk_id, self.record.key_id


@dataclass(frozen=True)
class CopyRow:
    """A point that is there to be copied. ``tenant``: whose it is, in a repository of this node."""

    tenant: str
    row: PointRow


Take = Callable[[StoredChunk], Awaitable[None]]
Lost = Callable[[Form, str], None]


class CopySource(Protocol):
    """A repository that is read. One point at a time, after `open_point`.

    ``pin``: of the node that it is at; ``name``: for people. Every method raises LinkBroken when a line breaks.
    """

    name: str
    pin: bytes
    repository_id: bytes

    async def open_point(self, row: CopyRow) -> CopiedPoint:
        """Return what a copy of the point is made of. Raises PointMissing, DamagedData."""

    async def needs(self, start: int) -> bytes:
        """Return ids that the point needs from number ``start`` on; none where there are no more."""

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Return the key ids under which each chunk is stored."""

    async def fetch(self, domain: bytes, forms: list[Form], take: Take, lost: Lost) -> None:
        """Hand each of these forms to ``take``, in any order; ``lost`` hears of those that cannot be had, and why.

        ``domain``: of the target, for the chunks' digests.
        """

    async def digests(self, domain: bytes, forms: list[Form]) -> bytes:
        """Return the hashes that the records of these forms would have in ``domain``, zeros for what is not whole."""


class CopyTarget(Protocol):
    """A repository that points are copied to. ``domain``: of the chunks of this session; ``tenant``: whose they are."""

    name: str
    repository_id: bytes
    tenant: str
    domain: bytes
    # Told the ids of chunks that are durable, 32 bytes each.
    on_stored: Callable[[bytes], None]

    async def forms(self, ids: list[bytes]) -> list[tuple[bytes, ...]]:
        """Return the key ids under which each chunk is stored."""

    async def put(self, chunk: StoredChunk) -> None:
        """Hand over a chunk; waits for room."""

    async def digests(self, forms: list[Form]) -> bytes:
        """Read these forms back, prove them, and return their records' hashes; zeros for what is not whole."""

    async def begin_commit(self) -> None:
        """The needs of a point follow, by `add_needs`, and then `commit`."""

    async def add_needs(self, ids: bytes) -> None:
        """Name needed chunks, in the point's order."""

    async def commit(self, point: CopiedPoint) -> bytes:
        """Make the point visible; return its hash there."""

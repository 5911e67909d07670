"""One restore point copied: what the target lacks is fetched, stored and read back; what it has already is compared.

    needs ─▶ forms here and there ─┬─ lacking ─▶ fetch ─▶ put ─▶ stored ─▶ read back ─┬─▶ commit
                                   └─ known, and not proven before ─▶ both ends read ─┘

The point appears only when every form of every chunk it needs was read at the target and has the hash that the source's
record has. Memory is bounded: of chunks under way by bytes, of hashes that wait for their proof by number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from blake3 import blake3

from pipeline.channel import ByteBudget
from pipeline.run import open_tasks
from pipeline.workers import Lane
from protocol.limits import MAX_FORMS_AT_ONCE
from transporter.errors import DamagedData, TransporterError
from transporter.jobs.copy_ends import CopySource, CopyTarget, StoredChunk
from transporter.jobs.copy_seal import PointSealing
from transporter.points.copied import NO_DIGEST, CopiedPoint, Form, digest_of, ids_of
from transporter.repository import PLAIN_KEY, ChunkRecord
from transporter.repository.point_head import PointHead
from transporter.repository.points import OriginalHash

# Chunks that were put and are not durable: memory here, and what a broken line can cost.
UNSTORED_BYTES = 24 << 20
# Forms that are durable and not yet proven, some 200 bytes each: then fetching waits for the proof.
UNPROVEN_AT_MOST = 4096
# Forms that are read back together: 128 MiB of ordinary chunks, so that an answer never takes long.
PROVE_TOGETHER = 128
FETCH_TOGETHER = 64
FETCHES = 2
# As the target allows: 32 bytes a chunk, 4 million chunks (4 TB).
NEEDS_AT_MOST = 4 << 20


@dataclass
class CopyCounters:
    """What happened so far, over all points and attempts. ``moved`` grows with whatever shows life."""

    bytes_new: int = 0
    bytes_stored: int = 0
    chunks: int = 0
    chunks_new: int = 0
    compared: int = 0
    points: int = 0
    redials: int = 0
    moved: int = 0


class Proven:
    """Chunks that a point at the target needs which was proven when it was copied: 8 bytes of each id, sorted.

    Two ids of one beginning, once in 10^7 repositories of 10^6 chunks, would leave one of them uncompared.
    """

    def __init__(self) -> None:
        self._sorted = array("Q")
        self._new = array("Q")

    def add(self, ids: list[bytes]) -> None:
        """Note chunks; they count from `settle` on."""
        self._new.extend(int.from_bytes(chunk_id[:8], "big") for chunk_id in ids)

    def settle(self) -> None:
        """Let the chunks that were added take the place of the older ones."""
        self._sorted, self._new = array("Q", sorted(self._new)), array("Q")

    def forget_new(self) -> None:
        """Forget what was added since."""
        self._new = array("Q")

    def __contains__(self, chunk_id: bytes) -> bool:
        number = int.from_bytes(chunk_id[:8], "big")
        at = bisect_left(self._sorted, number)
        return at < len(self._sorted) and self._sorted[at] == number


@dataclass
class PointCopy:
    """One point on its way. ``note``: told what a person should read."""

    source: CopySource
    target: CopyTarget
    point: CopiedPoint
    proven: Proven
    counters: CopyCounters
    note: Callable[[str], None]
    # How the point is sealed anew on the way; None: it goes as it is.
    seal: PointSealing | None = None
    # The target seals it: then only what is plain does (other forms belong to a time when the job was sealed), and this
    # proves that it is what its id names. Raises DamagedData.
    plain: Callable[[ChunkRecord], None] | None = None
    _budget: ByteBudget = field(default_factory=lambda: ByteBudget("copied", UNSTORED_BYTES))
    _hashing: Lane = field(default_factory=lambda: Lane(2))
    _unstored: Counter[bytes] = field(default_factory=Counter)
    # Of chunks that were put: their forms, with the hashes that must come back, and bytes.
    _sent: dict[bytes, list[tuple[bytes, bytes, int]]] = field(default_factory=dict)
    _stored: deque[tuple[Form, bytes]] = field(default_factory=deque)
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _fetched: bool = False
    # Of chunks that lie in several forms: how many of these can still be had.
    _several: dict[bytes, int] = field(default_factory=dict)
    _failure: TransporterError | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> bytes:
        """Copy it and return its hash at the target. Raises DamagedData, what the ends raise, and LinkBroken."""
        head = self.point.decoded()
        self.target.on_stored = self._on_stored
        self.proven.forget_new()
        with self._scope:
            async with open_tasks() as nursery:
                fetch, to_fetch = trio.open_memory_channel[list[Form]](4)
                compare, to_compare = trio.open_memory_channel[list[Form]](2)
                nursery.start_soon(self._look_up, head, fetch, compare)
                nursery.start_soon(self._fetch_all, to_fetch)
                nursery.start_soon(self._compare, to_compare)
                nursery.start_soon(self._prove)
        if self._failure is not None:
            raise self._failure
        await self.target.begin_commit()
        start = 0
        while part := await self.source.needs(start):
            start += len(part) // 32
            await self.target.add_needs(part)
        point = self.point
        if self.seal is not None:
            point = await self._hashing.run(self.seal.sealed_point)
        point_hash = await self.target.commit(point)
        self.proven.settle()
        return point_hash

    # --- what is needed -------------------------------------------------------------------------------------------

    async def _look_up(
        self, head: PointHead, fetch: trio.MemorySendChannel[list[Form]], compare: trio.MemorySendChannel[list[Form]]
    ) -> None:
        origin = self.point.origin
        count, digest = 0, blake3()
        proof = OriginalHash(origin, self.point.point_id, head.domain, head.job, self.point.head)
        with fetch, compare:
            while part := await self.source.needs(count):
                count += len(part) // 32
                if count > NEEDS_AT_MOST or len(part) % 32:
                    raise DamagedData(f"a restore point at {self.source.name} needs too many chunks", "split the job")
                digest.update(part)
                proof.update(part)
                ids = ids_of(part)
                for at in range(0, len(ids), MAX_FORMS_AT_ONCE):
                    await self._sort_out(ids[at : at + MAX_FORMS_AT_ONCE], fetch, compare)
        if (count, digest.digest(), proof.digest()) != (self.point.needs, head.needs_hash, origin.hash):
            raise DamagedData(
                f"restore point {self.point.point_id.hex()[:8]} at {self.source.name} is not what was committed",
                "scrub that repository; copy the point from another one",
            )

    async def _sort_out(
        self, ids: list[bytes], fetch: trio.MemorySendChannel[list[Form]], compare: trio.MemorySendChannel[list[Form]]
    ) -> None:
        """Divide chunks into what is to be fetched, what is to be compared, and what was proven before."""
        here: list[tuple[bytes, ...]] = []
        there: list[tuple[bytes, ...]] = []

        async def ask_source() -> None:
            here.extend(await self.source.forms(ids))

        async with open_tasks() as nursery:
            nursery.start_soon(ask_source)
            there.extend(await self.target.forms(ids))
        self.counters.moved += 1
        self.proven.add(ids)
        lacking: list[Form] = []
        known: list[Form] = []
        for chunk_id, all_keys, has in zip(ids, here, there, strict=True):
            keys = all_keys
            self.counters.chunks += 1
            if not keys:
                raise self._lost(chunk_id, "missing")
            if self.plain is not None:
                if PLAIN_KEY not in keys:
                    raise self._lost(chunk_id, "stored under keys of other restore points only")
                keys = (PLAIN_KEY,)
            if self.seal is not None:
                self._sort_out_sealed(self.seal, chunk_id, keys, has, lacking, known)
                continue
            if len(keys) > 1:
                self._several[chunk_id] = len(keys)
            lacking += [(chunk_id, key_id) for key_id in keys if key_id not in has]
            if len(keys) > 1 or chunk_id not in self.proven:
                known += [(chunk_id, key_id) for key_id in keys if key_id in has]
        for at in range(0, len(lacking), FETCH_TOGETHER):
            await fetch.send(lacking[at : at + FETCH_TOGETHER])
        for at in range(0, len(known), PROVE_TOGETHER):
            await compare.send(known[at : at + PROVE_TOGETHER])

    def _sort_out_sealed(
        self,
        seal: PointSealing,
        chunk_id: bytes,
        keys: Sequence[bytes],
        has: Sequence[bytes],
        lacking: list[Form],
        known: list[Form],
    ) -> None:
        """One form will do at either end, as this node has the keys; it must be one that the point opens."""
        there, here = seal.usable(has), seal.readable(keys)
        if there is not None:
            if chunk_id not in self.proven:
                known.append((chunk_id, there))
        elif here is None:
            raise self._lost(chunk_id, "stored under keys of other restore points only")
        else:
            lacking.append((chunk_id, here))

    def _lost(self, chunk_id: bytes, reason: str) -> DamagedData:
        return DamagedData(
            f"chunk {chunk_id.hex()[:16]} of restore point {self.point.point_id.hex()[:8]} is {reason} at"
            f" {self.source.name}",
            "scrub that repository; the other points are copied all the same",
        )

    def _on_lost(self, form: Form, reason: str) -> None:
        """A form cannot be had. Where the chunk lies in others, too, nobody without keys can tell which one counts."""
        chunk_id = form[0]
        left = self._several.get(chunk_id, 1) - 1
        if left:
            self._several[chunk_id] = left
            self.note(f"a second form of chunk {chunk_id.hex()[:16]} is {reason} at {self.source.name}: left out")
            return
        self._failure = self._failure or self._lost(chunk_id, reason)
        self._scope.cancel()

    # --- what is fetched ------------------------------------------------------------------------------------------

    async def _fetch_all(self, to_fetch: trio.MemoryReceiveChannel[list[Form]]) -> None:
        async with open_tasks() as nursery:
            for _ in range(FETCHES):
                nursery.start_soon(self._fetch, to_fetch.clone())
            to_fetch.close()
        self._fetched = True
        self._changed.unpark_all()

    async def _fetch(self, to_fetch: trio.MemoryReceiveChannel[list[Form]]) -> None:
        async for forms in to_fetch:
            await self.source.fetch(self.target.domain, forms, self._take, self._on_lost)

    async def _take(self, chunk: StoredChunk) -> None:
        if self.seal is not None:
            chunk = await self._hashing.run(self.seal.seal, chunk)
        if self.plain is not None:
            await self._hashing.run(self.plain, chunk.record)
        record = chunk.record
        await self._budget.acquire(chunk.size)
        while len(self._stored) >= UNPROVEN_AT_MOST:
            await self._changed.park()
        digest = chunk.digest or await self._hashing.run(digest_of, self.target.domain, record)
        self._unstored[record.chunk_id] += 1
        self._sent.setdefault(record.chunk_id, []).append((record.key_id, digest, chunk.size))
        self.counters.chunks_new += 1
        self.counters.bytes_new += record.plain_length
        self.counters.bytes_stored += chunk.size
        self.counters.moved += 1
        await self.target.put(chunk)

    # --- what is proven -------------------------------------------------------------------------------------------

    def _on_stored(self, ids: bytes) -> None:
        for chunk_id in ids_of(ids):
            if chunk_id not in self._unstored:
                continue
            self._unstored[chunk_id] -= 1
            if self._unstored[chunk_id]:
                continue  # another form of it is on its way
            del self._unstored[chunk_id]
            for key_id, digest, size in self._sent.pop(chunk_id):
                self._budget.release(size)
                self._stored.append(((chunk_id, key_id), digest))
        self.counters.moved += 1
        self._changed.unpark_all()

    async def _prove(self) -> None:
        """Read back what is durable, a batch at a time, until all of it was."""
        while True:
            done = self._fetched and not self._unstored
            if len(self._stored) < PROVE_TOGETHER and not done:
                await self._changed.park()
                continue
            if not self._stored:
                return
            batch = [self._stored.popleft() for _ in range(min(PROVE_TOGETHER, len(self._stored)))]
            read = ids_of(await self.target.digests([form for form, _ in batch]))
            self._changed.unpark_all()
            self.counters.moved += 1
            for (form, expected), found in zip(batch, read, strict=True):
                if found != expected:
                    raise self._differs(form, found)

    async def _compare(self, to_compare: trio.MemoryReceiveChannel[list[Form]]) -> None:
        """Have both ends read what the target had already."""
        async with to_compare:
            async for forms in to_compare:
                await self._compare_some(forms)

    async def _compare_some(self, forms: list[Form]) -> None:
        if self.seal is not None:
            await self._see_whole(forms)
            return
        expected: list[bytes] = []

        async def ask_source() -> None:
            expected.extend(ids_of(await self.source.digests(self.target.domain, forms)))

        async with open_tasks() as nursery:
            nursery.start_soon(ask_source)
            found = ids_of(await self.target.digests(forms))
        self.counters.compared += len(forms)
        self.counters.moved += 1
        for form, there, here in zip(forms, expected, found, strict=True):
            if there == NO_DIGEST:
                self._on_lost(form, "missing or damaged")
            elif there != here:
                raise self._differs(form, here)

    async def _see_whole(self, forms: list[Form]) -> None:
        """Chunks that were sealed here before: there is nothing like them at the source. They must be whole."""
        for form, found in zip(forms, ids_of(await self.target.digests(forms)), strict=True):
            if found == NO_DIGEST:
                raise self._differs(form, found)
        self.counters.compared += len(forms)
        self.counters.moved += 1

    def _differs(self, form: Form, found: bytes) -> DamagedData:
        what = "is not there whole" if found == NO_DIGEST else "is not what the source has"
        return DamagedData(
            f"{self.target.name} says that it stored chunk {form[0].hex()[:16]}, and it {what}",
            "scrub the repository there (`scrub --heal`), then copy again; the point was not committed",
        )

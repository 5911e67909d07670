"""Points as a search reads them: block after block, each block read and matched once, whichever points have it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar, cast

import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData
from transporter.jobs.preamble import split_preamble
from transporter.jobs.search_together import ReadTogether, Wanted
from transporter.keys.chunk_id import ChunkIdKey
from transporter.workloads.fsi import FsiBlock
from transporter.workloads.fsi_builder import FsiBuilder, fsi_seed
from transporter.workloads.fsi_query import BlockHits, Matcher
from transporter.workloads.manifest import ManifestDecoder

T = TypeVar("T")

# Blocks that each point asks for ahead, and that are under way in all: some 90 KiB each, for a moment.
AHEAD = 16
UNDER_WAY = 64
# Blocks that were matched stay as long as other points may want them: those come by soon, as all go in path order.
KEPT_BLOCKS = 8192
KEPT_HITS = 40_000
"""A hit takes some 350 bytes."""
# Chunks of a manifest that are asked for together, where a point has no index.
MANIFEST_AHEAD = 8


class Chunks(Protocol):
    """Where the chunks of some points come from. ``number``: of the point that wants it."""

    @property
    def together(self) -> ReadTogether:
        """What reads the chunks that lie at hand."""

    async def fetch(self, number: int, chunk_id: bytes, work: Callable[[memoryview], T]) -> T:
        """Get a chunk that is not at hand; open and check it, and work on its plaintext. Raises DamagedData."""


async def use_chunk(chunks: Chunks, number: int, chunk_id: bytes, work: Callable[[memoryview], T]) -> T:
    """Read a chunk, open and check it, and work on its plaintext in a thread. Raises DamagedData."""
    wanted = await chunks.together.want(chunk_id, work)
    if wanted.found:
        return cast(T, wanted.result)
    if wanted.error is not None:
        raise wanted.error
    return await chunks.fetch(number, chunk_id, work)


@dataclass
class _Block:
    ready: trio.Event = field(default_factory=trio.Event)
    hits: BlockHits | None = None
    error: DamagedData | None = None


class Blocks:
    """The blocks of the points of one job, by chunk id."""

    def __init__(self, chunks: Chunks, matcher: Matcher, nursery: trio.Nursery) -> None:
        self._chunks = chunks
        self._matcher = matcher
        self._nursery = nursery
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()
        self._hits = 0
        self._under_way = 0
        self.read = 0

    async def get(self, number: int, chunk_id: bytes) -> BlockHits:
        """Return the hits of a block. Raises DamagedData."""
        block = self._blocks.get(chunk_id) or self._begin(number, chunk_id)
        # Mostly it is there: thousands of blocks need no turn of the scheduler each. Whoever publishes gives turns.
        if not block.ready.is_set():
            await block.ready.wait()
        if block.error is not None:
            raise block.error
        assert block.hits is not None
        return block.hits

    def ahead(self, number: int, chunk_id: bytes) -> bool:
        """Begin to read a block that will be wanted soon; False where enough are under way."""
        if chunk_id in self._blocks:
            return True
        if self._under_way >= UNDER_WAY:
            return False
        self._begin(number, chunk_id)
        return True

    async def made(self, chunk_id: bytes, data: bytes) -> BlockHits:
        """Return the hits of a block that was made here, of a manifest; the same object as every other's."""
        known = self._blocks.get(chunk_id)
        if known is not None:
            await known.ready.wait()
            if known.hits is not None:
                return known.hits
        hits = await trio.to_thread.run_sync(self._matched, memoryview(data))
        block = _Block(hits=hits)
        block.ready.set()
        if chunk_id not in self._blocks:
            self._blocks[chunk_id] = block
            self._keep(block)
        return hits

    def _begin(self, number: int, chunk_id: bytes) -> _Block:
        block = self._blocks[chunk_id] = _Block()
        self._under_way += 1
        self._chunks.together.begin(Wanted(chunk_id, self._matched, partial(self._tried, number, block)))
        return block

    def _tried(self, number: int, block: _Block, wanted: Wanted) -> None:
        if wanted.found:
            block.hits = cast(BlockHits, wanted.result)
        elif wanted.error is not None:
            block.error = wanted.error
        else:
            self._nursery.start_soon(self._fetch, number, wanted.chunk_id, block)
            return
        self._settled(block)

    async def _fetch(self, number: int, chunk_id: bytes, block: _Block) -> None:
        try:
            block.hits = await self._chunks.fetch(number, chunk_id, self._matched)
        except DamagedData as error:
            block.error = error
        self._settled(block)

    def _settled(self, block: _Block) -> None:
        self._under_way -= 1
        self.read += 1
        block.ready.set()
        self._keep(block)

    def _matched(self, data: memoryview) -> BlockHits:
        return self._matcher.match(FsiBlock.parse(data))

    def _keep(self, block: _Block) -> None:
        self._hits += _weight(block)
        while self._hits > KEPT_HITS or len(self._blocks) > KEPT_BLOCKS:
            chunk_id, oldest = next(iter(self._blocks.items()))
            if not oldest.ready.is_set() or oldest is block:
                return
            del self._blocks[chunk_id]
            self._hits -= _weight(oldest)


def _weight(block: _Block) -> int:
    return len(block.hits.hits) if block.hits is not None else 0


class FsiSource:
    """A point with an index. ``ids``: its blocks."""

    def __init__(self, blocks: Blocks, number: int, ids: Sequence[bytes]) -> None:
        self._blocks = blocks
        self._number = number
        self._ids = ids
        self._at = self._asked = 0

    async def next(self) -> BlockHits | None:
        """Return the hits of the next block. Raises DamagedData."""
        at = self._at
        if at == len(self._ids):
            return None
        self._at = at + 1
        self._asked = max(self._asked, at)
        while self._asked < min(at + AHEAD, len(self._ids)):
            if not self._blocks.ahead(self._number, self._ids[self._asked]):
                break
            self._asked += 1
        return await self._blocks.get(self._number, self._ids[at])


class ManifestSource:
    """A point without an index: its blocks are made of its manifest, as its run would have made them."""

    def __init__(self, blocks: Blocks, chunks: Chunks, number: int, ids: Sequence[bytes], key: ChunkIdKey) -> None:
        self._blocks = blocks
        self._chunks = chunks
        self._number = number
        self._left = deque(ids)
        self._key = key
        self._builder = FsiBuilder(fsi_seed(key.id_of))
        self._decoder = ManifestDecoder()
        self._start: bytearray | None = bytearray()
        self._made: deque[bytes] = deque()

    async def next(self) -> BlockHits | None:
        """Return the hits of the next block. Raises DamagedData."""
        while not self._made:
            if not self._left:
                return None
            await self._read_on()
        data = self._made.popleft()
        return await self._blocks.made(self._key.id_of(data), data)

    async def _read_on(self) -> None:
        ids = [self._left.popleft() for _ in range(min(MANIFEST_AHEAD, len(self._left)))]
        pieces: dict[int, bytes] = {}

        async def read(place: int, chunk_id: bytes) -> None:
            pieces[place] = await use_chunk(self._chunks, self._number, chunk_id, bytes)

        async with open_tasks() as nursery:
            for place, chunk_id in enumerate(ids):
                nursery.start_soon(read, place, chunk_id)
        for place in range(len(ids)):
            self._made += await trio.to_thread.run_sync(self._blocks_of, pieces[place])
        if not self._left:
            self._decoder.finish()
            self._made += self._builder.finish()

    def _blocks_of(self, data: bytes) -> list[bytes]:
        if self._start is not None:
            self._start += data
            found = split_preamble(self._start)
            if found is None:
                return []
            self._start, data = None, found[1]
        return self._builder.add(self._decoder.feed(data))

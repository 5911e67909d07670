"""Entries of one restore point by name, size, time and type: a search of one point, opened as a restore opens it.

By its file-system index, which is a fifth of the manifest; without one by blocks that are made of the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import trio

from pipeline.run import open_tasks
from transporter.events import ListedFile, Listing, Note
from transporter.jobs.browse import room
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery, wait_for
from transporter.workloads.entry import Entry
from transporter.workloads.fsi import FsiBlock
from transporter.workloads.fsi_builder import FsiBuilder
from transporter.workloads.fsi_query import Hit, Matcher, Query

# Blocks between asking and matching: their bytes are bounded by the fetcher.
BLOCKS = 64
AT_ONCE = 256


@dataclass(frozen=True)
class FindOrder:
    """What matches one of ``queries`` is found."""

    where: PointOrder
    queries: Sequence[Query]


async def find(context: JobContext, order: FindOrder) -> int:
    """Publish what is found, in path order; return how much. Raises UsageError, DamagedData, and what opening does."""
    matchers = [query.compiled() for query in order.queries]
    async with open_ordered(context, order.where) as recovery:
        finder = _Find(context, matchers, recovery)
        if recovery.head.fsi is msgspec.UNSET:
            text = "the restore point has no file-system index: its manifest is read"
            context.bus.publish(Note(text=text, job=order.where.job))
            await finder.by_manifest()
        else:
            await finder.by_index([chunk_id for chunk_id, _length in recovery.head.fsi])
        return finder.count


class _Find:
    def __init__(self, context: JobContext, matchers: list[Matcher], recovery: Recovery) -> None:
        self._context = context
        self._matchers = matchers
        self._recovery = recovery
        self.count = 0

    async def by_index(self, ids: list[bytes]) -> None:
        send, receive = trio.open_memory_channel[Wanted](BLOCKS)

        async def want() -> None:
            with send:
                for chunk_id in ids:
                    await send.send(await self._recovery.content.want(chunk_id))

        async with open_tasks() as nursery:
            nursery.start_soon(want)
            async for wanted in receive:
                await self._match([await wait_for(wanted)])
                self._recovery.content.done(wanted)

    async def by_manifest(self) -> None:
        # Where blocks end is of no meaning here: nobody stores these.
        builder = FsiBuilder(0)

        async def use(_preamble: Preamble, records: list[Entry]) -> None:
            await self._match(await trio.to_thread.run_sync(builder.add, records))

        await self._recovery.read_manifest(use)
        await self._match(builder.finish())

    async def _match(self, blocks: Sequence[bytes | memoryview]) -> None:
        files = await trio.to_thread.run_sync(self._matched, blocks)
        for at in range(0, len(files), AT_ONCE):
            self._context.bus.publish(Listing(files=files[at : at + AT_ONCE]))
            await room(self._context.bus)
        self.count += len(files)

    def _matched(self, blocks: Sequence[bytes | memoryview]) -> list[ListedFile]:
        files = []
        for data in blocks:
            block = FsiBlock.parse(data)
            hits: dict[bytes, Hit] = {}
            for matcher in self._matchers:
                hits.update((hit.key, hit) for hit in matcher.match(block).hits)
            for key in sorted(hits):
                hit = hits[key]
                files.append(ListedFile(path=hit.path, kind=hit.kind, size=hit.size, mtime_ns=hit.mtime_ns))
        return files

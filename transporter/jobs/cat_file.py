"""The bytes of one file of a restore point, in order; each is proven before it is handed on.

    manifest → runs of the file → chunks asked for ahead → bytes

The description of a large file streams by, as everywhere: no step holds all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData, UsageError
from transporter.events import FileContent, display_path
from transporter.jobs.browse import Enough, WantedPath, empty_manifest, no_such_path, read_until_enough, room
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery, wait_for
from transporter.workloads.entry import CONTINUATION, MORE, Entry
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.layout import lay_out
from transporter.workloads.restore_path import DryWalk

# Runs between the manifest and the writing: their chunks are bounded by the fetcher.
RUNS = 64
# Bytes that are handed on together, and of zeros that stand for a hole.
PIECE = 256 << 10
_ZEROS = bytes(PIECE)

_KINDS = {"d": "a folder", "l": "a symbolic link", "p": "a pipe", "c": "a device", "b": "a device"}


@dataclass(frozen=True)
class CatOrder:
    """``path``: of a regular file, as listings show it."""

    where: PointOrder
    path: bytes


@dataclass(frozen=True)
class _Run:
    """``length`` bytes of a file: from ``offset`` on of a chunk, or zeros where there is none."""

    wanted: Wanted | None
    offset: int
    length: int


async def cat(context: JobContext, order: CatOrder) -> int:
    """Publish the content of a file; return its size. Raises UsageError, DamagedData, and what opening does."""
    async with open_ordered(context, order.where) as recovery:
        return await _Cat(context, order, recovery).run()


class _Cat:
    def __init__(self, context: JobContext, order: CatOrder, recovery: Recovery) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        self._walk: DryWalk | None = None
        self._wanted: WantedPath | None = None
        self._links = HardLinks()
        self._skipped: Entry | None = None
        self._under_way = False
        self._position = 0  # in the file, up to which its runs are known
        self.size = 0

    async def run(self) -> int:
        runs_in, runs_out = trio.open_memory_channel[_Run](RUNS)
        async with open_tasks() as nursery:
            nursery.start_soon(self._plan, runs_in)
            await self._write(runs_out)
        return self.size

    # --- what is needed -------------------------------------------------------------------------------------------

    async def _plan(self, runs: trio.MemorySendChannel[_Run]) -> None:
        async def use(preamble: Preamble, records: list[Entry]) -> None:
            if self._walk is None:
                self._walk = DryWalk(preamble.roots)
                self._wanted = WantedPath(self._order.path, preamble.roots)
                if self._wanted.everything:
                    raise UsageError("no file is named", "name one: `transporter ls JOB POINT -R` lists all")
            for record in await trio.to_thread.run_sync(self._chosen, records):
                await self._lay(record, runs)
                if not record.flags & MORE:
                    raise Enough

        with runs:
            if await read_until_enough(self._recovery, use):
                return
            if self._walk is None:
                raise empty_manifest()
            self._walk.finish()
            raise no_such_path(self._order.path)

    def _chosen(self, records: list[Entry]) -> list[Entry]:
        """Return those of these records that describe the file. Raises UsageError where there is none."""
        assert self._walk is not None and self._wanted is not None
        chosen: list[Entry] = []
        for record in records:
            self._walk.take(record)
            if record.flags & CONTINUATION:
                if self._under_way:
                    chosen.append(record)
                elif self._skipped is not None:
                    self._links.skip_more(self._skipped, record)
            elif self._wanted.match(record.path):
                chosen += self._content_of(record)
            elif self._wanted.passed(record.path):
                raise no_such_path(self._order.path)
            else:
                self._links.skip(record)
                self._skipped = record
            if chosen:
                self._under_way = bool(chosen[-1].flags & MORE)
                if not self._under_way:
                    break
        return chosen

    def _content_of(self, entry: Entry) -> list[Entry]:
        if entry.kind != "f":
            name = f"{display_path(entry.path)!r} is {_KINDS[entry.kind]}"
            if entry.kind == "l":
                name += f" to {display_path(entry.target)!r}"
            raise UsageError(name, "name a regular file")
        if not entry.link:
            return [entry]
        records = self._links.content_of(entry)
        if records is None:
            raise DamagedData(f"{display_path(entry.path)!r} is a link to something that is not in the manifest")
        return records

    async def _lay(self, record: Entry, runs: trio.MemorySendChannel[_Run]) -> None:
        laid, end = await trio.to_thread.run_sync(lay_out, record, self._position)
        position = self._position
        for chunk_id, at, offset, length in laid:
            if at > position:
                await runs.send(_Run(None, 0, at - position))
            await runs.send(_Run(await self._recovery.content.want(chunk_id, offset + length), offset, length))
            position = at + length
        if end > position:
            await runs.send(_Run(None, 0, end - position))
        self._position = end

    # --- the bytes ------------------------------------------------------------------------------------------------

    async def _write(self, runs: trio.MemoryReceiveChannel[_Run]) -> None:
        async for run in runs:
            if run.wanted is None:
                await self._zeros(run.length)
                continue
            plain = await wait_for(run.wanted)
            if run.offset + run.length > len(plain):
                raise DamagedData("the file goes on behind the end of a chunk", "run verify; restore another point")
            for at in range(run.offset, run.offset + run.length, PIECE):
                await self._hand_on(bytes(plain[at : min(at + PIECE, run.offset + run.length)]))
            self._recovery.content.done(run.wanted)

    async def _zeros(self, length: int) -> None:
        for at in range(0, length, PIECE):
            await self._hand_on(_ZEROS[: min(PIECE, length - at)])

    async def _hand_on(self, data: bytes) -> None:
        self.size += len(data)
        self._context.bus.publish(FileContent(data=data))
        await room(self._context.bus)
        await trio.lowlevel.checkpoint()

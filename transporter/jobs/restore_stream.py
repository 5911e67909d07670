"""A restore to a stream: one file's bytes, or a tree as tar, to a descriptor of this process, in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData, JobFailed
from transporter.events import FileSkipped, JobFinished, RangeLost, RestoreProgress, display_path
from transporter.given_path import NO_ROOM, no_room
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery, wait_for
from transporter.workloads.entry import Entry
from transporter.workloads.selection import Selection
from transporter.workloads.stream_plan import FilePlan, Item, Part, TarPlan, Zeros
from transporter.workloads.write_messages import Wish

# Parts of the stream between planning and writing; each part of a chunk is counted by the fetcher, besides.
ITEMS = 64
WRITE = 256 << 10
ZEROS = memoryview(bytes(WRITE))
PROGRESS_SECONDS = 0.25


class StreamRestore:
    """One restore to a stream: manifest → plan → fetch → write, each bounded."""

    def __init__(self, context: JobContext, job: str, wish: Wish, recovery: Recovery, fd: int) -> None:
        self._context = context
        self._job = job
        self._wish = wish
        self._recovery = recovery
        self._fd = fd
        self._plan: TarPlan | FilePlan | None = None
        self._gathered = bytearray()
        self._lost: set[bytes] = set()
        self.bytes_written = 0
        self.gaps = 0
        self._send, self._receive = trio.open_memory_channel[tuple[Item, Wanted | None]](ITEMS)

    @property
    def files(self) -> int:
        """Files in the stream so far."""
        return self._plan.files if self._plan is not None else 0

    @property
    def damaged(self) -> int:
        """Files some of whose content could not be had."""
        return len(self._lost)

    async def run(self) -> None:
        """Write the whole stream. Raises JobFailed, too, when whoever reads it has gone."""
        async with open_tasks() as watch:
            watch.start_soon(self._publish_progress)
            async with open_tasks() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
            watch.cancel_scope.cancel()
        assert self._plan is not None
        for asked in self._plan.not_found():
            self.gaps += 1
            reason = "nothing in the restore point matches it"
            self._context.bus.publish(FileSkipped(job=self._job, path=display_path(asked), reason=reason))

    async def _read(self) -> None:
        async def use(preamble: Preamble, entries: list[Entry]) -> None:
            plan = self._plan = self._plan or self._make_plan(preamble)
            for entry in entries:
                await self._pass_on(plan.take(entry))

        with self._send:
            await self._recovery.read_manifest(use)
            if self._plan is None:
                raise DamagedData("the manifest is empty", "restore another point")
            await self._pass_on(self._plan.end())

    def _make_plan(self, preamble: Preamble) -> TarPlan | FilePlan:
        selection = Selection(self._wish.include, self._wish.exclude, self._wish.paths)
        return (TarPlan if self._wish.tar else FilePlan)(preamble.roots, selection)

    async def _pass_on(self, items: Iterable[Item]) -> None:
        for item in items:
            wanted = None
            if isinstance(item, Part):
                wanted = await self._recovery.content.want(item.chunk_id, item.chunk_offset + item.length)
            await self._send.send((item, wanted))

    async def _write(self) -> None:
        async for item, wanted in self._receive:
            if wanted is not None:
                assert isinstance(item, Part)
                await self._put(await self._content(item, wanted))
                self._recovery.content.done(wanted)
            elif isinstance(item, Zeros):
                for part in zeros(item.length):
                    await self._put(part)
            else:
                assert isinstance(item, bytes)
                await self._put(item)
        await self._flush()

    async def _content(self, part: Part, wanted: Wanted) -> memoryview:
        try:
            plain = await wait_for(wanted)
            data = plain[part.chunk_offset : part.chunk_offset + part.length]
            if len(data) != part.length:
                raise DamagedData(f"a chunk is shorter than {part.path[:200]!r} says", "restore another point")
        except DamagedData as error:
            if not self._wish.keep_going:
                remedy = f"{error.remedy}; --keep-going puts zeros where something is lost"
                raise DamagedData(f"{error.what}: the stream is not whole", remedy) from error
            self._lose(part, error.what)
            return memoryview(bytes(part.length))
        return data

    def _lose(self, part: Part, reason: str) -> None:
        path = display_path(part.path)
        if part.path not in self._lost:
            self._lost.add(part.path)
            self.gaps += 1
            self._context.bus.publish(FileSkipped(job=self._job, path=path, reason=f"lost in part: {reason}"))
        self._context.bus.publish(
            RangeLost(job=self._job, path=path, offset=part.offset, length=part.length, reason=reason)
        )

    async def _put(self, data: bytes | memoryview) -> None:
        """Gather small parts: a system call for each header would cost more than its bytes."""
        self._gathered += data
        if len(self._gathered) >= WRITE:
            await self._flush()

    async def _flush(self) -> None:
        data, self._gathered = bytes(self._gathered), bytearray()
        try:
            # Whoever reads may take its time, for ever: a job that is stopped does not wait for it.
            await trio.to_thread.run_sync(_write_all, self._fd, data, abandon_on_cancel=True)
        except BrokenPipeError:
            raise JobFailed("whoever read the stream has gone before its end", "look at the reading program") from None
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise no_room(_name_of(self._fd)) from error
        self.bytes_written += len(data)

    def progress(self) -> RestoreProgress:
        """Return how far it is."""
        return RestoreProgress(
            job=self._job,
            point=self._recovery.row.point.hex(),
            bytes_written=self.bytes_written,
            bytes_received=self._recovery.link.bytes_received,
            files=self.files,
            bytes_total=self._recovery.row.size,
            files_total=self._recovery.row.files,
        )

    async def _publish_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            self._context.bus.publish(self.progress())

    def finished(self) -> JobFinished:
        """Return what it did, as far as it knows."""
        recovery = self._recovery
        return JobFinished(
            job=self._job,
            operation="restore",
            point=recovery.row.point.hex(),
            kind=recovery.row.kind,
            zone=recovery.row.zone,
            bytes_received=recovery.link.bytes_received,
            bytes_sent=recovery.link.bytes_sent,
            bytes_written=self.bytes_written,
            bytes_total=recovery.row.size,
            files=self.files,
            files_skipped=self.gaps,
            files_damaged=self.damaged,
            chunks=recovery.content.chunks,
            streams=recovery.link.streams,
            redials=recovery.redials[0],
        )


def _name_of(fd: int) -> str:
    """Return what a stream is written to, for people: a file where it was redirected to one."""
    with suppress(OSError):
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith("/"):
            return display_path(os.fsencode(path))
    return "standard output"


def zeros(length: int) -> Iterator[memoryview]:
    """Yield that many zeros, a piece at a time."""
    while length:
        part = min(length, WRITE)
        length -= part
        yield ZEROS[:part]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

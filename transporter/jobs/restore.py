"""Restore: entries and chunks in, a tree (or an image) out; nothing under its final name before it is whole."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from pipeline.run import open_tasks
from pipeline.workers import Lane
from transporter.errors import DamagedData
from transporter.events import FileNote, FileSkipped, JobFinished, JobStarted, RestoreProgress, display_path
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.manifest_stream import Preamble
from transporter.jobs.points import check_newest, choose_point, expected_zone, list_points, where_of
from transporter.jobs.recovery import Recovery, open_recovery, wait_for
from transporter.workloads.entry import Entry
from transporter.workloads.notes import Note
from transporter.workloads.restored import Group
from transporter.workloads.tree_restore import TreeWriter

# Groups (one chunk each) between planning and writing.
GROUPS = 64
PROGRESS_SECONDS = 0.25
# Threads that write large pieces. Small files come from one thread: two of them cost the kernel a third more for the
# same files, and need the interpreter lock at the same times.
WRITERS = 4


@dataclass(frozen=True)
class RestoreOrder:
    """What a person asked for. ``point``: ``latest``, an id or its beginning. ``output``: an absolute folder."""

    job: str
    point: str
    output: str
    include: list[str]
    overwrite: bool
    source: str
    password: bytes
    zone: str


async def run_restore(context: JobContext, order: RestoreOrder) -> JobFinished:
    """Restore a point. Raises every error of ``transporter.errors`` that a job can meet."""
    began = context.clock.monotonic()
    where = where_of(context, order.job, order.source)
    zone = expected_zone(context, order.job, order.zone)
    row = choose_point(await list_points(context, where), order.point, order.job, zone)
    point = row.point.hex()
    context.bus.publish(
        JobStarted(
            job=order.job, operation="restore", peer=where.peer, repository=where.repository, zone=row.zone, point=point
        )
    )
    async with open_recovery(context, where, row, order.password) as recovery:
        check_newest(context, where, order.point, row.point, recovery.head.created_ns)
        restore = _Restore(context, order, recovery)
        await restore.run()
    context.bus.publish(restore.progress())
    writer = restore.writer
    return JobFinished(
        job=order.job,
        operation="restore",
        point=point,
        kind=row.kind,
        zone=row.zone,
        bytes_received=recovery.link.bytes_received,
        bytes_sent=recovery.link.bytes_sent,
        bytes_written=writer.bytes_written if writer else 0,
        bytes_total=row.size,
        files=writer.files if writer else 0,
        files_skipped=restore.gaps,
        chunks=recovery.content.chunks,
        seconds=round(context.clock.monotonic() - began, 3),
        streams=recovery.link.streams,
        redials=recovery.redials[0],
    )


class _Restore:
    """One restore under way: manifest → plan → fetch → write, each bounded, all in one nursery."""

    def __init__(self, context: JobContext, order: RestoreOrder, recovery: Recovery) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        # The plan makes folders and the writer small files: in one thread they do not fight for the interpreter lock.
        self._lane = Lane(1)
        self._writers = Lane(WRITERS)
        self.writer: TreeWriter | None = None
        self.gaps = 0
        groups_in, groups_out = trio.open_memory_channel[tuple[Group, Wanted]](GROUPS)
        self._groups_in, self._groups_out = groups_in, groups_out

    async def run(self) -> None:
        """Restore everything and publish it; whatever goes wrong, nothing stays that was not whole."""
        try:
            async with open_tasks() as watch:
                watch.start_soon(self._publish_progress)
                async with open_tasks() as nursery:
                    nursery.start_soon(self._plan)
                    nursery.start_soon(self._write)
                watch.cancel_scope.cancel()
            if self.writer is None:
                raise DamagedData("the manifest is empty", "restore another point")
            await self._lane.run(self.writer.finish)
            self._report()
            await self._lane.run(self.writer.publish)
            self._report()
        except BaseException:
            if self.writer is not None:
                with trio.CancelScope(shield=True):
                    await self._lane.run(self.writer.abort)
            raise

    async def _plan(self) -> None:
        """Walk the manifest: that makes folders and links, and says which chunks are needed."""

        async def use(preamble: Preamble, entries: list[Entry]) -> None:
            if self.writer is None:
                self.writer = await self._lane.run(self._open_writer, preamble)
            await self._want(await self._lane.run(self.writer.place, entries))

        with self._groups_in:
            await self._recovery.read_manifest(use)
            if self.writer is not None:
                await self._want(await self._lane.run(self.writer.end))

    async def _want(self, groups: list[Group]) -> None:
        for group in groups:
            await self._groups_in.send((group, await self._recovery.content.want(group.chunk_id, group.reach)))

    def _open_writer(self, preamble: Preamble) -> TreeWriter:
        order = self._order
        return TreeWriter(
            order.output,
            self._recovery.row.point.hex(),
            preamble.roots,
            include=order.include,
            overwrite=order.overwrite,
        )

    async def _write(self) -> None:
        """Write groups: small files in the order of the plan, large pieces a few at once beside them."""
        room = trio.CapacityLimiter(WRITERS)
        async with open_tasks() as nursery:
            async for group, wanted in self._groups_out:
                if group.large:
                    place = object()  # two groups may want one chunk
                    await room.acquire_on_behalf_of(place)
                    nursery.start_soon(self._write_large, group, wanted, room, place)
                else:
                    await self._write_group(group, wanted, self._lane)

    async def _write_large(self, group: Group, wanted: Wanted, room: trio.CapacityLimiter, place: object) -> None:
        await self._write_group(group, wanted, self._writers)
        room.release_on_behalf_of(place)

    async def _write_group(self, group: Group, wanted: Wanted, lane: Lane) -> None:
        writer = self.writer
        if writer is None:
            raise RuntimeError("a group without a writer")
        try:
            plain = await wait_for(wanted)
        except DamagedData as error:
            await lane.run(writer.skip_group, group, error.what)
        else:
            await lane.run(writer.write_group, group, plain)
        self._recovery.content.done(wanted)
        self._report()

    def _report(self) -> None:
        if self.writer is None:
            return
        for note in self.writer.take_notes():
            self._publish_note(note)

    def _publish_note(self, note: Note) -> None:
        path = display_path(note.path)
        if note.gap:
            self.gaps += 1
            self._context.bus.publish(FileSkipped(job=self._order.job, path=path, reason=note.text))
        else:
            self._context.bus.publish(FileNote(job=self._order.job, path=path, note=note.text))

    def progress(self) -> RestoreProgress:
        """Return how far it is."""
        writer = self.writer
        return RestoreProgress(
            job=self._order.job,
            point=self._recovery.row.point.hex(),
            bytes_written=writer.bytes_written if writer else 0,
            bytes_received=self._recovery.link.bytes_received,
            files=writer.files if writer else 0,
            bytes_total=self._recovery.row.size,
            files_total=self._recovery.row.files,
        )

    async def _publish_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            self._context.bus.publish(self.progress())

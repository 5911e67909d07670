"""Restore: entries and chunks in, a tree (or an image) out; nothing under its final name before it is whole."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec
import trio

from pipeline.run import open_tasks
from transporter.errors import DamagedData
from transporter.events import (
    FileNote,
    FilePlanned,
    FileSkipped,
    JobFinished,
    JobStarted,
    RangeLost,
    RestoreProgress,
    display_path,
)
from transporter.events import Note as RunNote
from transporter.jobs.context import JobContext
from transporter.jobs.fetch import Wanted
from transporter.jobs.point_order import Found, PointOrder, find_ordered, open_found
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery, wait_for
from transporter.jobs.restore_stream import StreamRestore
from transporter.jobs.tree_writing import TreeWriting, open_tree_writing
from transporter.workloads.notes import Note
from transporter.workloads.write_messages import Open, Wish
from transporter.workloads.write_messages import Wanted as Group

# Groups (one chunk each) between planning and writing.
GROUPS = 64
PROGRESS_SECONDS = 0.25
EVERYTHING = Wish()


@dataclass(frozen=True)
class RestoreOrder:
    """What a person asked for. ``point``: ``latest``, an id or its beginning. ``output``: an absolute folder.

    ``to_fd``: a descriptor that gets a stream instead.
    """

    job: str
    point: str
    output: str
    include: list[str]
    overwrite: bool
    source: str
    password: bytes
    zone: str
    wish: Wish = EVERYTHING
    to_fd: int = -1
    tenant: str = ""

    @property
    def meant(self) -> PointOrder:
        """Which point is meant."""
        return PointOrder(self.job, self.point, self.source, self.password, self.zone, self.tenant)

    def full_wish(self) -> Wish:
        """Return what of the point is wanted, and how."""
        include, overwrite = self.include or self.wish.include, self.overwrite or self.wish.overwrite
        return msgspec.structs.replace(self.wish, include=include, overwrite=overwrite)


async def run_restore(context: JobContext, order: RestoreOrder) -> JobFinished:
    """Restore a point. Raises every error of ``transporter.errors`` that a job can meet."""
    began = context.clock.monotonic()
    found = await find_ordered(context, order.meant)
    where, row = found.where, found.row
    point = row.point.hex()
    context.bus.publish(
        JobStarted(
            job=order.job, operation="restore", peer=where.peer, repository=where.repository, zone=row.zone, point=point
        )
    )
    if order.to_fd >= 0:
        return await _to_stream(context, order, found, began)
    async with open_tree_writing(context.spare) as writing, open_found(context, found) as recovery:
        restore = _Restore(context, order, recovery, writing)
        await restore.run()
    context.bus.publish(restore.progress())
    return JobFinished(
        job=order.job,
        operation="restore",
        point=point,
        kind=row.kind,
        zone=row.zone,
        bytes_received=recovery.link.bytes_received,
        bytes_sent=recovery.link.bytes_sent,
        bytes_written=writing.bytes_written,
        bytes_total=row.size,
        files=writing.files,
        files_unchanged=writing.unchanged,
        files_skipped=restore.gaps,
        files_damaged=writing.damaged,
        chunks=recovery.content.chunks,
        seconds=round(context.clock.monotonic() - began, 3),
        streams=recovery.link.streams,
        redials=recovery.redials[0],
        dry_run=order.wish.dry_run,
    )


async def _to_stream(context: JobContext, order: RestoreOrder, found: Found, began: float) -> JobFinished:
    async with open_found(context, found) as recovery:
        stream = StreamRestore(context, order.job, order.full_wish(), recovery, order.to_fd)
        await stream.run()
    context.bus.publish(stream.progress())
    return msgspec.structs.replace(stream.finished(), seconds=round(context.clock.monotonic() - began, 3))


class _Restore:
    """One restore under way: manifest → plan → fetch → write, each bounded, all in one nursery."""

    def __init__(self, context: JobContext, order: RestoreOrder, recovery: Recovery, writing: TreeWriting) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        self._writing = writing
        self._opened = False
        self.gaps = 0
        groups_in, groups_out = trio.open_memory_channel[tuple[Group, Wanted]](GROUPS)
        self._groups_in, self._groups_out = groups_in, groups_out

    async def run(self) -> None:
        """Restore everything and publish it; whatever goes wrong, nothing stays that was not whole."""
        async with open_tasks() as watch:
            watch.start_soon(self._publish_progress)
            async with open_tasks() as nursery:
                nursery.start_soon(self._plan)
                nursery.start_soon(self._write)
            await self._writing.finish()
            watch.cancel_scope.cancel()
        self._report()
        await self._writing.publish()
        self._report()

    async def _plan(self) -> None:
        """Walk the manifest: that makes folders and links, and says which chunks are needed."""

        async def use(preamble: Preamble, manifest: bytes | memoryview) -> None:
            if not self._opened:
                await self._open(preamble)
            await self._want(await self._writing.place(manifest))

        with self._groups_in:
            await self._recovery.read_manifest_bytes(use)
            if not self._opened:
                raise DamagedData("the manifest is empty", "restore another point")
            await self._want(await self._writing.end())

    async def _open(self, preamble: Preamble) -> None:
        order = self._order
        point = self._recovery.row.point.hex()
        # What lies here already, be it of an interrupted restore, is proved by it.
        key = self._recovery.chunk_id_key.secret
        await self._writing.open(Open(os.fsencode(order.output), point, preamble.roots, order.full_wish(), key))
        if self._writing.resumed:
            text = "it goes on with what an interrupted restore has left; what is whole is not fetched again"
            self._context.bus.publish(RunNote(text=text, job=order.job))
        self._opened = True

    async def _want(self, groups: list[Group]) -> None:
        for group in groups:
            await self._groups_in.send((group, await self._recovery.content.want(group.chunk_id, group.reach)))

    async def _write(self) -> None:
        """Hand over groups in the order of the plan; the writer has large ones written side by side."""
        async for group, wanted in self._groups_out:
            try:
                plain = await wait_for(wanted)
            except DamagedData as error:
                if not self._order.wish.keep_going:
                    remedy = f"{error.remedy}; --keep-going restores what does without it"
                    came = "the device is written in part" if self._order.wish.onto else "nothing was restored"
                    raise DamagedData(f"{error.what}: {came}", remedy) from error
                await self._writing.skip(group, error.what)
            else:
                await self._writing.write(group, plain)
            self._recovery.content.done(wanted)
            self._report()

    def _report(self) -> None:
        for note in self._writing.take_notes():
            self._publish_note(note)
        for lost in self._writing.take_lost():
            self._context.bus.publish(
                RangeLost(
                    job=self._order.job,
                    path=display_path(lost.path),
                    offset=lost.offset,
                    length=lost.length,
                    reason=lost.reason,
                )
            )

    def _publish_note(self, note: Note) -> None:
        path = display_path(note.path)
        if note.code == "planned":
            self._context.bus.publish(FilePlanned(job=self._order.job, path=path, what=note.text))
        elif note.gap:
            self.gaps += 1
            self._context.bus.publish(FileSkipped(job=self._order.job, path=path, reason=note.text))
        else:
            self._context.bus.publish(FileNote(job=self._order.job, path=path, note=note.text))

    def progress(self) -> RestoreProgress:
        """Return how far it is."""
        return RestoreProgress(
            job=self._order.job,
            point=self._recovery.row.point.hex(),
            bytes_written=self._writing.bytes_written,
            bytes_received=self._recovery.link.bytes_received,
            files=self._writing.files,
            bytes_total=self._recovery.row.size,
            files_total=self._recovery.row.files,
        )

    async def _publish_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            self._context.bus.publish(self.progress())

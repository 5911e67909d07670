"""The writing end of a restore: a writer process, orders to it, and what it reports."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from pipeline.run import open_tasks
from transporter.errors import CannotConnect, DiskFull, JobFailed, LinkLost, TransporterError
from transporter.events import display_path
from transporter.given_path import NO_ROOM, no_room
from transporter.jobs.spare_worker import SpareWorker
from transporter.jobs.worker_process import WorkerProcess, failure_to_error, open_worker
from transporter.workloads.notes import LostRange, Note
from transporter.workloads.staging import remove_leftover
from transporter.workloads.write_messages import (
    SLOT,
    Answer,
    Done,
    End,
    Finish,
    GiveUp,
    Manifest,
    Open,
    Order,
    Planned,
    Publish,
    Report,
    Skip,
    Wanted,
    Write,
    Written,
)

MODULE = "transporter.workloads.write_worker"
# Groups on their way to the disk: one that is written and one behind it, and a few large ones side by side.
SLOTS = 5
GIVE_UP_SECONDS = 5.0


class TreeWriting:
    """What a restore calls. ``files`` … ``bytes_written`` and ``take_notes`` are as of the last report."""

    def __init__(self, worker: WorkerProcess[Answer]) -> None:
        self._worker = worker
        self._free_in, self._free_out = trio.open_memory_channel[int](SLOTS)
        for slot in range(SLOTS):
            self._free_in.send_nowait(slot)
        self._answers: list[Planned | Done] = []
        self._answered = trio.lowlevel.ParkingLot()
        self._notes: list[Note] = []
        self.files = 0
        self.bytes_written = 0
        self.unchanged = 0
        self.damaged = 0
        self.resumed = False
        self._lost: list[LostRange] = []
        self.opened: Open | None = None

    @property
    def ended_well(self) -> bool:
        """Whether the writer put its things in order before it ended."""
        return self._worker.ended_well

    async def read_answers(self) -> None:
        """Take in what the writer says until cancelled. Raises what ended the writer."""
        while True:
            answer = await self._worker.receive()
            if isinstance(answer, Written):
                self._free_in.send_nowait(answer.slot)
            elif isinstance(answer, Planned | Done):
                self._answers.append(answer)
                self._answered.unpark_all()
            else:
                raise self._named(failure_to_error(answer))
            self._note(answer.report)

    def _named(self, error: TransporterError | OSError) -> TransporterError | OSError:
        """Say where there is no room: a call that writes to an open file does not know its name."""
        full = isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_ROOM)
        if full and self.opened is not None and self.opened.output:
            return no_room(display_path(self.opened.output))
        return error

    def _note(self, report: Report) -> None:
        self.files = max(self.files, report.files)
        self.bytes_written = max(self.bytes_written, report.bytes_written)
        self.unchanged = max(self.unchanged, report.unchanged)
        self.damaged = max(self.damaged, report.damaged)
        self.resumed = report.resumed
        self._lost += report.lost
        self._notes += report.notes

    def take_notes(self) -> list[Note]:
        """Return the notes that came since the last call."""
        taken, self._notes = self._notes, []
        return taken

    def take_lost(self) -> list[LostRange]:
        """Return the ranges of files that could not be had since the last call."""
        taken, self._lost = self._lost, []
        return taken

    async def give_up(self) -> None:
        """Have removed what was staged, when the writer is left."""
        # It reads its orders whatever it has met; should it be stuck, the next restore finds what it leaves.
        with trio.move_on_after(GIVE_UP_SECONDS, shield=True):
            await self._worker.send(GiveUp())

    async def open(self, order: Open) -> None:
        """Make the staging folder. Raises what ``TreeWriter`` raises."""
        self.opened = order
        await self._ask(order)

    async def place(self, manifest: bytes | memoryview) -> list[Wanted]:
        """Make what has no content of the next bytes of a manifest; return what content is needed."""
        return self._planned(await self._ask(Manifest(bytes(manifest))))

    async def end(self) -> list[Wanted]:
        """Say that the manifest is complete; return what content is still needed."""
        return self._planned(await self._ask(End()))

    async def write(self, wanted: Wanted, chunk: memoryview) -> None:
        """Have one group written; returns as soon as the chunk has been copied."""
        slot = await self._free_out.receive()
        await trio.to_thread.run_sync(_copy, self._worker.memory, chunk, slot * SLOT)
        await self._worker.send(Write(wanted.group, slot, len(chunk)))

    async def skip(self, wanted: Wanted, reason: str) -> None:
        """Have the files of a group left out."""
        await self._worker.send(Skip(wanted.group, reason))

    async def finish(self) -> None:
        """Wait until everything is written and durable."""
        await self._ask(Finish())

    async def publish(self) -> None:
        """Give everything its final name."""
        await self._ask(Publish())

    @staticmethod
    def _planned(answer: Planned | Done) -> list[Wanted]:
        if not isinstance(answer, Planned):
            raise RuntimeError("the writer answered another question")
        return answer.wanted

    async def _ask(self, order: Order) -> Planned | Done:
        """Send one order and wait for its answer; one at a time."""
        await self._worker.send(order)
        while not self._answers:
            await self._answered.park()
        return self._answers.pop()


def _copy(memory: int, chunk: memoryview, offset: int) -> None:
    if len(chunk) > SLOT:
        raise ValueError("a chunk would reach into the next slot")
    # pwrite, not a mapping: the copy is made without the interpreter lock, and counts for the worker alone.
    if os.pwrite(memory, chunk, offset) != len(chunk):
        raise JobFailed("memory is short", "make room, then run the restore again")


@asynccontextmanager
async def open_tree_writing(spare: SpareWorker | None = None) -> AsyncIterator[TreeWriting]:
    """Start a writer. On leaving without ``publish`` everything that was staged is removed.

    Not so when the line was lost, or this process dies: then the next restore of the same order goes on with it.
    """
    ended = _Ended()
    try:
        async with open_worker(MODULE, SLOTS * SLOT, msgspec.msgpack.Decoder(Answer), spare=spare) as worker:
            writing = ended.writing = TreeWriting(worker)
            async with open_tasks() as nursery:
                nursery.start_soon(_read_answers, writing)
                try:
                    yield writing
                except (LinkLost, CannotConnect):
                    raise
                except BaseException:
                    await writing.give_up()
                    raise
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await ended.tidy_up()


async def _read_answers(writing: TreeWriting) -> None:
    try:
        await writing.read_answers()
    except Exception:
        # What it met itself the next restore would meet again.
        await writing.give_up()
        raise


class _Ended:
    """What is left to do after the writer has ended."""

    writing: TreeWriting | None = None

    async def tidy_up(self) -> None:
        """Remove what a writer that was killed could not remove itself."""
        writing = self.writing
        if writing is None or writing.opened is None or writing.opened.wish.onto or not writing.opened.output:
            return
        if not writing.ended_well:
            await trio.to_thread.run_sync(
                remove_leftover, writing.opened.output, writing.opened.point, writing.opened.digest
            )

"""The reading end of a backup: a reader process, and its units as chunks that lie in memory shared with it."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from pipeline.chunk import Chunk, SharedBuffer
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import (
    BUFFER,
    BUFFERS,
    Answer,
    Cut,
    Finished,
    Free,
    Keep,
    Kept,
    Open,
    Opened,
    Report,
)
from transporter.jobs.spare_worker import SpareWorker
from transporter.jobs.worker_process import WorkerProcess, failure_to_error, open_worker
from transporter.workloads.notes import Note
from transporter.workloads.worker_channel import Failed

MODULE = "transporter.jobs.read_worker"
# Of metadata, which comes by the socket; content stays in the reader's buffers, and so bounds itself.
AHEAD_BYTES = 4 << 20
# A note with its path, roughly.
NOTE_BYTES = 400


class Reading:
    """What a backup reads from. Counters and notes are as of the unit that was taken last; sizes in bytes."""

    def __init__(self, worker: WorkerProcess[Answer], needs: Needs) -> None:
        self._worker = worker
        self._needs = needs
        # Shared: what the reader fills lies here without a copy.
        self._memory = memoryview(mmap.mmap(worker.memory, BUFFERS * BUFFER, prot=mmap.PROT_READ))
        self._freed: list[int] = []
        self._freeing = trio.lowlevel.ParkingLot()
        self._notes: list[Note] = []
        self._ahead: deque[Answer] = deque()
        self.manifest_chunks: list[tuple[bytes, int]] = []
        self.fsi_chunks: list[tuple[bytes, int]] = []
        self.files = 0
        self.files_unchanged = 0
        self.bytes_total = 0
        self.bytes_expected: int | None = None

    async def open(self, order: Open) -> None:
        """Begin. Raises UsageError when what should be read is not there."""
        await self._worker.send(order)
        answer = await self._receive()
        if not isinstance(answer, Opened):
            raise RuntimeError("the reader answered another question")
        self._take(answer.report)

    async def units(self) -> AsyncGenerator[tuple[int, list[Chunk]], None]:
        """Yield for each unit the bytes read and the chunks it completed: content first, then metadata.

        Content chunks share their buffer until each has been let go. Raises what reading raises.
        """
        while isinstance(answer := await self._next(), Cut):
            self._take(answer.report)
            yield answer.length, self._chunks(answer)
        if not isinstance(answer, Finished):
            raise RuntimeError("the reader answered another question")
        self.manifest_chunks = answer.manifest
        self.fsi_chunks = answer.fsi
        self._needs.filled(answer.needs, answer.needs_hash)

    async def run_ahead(self) -> None:
        """Take in what the reader finds, for `units` to yield later; until cancelled, or until it is enough.

        Without it the reader would stop at what a socket holds: some two thousand unchanged files.
        """
        held = 0
        while held < AHEAD_BYTES:
            answer = await self._receive()
            self._ahead.append(answer)
            if not isinstance(answer, Cut):
                return
            held += sum(len(piece.data) for piece in answer.metadata) + NOTE_BYTES * len(answer.report.notes)

    async def _next(self) -> Answer:
        return self._ahead.popleft() if self._ahead else await self._receive()

    def _chunks(self, cut: Cut) -> list[Chunk]:
        chunks = []
        if cut.content:
            buffer = SharedBuffer(len(cut.content), partial(self._let_go, cut.buffer))
            start = cut.buffer * BUFFER
            for piece in cut.content:
                begin = start + piece.offset
                data = self._memory[begin : begin + piece.length]
                chunks.append(Chunk(piece.chunk_id, piece.length, data, buffer=buffer))
        chunks += [
            Chunk(piece.chunk_id, len(piece.data), piece.data, metadata=True, fsi=piece.fsi) for piece in cut.metadata
        ]
        return chunks

    def _let_go(self, buffer: int) -> None:
        self._freed.append(buffer)
        self._freeing.unpark()

    async def give_back(self) -> None:
        """Tell the reader which buffers are free again, until cancelled."""
        while True:
            while not self._freed:
                await self._freeing.park()
            await self._worker.send(Free(self._freed.pop(0)))

    async def keep_manifest(self) -> None:
        """The point is committed: make this manifest the one that the next run compares with."""
        await self._worker.send(Keep())
        if not isinstance(await self._receive(), Kept):
            raise RuntimeError("the reader answered another question")

    def take_notes(self) -> list[Note]:
        """Return the notes that came since the last call."""
        taken, self._notes = self._notes, []
        return taken

    def _take(self, report: Report) -> None:
        self.files = report.files
        self.files_unchanged = report.files_unchanged
        self.bytes_total = report.bytes_total
        self.bytes_expected = report.bytes_expected
        self._notes += report.notes

    async def _receive(self) -> Answer:
        answer = await self._worker.receive()
        if isinstance(answer, Failed):
            raise failure_to_error(answer)
        return answer


@asynccontextmanager
async def open_reading(needs: Needs, *, from_stdin: bool, spare: SpareWorker | None = None) -> AsyncIterator[Reading]:
    """Start a reader. ``needs`` gets the ids of all chunks; ``from_stdin``: the reader gets standard input."""
    answers = msgspec.msgpack.Decoder(Answer)
    pass_on = (needs.descriptor,)
    async with open_worker(
        MODULE, BUFFERS * BUFFER, answers, pass_on=pass_on, from_stdin=from_stdin, spare=spare
    ) as worker:
        yield Reading(worker, needs)

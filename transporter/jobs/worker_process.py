"""Starts a worker process of a job, talks to it, and sees it end with the job, whatever ends that."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import msgspec
import trio

from transporter.errors import JobFailed, TransporterError, error_of
from transporter.jobs.spare_worker import SpareWorker
from transporter.jobs.start_worker import start_worker
from transporter.workloads.worker_channel import Failed, FrameSplitter, encode_frame

READ = 256 << 10
A = TypeVar("A")


class WorkerProcess(Generic[A]):
    """A running worker: frames over ``stream``, contents through ``memory`` (a descriptor)."""

    def __init__(
        self, process: trio.Process, stream: trio.SocketStream, memory: int, answers: msgspec.msgpack.Decoder[A]
    ) -> None:
        self.memory = memory
        self._process = process
        self._stream = stream
        self._answers = answers
        self._one_sender = trio.Lock()
        self._splitter = FrameSplitter()
        self._bodies: deque[bytes] = deque()

    @property
    def ended_well(self) -> bool:
        """Whether the process has ended, and by itself."""
        return self._process.returncode == 0

    async def send(self, order: msgspec.Struct) -> None:
        """Send an order; several tasks may. That the worker is gone is for whoever reads its answers to say."""
        async with self._one_sender:
            with suppress(trio.BrokenResourceError):
                await self._stream.send_all(encode_frame(order))

    async def receive(self) -> A:
        """Return the next answer; one task at a time. Raises JobFailed when the process is gone."""
        while not self._bodies:
            try:
                data = await self._stream.receive_some(READ)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise _ended(await self._process.wait())
            self._bodies += self._splitter.feed(data)
        return self._answers.decode(self._bodies.popleft())


def failure_to_error(failed: Failed) -> TransporterError | OSError:
    """Return the error that a worker met."""
    if failed.code == "os":
        return OSError(failed.number, failed.what)
    return error_of(failed.code, failed.what, failed.remedy)


def _ended(status: int) -> JobFailed:
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return JobFailed(
        f"the process that worked for this job was ended {how}",
        "see the system's log (is memory short?), then run the job again",
    )


@asynccontextmanager
async def open_worker(
    module: str,
    memory_size: int,
    answers: msgspec.msgpack.Decoder[A],
    *,
    pass_on: tuple[int, ...] = (),
    from_stdin: bool = False,
    spare: SpareWorker | None = None,
) -> AsyncIterator[WorkerProcess[A]]:
    """Run ``module`` in a process with ``memory_size`` bytes of shared memory and the descriptors ``pass_on``.

    ``spare``: one that waits already is used.

    On leaving, the stream to it is closed, and it is waited for: it puts its things in order first.
    """
    memory = os.memfd_create("transporter-contents", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory, memory_size)
        descriptors = (memory, *pass_on)
        # What waits was started without the standard input of this process.
        worker = None if from_stdin or spare is None else await spare.take(module, descriptors)
        if worker is None:
            worker = await start_worker(module, descriptors, from_stdin=from_stdin)
        try:
            yield WorkerProcess(worker.process, worker.stream, memory, answers)
        finally:
            await worker.end()
    finally:
        os.close(memory)

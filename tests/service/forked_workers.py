"""Workers for worlds: processes of their own as ever, but forked from one that has loaded their modules already.

To start Python and import what a worker needs is most of what a short test would do, three times over. That workers
are found, started and given nothing else is what tests/jobs/test_worker_process.py is about, and every daemon's test.
"""

from __future__ import annotations

import atexit
import functools
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import trio
from fork_kinds import KIND_OF

from transporter.jobs import spare_worker, worker_process
from transporter.jobs.start_worker import PACKAGES, Started, start_worker


class Forked:
    """Of a process what a job looks at: as ``trio.Process``."""

    def __init__(self, pid: int, life: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._life = trio.SocketStream(trio.socket.from_stdlib_socket(life))
        self._one_waits = trio.Lock()

    async def wait(self) -> int:
        """Wait until it has ended; return how, below 0 by which signal."""
        async with self._one_waits:
            if self.returncode is None:
                status = await self._life.receive_some(4)
                (self.returncode,) = struct.unpack("<i", status)
                await self._life.aclose()
        return cast(int, self.returncode)


async def fork_worker(module: str, descriptors: tuple[int, ...], *, from_stdin: bool = False) -> Started:
    """Do as ``start_worker`` does."""
    if from_stdin or module not in KIND_OF:
        return await start_worker(module, descriptors, from_stdin=from_stdin)
    ours, theirs = socket.socketpair()
    with theirs:
        pid, life = fork(KIND_OF[module], [theirs.fileno(), *descriptors])
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return Started(cast(trio.Process, Forked(pid, life)), stream)


def fork(kind: bytes, descriptors: list[int]) -> tuple[int, socket.socket]:
    """Have a process forked that takes ``descriptors``; return its pid, and the socket that will tell its status."""
    near, far = socket.socketpair()
    with far:
        socket.send_fds(forking(), [kind], [far.fileno(), *descriptors])
    # Milliseconds. Waited for without the event loop: a clock that jumps when nothing happens must not do so here.
    said = near.recv(4, socket.MSG_WAITALL)
    if not said:
        near.close()
        raise RuntimeError("the process that forks has ended; it has told why on stderr")
    return struct.unpack("<i", said)[0], near


_given: list[socket.socket] = []


def fork_by(asked: socket.socket) -> None:
    """Have this process, itself a fork, ask by the socket by which it was asked for."""
    _given[:] = [asked]
    worker_process.start_worker = spare_worker.start_worker = fork_worker


def forking() -> socket.socket:
    """The socket by which forks are asked for."""
    return _given[0] if _given else _started()


@functools.cache
def _started() -> socket.socket:
    """The process that forks, started when it is first needed; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-S", str(Path(__file__).with_name("fork_workers.py")), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGES), *filter(None, sys.path)])},
        )

    def end() -> None:
        ours.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # something that it forked lives on, and could still ask
            process.kill()
            process.wait()

    atexit.register(end)
    return ours


@contextmanager
def forked_workers() -> Iterator[None]:
    """Jobs in this process get such workers."""
    before = worker_process.start_worker, spare_worker.start_worker
    worker_process.start_worker = spare_worker.start_worker = fork_worker
    try:
        yield
    finally:
        worker_process.start_worker, spare_worker.start_worker = before

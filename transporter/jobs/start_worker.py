"""Starts a worker process: a Python of its own, with one end of a socket pair, and nothing else that it could use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import trio

PACKAGES = Path(__file__).parents[2]


@dataclass(frozen=True)
class Started:
    """A worker process, and the stream to it."""

    process: trio.Process
    stream: trio.SocketStream

    async def end(self) -> None:
        """Close the stream: that ends it. Waits until it has ended."""
        with trio.CancelScope(shield=True):
            await self.stream.aclose()
            await self.process.wait()


async def start_worker(module: str, descriptors: tuple[int, ...], *, from_stdin: bool = False) -> Started:
    """Run ``module``; its arguments are the numbers of its socket and of ``descriptors``, which it inherits."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        with theirs:
            process = await _open_process(module, (theirs.fileno(), *descriptors), from_stdin)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Started(process, stream)


async def _open_process(module: str, descriptors: tuple[int, ...], from_stdin: bool) -> trio.Process:
    # Where the daemon found this package the worker shall find it, too, however it was installed (an editable one may
    # have come through a hook); nothing else is needed of `site`, which costs a third of the start.
    path = [str(PACKAGES), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    # `open_process` itself is never cancelled half-way: a process that was started is not lost sight of.
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-S", "-m", module, *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=None if from_stdin else subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
    )

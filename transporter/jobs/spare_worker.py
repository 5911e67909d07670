"""One worker process that waits for the next job: a daemon keeps it between jobs, never beside one."""

from __future__ import annotations

import array
import socket
from collections.abc import Callable, Sequence

import trio

from transporter.jobs.start_worker import Started, start_worker
from transporter.jobs.worker_kinds import KINDS

MODULE = "transporter.jobs.waiting_worker"
# Not in the way of what ends just now, nor of a job that comes right behind it.
PAUSE_SECONDS = 1.0
_KIND_OF = {module: kind for kind, module in KINDS.items()}


class SpareWorker:
    """Without ``keep`` there is none, and `take` returns None."""

    def __init__(self) -> None:
        self._spare: Started | None = None
        self._wanted = trio.Event()
        self._pause = PAUSE_SECONDS

    def want(self, *, at_once: bool = False) -> None:
        """Have one started in a moment, if there is none. ``at_once``: nothing is in the way of it."""
        self._pause = 0.0 if at_once else PAUSE_SECONDS
        self._wanted.set()

    async def keep(self, idle: Callable[[], bool]) -> None:
        """Start one whenever it is wanted, until cancelled. Not while ``idle`` says no: its memory would add up."""
        try:
            while True:
                await self._wanted.wait()
                await trio.sleep(self._pause)
                self._wanted = trio.Event()
                if self._spare is None and idle():
                    started = await start_worker(MODULE, ())
                    if idle():
                        self._spare = started
                    else:
                        # A job began meanwhile, and started its own.
                        await started.end()
        finally:
            if self._spare is not None:
                await self._spare.end()

    async def take(self, module: str, descriptors: Sequence[int]) -> Started | None:
        """Return a worker that has become ``module``; None where none waits, or the one that did has died."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        try:
            await spare.stream.socket.sendmsg([_KIND_OF[module]], [rights])
        except OSError:
            await spare.end()
            return None
        except BaseException:
            await spare.end()
            raise
        return spare

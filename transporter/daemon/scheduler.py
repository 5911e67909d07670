"""What a daemon does at its times: each task has a name, a schedule and an async callable, and that is all.

When a task was last begun is remembered in the home, so that a run that was missed (the daemon did not run, the machine
slept) is made up: once, however many were missed. A task never runs beside itself, and its errors end its run alone.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

from pipeline.run import open_tasks
from transporter.clock import Clock
from transporter.logs import get_logger
from transporter.schedule import Schedule

# How long a sleep is at most: clocks are set, and summer time begins, while one sleeps.
LOOK_SECONDS = 60.0
# More would be no schedule of a person's.
_LONGEST_FILE = 1 << 20
# A line of `status`.
LONGEST_ERROR = 500
log = get_logger()


@dataclass(frozen=True)
class Task:
    """``run`` is called when ``schedule`` says so; it returns an exit status (0: well).

    ``said``: asked after a run that did not end well for a line about it.
    """

    name: str
    schedule: Schedule
    run: Callable[[], Awaitable[int]]
    said: Callable[[], str] = str


class LastRun(msgspec.Struct, kw_only=True):
    """When a task was last begun (or first heard of) and ended, ns since 1970, 0: not yet; its exit status, and why.

    ``unfinished``: it was begun and did not end: the daemon did before it.
    """

    begun_ns: int
    ended_ns: int = 0
    status: int = 0
    unfinished: bool = False
    what: str = ""


class Scheduler:
    """Runs tasks, until cancelled. ``file``: where it is remembered when they ran."""

    def __init__(self, tasks: Sequence[Task], file: Path, clock: Clock) -> None:
        self._tasks = tasks
        self._file = file
        self._clock = clock
        self._last = _read(file)
        self._running: set[str] = set()

    async def run(self) -> None:
        """Run every task at its times."""
        async with open_tasks() as nursery:
            for task in self._tasks:
                nursery.start_soon(self._keep, task)

    def rows(self) -> list[dict[str, Any]]:
        """Return what ``status`` shows: each task, its schedule, when it ran last and will run next (ns; 0: never)."""
        return [self._row(task) for task in self._tasks]

    def _row(self, task: Task) -> dict[str, Any]:
        last = self._last.get(task.name)
        ran = last is not None and (last.ended_ns or last.unfinished)
        return {
            "task": task.name,
            "schedule": task.schedule.text,
            "running": task.name in self._running,
            "last_ns": last.begun_ns if last is not None and ran else 0,
            "last_exit_status": last.status if last is not None and last.ended_ns else None,
            "last_error": last.what if last is not None else "",
            "next_ns": self._due_ns(task),
        }

    async def _keep(self, task: Task) -> None:
        if task.name not in self._last:
            # From now on: that it was never run is no reason to run it in the middle of the day.
            self._last[task.name] = LastRun(begun_ns=self._clock.now_ns())
            self._remember()
        while True:
            last = self._last[task.name]
            # A clock that was set back must not keep a task from running until it has caught up.
            last.begun_ns = min(last.begun_ns, self._clock.now_ns())
            left = (self._due_ns(task) - self._clock.now_ns()) / 1e9
            if left > 0:
                await trio.sleep(min(left, LOOK_SECONDS))
                continue
            await self._run(task)

    async def _run(self, task: Task) -> None:
        last = self._last[task.name] = LastRun(begun_ns=self._clock.now_ns(), unfinished=True)
        self._running.add(task.name)
        self._remember()
        try:
            last.status = await task.run()
            last.what = task.said()[:LONGEST_ERROR] if last.status else ""
        except Exception as error:
            # One task must never take the daemon down; the trace is for us.
            log.exception("a scheduled task met an internal error", task=task.name)
            last.status, last.what = 1, f"internal error: {type(error).__name__}"
        finally:
            self._running.discard(task.name)
        last.ended_ns, last.unfinished = self._clock.now_ns(), False
        self._remember()
        log.info("scheduled task ended", task=task.name, exit_status=last.status)

    def _due_ns(self, task: Task) -> int:
        now = self._clock.now_ns()
        last = self._last.get(task.name)
        if last is not None and last.unfinished:
            return now
        since_ns = last.begun_ns if last else now
        since = datetime.fromtimestamp(since_ns // 10**9, self._clock.local_time().tzinfo)
        return int(task.schedule.next(since).timestamp()) * 10**9

    def _remember(self) -> None:
        known = {task.name: self._last[task.name] for task in self._tasks if task.name in self._last}
        temporary = self._file.with_name(f".{self._file.name}.new")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(known))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except OSError as error:
            log.warning("it cannot be remembered when tasks ran", reason=error.strerror or str(error))


def _read(file: Path) -> dict[str, LastRun]:
    """Return what is remembered; of a file that is not there, or damaged: nothing."""
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(_LONGEST_FILE), type=dict[str, LastRun])
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}

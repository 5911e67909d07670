"""Continuous copies: the daemon runs those of the configuration as soon as a restore point appears at their source.

What is looked at costs next to nothing: the folders of points of a repository of this node, or what this home remembers
of its own jobs. A repository at a peer into which others back up is asked now and then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from pipeline.run import open_tasks
from transporter.config import Config, CopyConfig, load_config
from transporter.daemon.execute import execute_in_daemon
from transporter.daemon.requests import JobRequest, configured_copy
from transporter.daemon.steering import Steering
from transporter.errors import TransporterError
from transporter.events import EventBus, JobFailed
from transporter.link.routes import Parking
from transporter.logs import get_logger
from transporter.service.provider import Provider

# How often the source is looked at: a point is on its way to its second repository within so many seconds.
LOOK_SECONDS = 2.0
# How often a peer is asked whether somebody else's point has come.
ASK_SECONDS = 60.0
# After a copy that failed: the peer may be away for a night, and a damaged point does not mend itself.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 900.0
log = get_logger()

OnJob = Callable[[JobRequest, EventBus], AbstractContextManager[Steering]]
Status = Callable[[], dict[str, Any]]


@dataclass(eq=False)
class _Copy:
    """One continuous copy: ``seen`` is what its source looked like when it was copied last."""

    settings: CopyConfig
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Copier:
    """Follows the configuration: one task for each continuous copy."""

    def __init__(self, provider: Provider, on_job: OnJob, status: Status, parking: Parking) -> None:
        self._provider = provider
        self._on_job = on_job
        self._status = status
        self._parking = parking
        self._copies: dict[str, _Copy] = {}

    async def run(self) -> None:
        """Follow until cancelled."""
        async with open_tasks() as nursery:
            while True:
                wanted = self._wanted()
                for name, copy in list(self._copies.items()):
                    if wanted is not None and wanted.get(name) != copy.settings:
                        self._copies.pop(name).scope.cancel()
                for name, settings in (wanted or {}).items():
                    if name not in self._copies:
                        self._copies[name] = _Copy(settings)
                        nursery.start_soon(self._keep, name, self._copies[name])
                await trio.sleep(LOOK_SECONDS)

    def _wanted(self) -> dict[str, CopyConfig] | None:
        """Return the continuous copies of the configuration; None while it cannot be read: then all stays as it is."""
        config = self._config()
        if config is None:
            return None
        return {name: settings for name, settings in config.copies.items() if settings.continuous}

    def _config(self) -> Config | None:
        try:
            return load_config(self._provider.home.config_path)
        except TransporterError:
            return None

    async def _keep(self, name: str, copy: _Copy) -> None:
        with copy.scope:
            seen: object = None
            pause = FIRST_PAUSE
            asked = float("-inf")
            while True:
                looks = await trio.to_thread.run_sync(self._look, copy.settings)
                due = "/" in copy.settings.source and trio.current_time() - asked >= ASK_SECONDS
                if looks != seen or due:
                    asked = trio.current_time()
                    if await self._copy(name, copy.settings):
                        # As it looked before: what came meanwhile is for the next round.
                        seen, pause = looks, FIRST_PAUSE
                    else:
                        await trio.sleep(pause)
                        pause = min(pause * 2, LONGEST_PAUSE)
                await trio.sleep(LOOK_SECONDS)

    def _look(self, settings: CopyConfig) -> object:
        """Return something that changes whenever a point has come, or a pin."""
        peer, _, repository = settings.source.rpartition("/")
        if peer:
            config = self._config() or self._provider.config
            jobs = [name for name, job in config.jobs.items() if job.to == settings.source]
            last = [self._provider.catalog.last_point(name) for name in jobs]
            return [point and point.point for point in last]
        opened = self._provider.repositories.get(repository)
        return _looks(opened.store.path) if opened is not None else None

    async def _copy(self, name: str, settings: CopyConfig) -> bool:
        bus = EventBus()
        bus.subscribe(lambda event: _log(name, event))
        request = configured_copy(name, settings)
        copied = False
        with self._on_job(request, bus) as steering:
            outcome = await execute_in_daemon(self._provider.home, request, bus, self._status, steering, self._parking)
            copied = outcome.exit_status == 0
        return copied


def _looks(repository: Path) -> object:
    """Return what changes with every point and every pin."""
    pinned = 0
    with suppress(FileNotFoundError):
        pinned = os.stat(repository / "pins").st_mtime_ns
    return _folders(repository / "points"), pinned


def _folders(points: Path) -> list[tuple[str, int]]:
    """Return the folders of jobs and when a name in them changed last: a commit is a new name."""
    found = []
    for tenant in _sub_folders(str(points)):
        for job in _sub_folders(tenant):
            with suppress(FileNotFoundError):
                found.append((job, os.stat(job).st_mtime_ns))
    return found


def _sub_folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except OSError:
        return []


def _log(name: str, event: object) -> None:
    if isinstance(event, JobFailed):
        log.warning("a copy failed", copy=name, code=event.code, what=event.what, remedy=event.remedy)

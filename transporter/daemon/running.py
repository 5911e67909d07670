"""What a daemon is doing now, for ``transporter status``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transporter.daemon.keeper import Keeper
from transporter.daemon.requests import JobRequest, StatusRequest
from transporter.events import Event, EventBus, Progress, RestoreProgress, VerifyProgress
from transporter.service.provider import Provider


@dataclass
class _Job:
    job: str
    operation: str
    began: float
    moved: int = 0


class RunningJobs:
    """Jobs under way in this daemon, and sessions that peers have open with it."""

    def __init__(self, provider: Provider, keeper: Keeper | None = None) -> None:
        self._provider = provider
        self._keeper = keeper
        self._jobs: list[_Job] = []

    @contextmanager
    def job(self, request: JobRequest, bus: EventBus) -> Iterator[None]:
        """Note that a job runs, for as long as the context lasts."""
        if isinstance(request, StatusRequest):
            yield
            return
        operation = type(request).__name__.removesuffix("Request").lower()
        entry = _Job(getattr(request, "job", ""), operation, self._provider.clock.monotonic())

        def watch(event: Event) -> None:
            if isinstance(event, Progress):
                entry.moved = event.bytes_read
            elif isinstance(event, RestoreProgress):
                entry.moved = event.bytes_written
            elif isinstance(event, VerifyProgress):
                entry.moved = event.bytes_verified

        bus.subscribe(watch)
        self._jobs.append(entry)
        try:
            yield
        finally:
            self._jobs.remove(entry)

    def status(self) -> dict[str, Any]:
        """Return what is going on: jobs with bytes moved and seconds, sessions with their peers."""
        now = self._provider.clock.monotonic()
        return {
            "daemon": True,
            "running": [
                {"job": job.job, "operation": job.operation, "bytes": job.moved, "seconds": round(now - job.began, 3)}
                for job in self._jobs
            ],
            "sessions": [session.public() for session in self._provider.sessions.values()],
            "links": self._keeper.rows() if self._keeper is not None else [],
            "parked": self._provider.parked.rows(),
        }

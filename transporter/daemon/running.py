"""What a daemon is doing now, for ``transporter status``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from transporter.daemon.keeper import Keeper
from transporter.daemon.requests import (
    BackupRequest,
    CopyRequest,
    JobOutcome,
    JobRequest,
    PruneRequest,
    RestoreRequest,
    ScrubRequest,
    StatusRequest,
    SteerRequest,
    TransformRequest,
    operation_of,
)
from transporter.daemon.steering import Steering, steered
from transporter.errors import NotRunning
from transporter.events import Event, EventBus, Progress, RestoreProgress, ScrubProgress, VerifyProgress
from transporter.jobs.spare_worker import SpareWorker
from transporter.repository import Repository
from transporter.service.provider import Provider

# To stop a run takes a moment: a session that is closed, a worker that ends. More is for `job_lock` to tell of.
STOPPING_SECONDS = 30.0
_LOCKING = (BackupRequest, RestoreRequest, CopyRequest, TransformRequest, PruneRequest, ScrubRequest)


@dataclass(eq=False)
class _Job:
    job: str
    operation: str
    began: float
    steering: Steering
    bus: EventBus
    repository: str = ""
    moved: int = 0
    # What is cancelled when the command that started it goes away.
    until: trio.CancelScope | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def stopping(self) -> bool:
        """Whether it was cancelled, and is about to end."""
        return self.steering.scope.cancel_called or (self.until is not None and self.until.cancel_called)

    def is_about(self, request: JobRequest) -> bool:
        """Whether a request is about the same job, or the same repository."""
        job, repository = getattr(request, "job", ""), getattr(request, "repository", "")
        return bool(job and job == self.job) or bool(repository and repository == self.repository)


class RunningJobs:
    """Jobs under way in this daemon, and sessions that peers have open with it."""

    def __init__(self, provider: Provider, keeper: Keeper | None = None, spare: SpareWorker | None = None) -> None:
        self._spare = spare or SpareWorker()
        self._provider = provider
        self._keeper = keeper
        self._jobs: list[_Job] = []
        self.scheduled: Callable[[], list[dict[str, Any]]] = list
        """Rows of what runs at its times."""

    async def stopped(self, request: JobRequest) -> None:
        """Wait until runs that are being stopped have ended: whoever stopped one may start the next at once.

        Only for what holds a lock that they hold, too.
        """
        if not isinstance(request, _LOCKING):
            return
        with trio.move_on_after(STOPPING_SECONDS):
            for entry in [each for each in self._jobs if each.stopping and each.is_about(request)]:
                await entry.ended.wait()

    @contextmanager
    def job(self, request: JobRequest, bus: EventBus, until: trio.CancelScope | None = None) -> Iterator[Steering]:
        """Note that a job runs, for as long as the context lasts; it can be paused and cancelled meanwhile.

        ``until``: what else ends it when it is cancelled.
        """
        stores = {name: repository.store for name, repository in self._provider.repositories.items()}
        steering = Steering(
            self._provider.throttle, steer=self.steer, spare=self._spare, stores=stores, open_store=self._open_store
        )
        if isinstance(request, StatusRequest | SteerRequest):
            yield steering
            return
        operation = operation_of(request)
        began = self._provider.clock.monotonic()
        entry = _Job(getattr(request, "job", ""), operation, began, steering, bus, until=until)

        def watch(event: Event) -> None:
            if isinstance(event, Progress):
                entry.moved = event.bytes_read
            elif isinstance(event, RestoreProgress):
                entry.moved = event.bytes_written
            elif isinstance(event, VerifyProgress):
                entry.moved = event.bytes_verified
            elif isinstance(event, ScrubProgress):
                entry.moved = event.bytes_checked

        entry.repository = getattr(request, "repository", "")
        bus.subscribe(watch)
        self._jobs.append(entry)
        try:
            with steering.cancellable(entry.job, bus):
                yield steering
        finally:
            self._jobs.remove(entry)
            entry.ended.set()
            if isinstance(request, BackupRequest | RestoreRequest):
                self._spare.want()

    def _open_store(self, name: str) -> Repository | None:
        opened = self._provider.repositories.get(name)
        return None if opened is None else opened.store

    def idle(self) -> bool:
        """Tell whether no job runs."""
        return not self._jobs

    def steer(self, request: SteerRequest) -> JobOutcome:
        """Pause, resume or cancel every run of a job. Raises NotRunning where there is none."""
        runs = [entry for entry in self._jobs if entry.job == request.job]
        if not runs:
            raise NotRunning(
                f"no run of job {request.job!r} is under way in the daemon", "`transporter status` shows what runs"
            )
        for entry in runs:
            entry.steering.act(request, entry.bus)
        return steered(request, [entry.operation for entry in runs])

    def status(self) -> dict[str, Any]:
        """Return what is going on: jobs with bytes moved and seconds, sessions with their peers."""
        now = self._provider.clock.monotonic()
        return {
            "daemon": True,
            "running": [
                {
                    "job": job.job,
                    "operation": job.operation,
                    "repository": job.repository,
                    "bytes": job.moved,
                    "seconds": round(now - job.began, 3),
                    "paused": job.steering.gate.shut,
                }
                for job in self._jobs
            ],
            "scheduled": self.scheduled(),
            "limits": self._provider.throttle.public(),
            "sessions": [session.public() for session in self._provider.sessions.values()],
            "links": self._keeper.rows() if self._keeper is not None else [],
            "parked": self._provider.parked.rows(),
        }

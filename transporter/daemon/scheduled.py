"""The tasks of this daemon, by its configuration: scrub, prune, retention, transform, and copies that have their times.

What is done for one job is done one after the other; what is done for a repository goes on beside everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from transporter.config import JobConfig
from transporter.daemon.execute import StatusSource, execute_in_daemon
from transporter.daemon.requests import (
    CopyRequest,
    JobOutcome,
    JobRequest,
    PruneRequest,
    RetentionRequest,
    ScrubRequest,
    TransformRequest,
    configured_copy,
)
from transporter.daemon.running import RunningJobs
from transporter.daemon.scheduler import Task
from transporter.errors import Interrupted
from transporter.events import DamageFound, Event, EventBus, JobFailed, Note, SecurityEvent
from transporter.link.routes import Parking
from transporter.logs import get_logger
from transporter.quantities import parse_rate, parse_share
from transporter.schedule import parse_schedule
from transporter.service.provider import Provider

# A run of the job, or a prune that somebody typed, is under way: it is waited for, as long as a long run takes.
BUSY = frozenset({"job-busy", "repository-busy"})
BUSY_SECONDS = 60.0
BUSY_TRIES = 6 * 60
log = get_logger()


def scheduled_tasks(provider: Provider, running: RunningJobs, parking: Parking | None = None) -> Iterator[Task]:
    """Yield the tasks that the configuration asks for. ``parking``: for peers that dial this node."""

    def task(name: str, schedule: str, make: Callable[[], JobRequest], turn: trio.Lock | None = None) -> Task:
        run = _Run(provider, running, parking, make, turn or trio.Lock())
        return Task(name, parse_schedule(schedule), run, run.said)

    for name, settings in provider.config.repositories.items():
        if settings.scrub and name in provider.repositories:
            scrub = ScrubRequest(
                repository=name,
                share=parse_share(settings.scrub_sample),
                limit=parse_rate(settings.scrub_limit) if settings.scrub_limit else 0,
            )
            yield task(f"scrub {name}", settings.scrub, _always(scrub))
        if settings.prune and name in provider.repositories:
            prune = PruneRequest(repository=name, grace=float(settings.prune_grace))
            yield task(f"prune {name}", settings.prune, _always(prune))
    for name, job in provider.config.jobs.items():
        turn = trio.Lock()
        if job.retention:
            yield task(f"retention {name}", job.retention, _always(RetentionRequest(job=name)), turn)
        if job.transform:
            yield task(f"transform {name}", job.transform, _transform(provider, name, job), turn)
    for name, copy in provider.config.copies.items():
        if copy.schedule:
            yield task(f"copy {name}", copy.schedule, _always(configured_copy(name, copy)))


def _always(request: JobRequest) -> Callable[[], JobRequest]:
    return lambda: request


def _transform(provider: Provider, name: str, job: JobConfig) -> Callable[[], JobRequest]:
    def make() -> JobRequest:
        if job.transform_keep:
            return TransformRequest(job=name, keep=job.transform_keep)
        return TransformRequest(job=name, before_ns=provider.clock.now_ns() - int(job.transform_before * 1e9))

    return make


class _Run:
    """A request that the daemon makes of itself: it is among the running jobs, and its events go to the log."""

    def __init__(
        self,
        provider: Provider,
        running: RunningJobs,
        parking: Parking | None,
        make: Callable[[], JobRequest],
        turn: trio.Lock,
    ) -> None:
        self._provider = provider
        self._running = running
        self._parking = parking
        self._make = make
        self._turn = turn
        self._failed: JobFailed | None = None

    def said(self) -> str:
        """Return what ended the last run, empty where nothing did."""
        return "" if self._failed is None else self._failed.what

    async def __call__(self) -> int:
        """Run it; where something holds what it needs, wait for that and try again."""
        async with self._turn:
            exit_status, tries = await self._once(), 1
            while self._failed is not None and self._failed.code in BUSY and tries < BUSY_TRIES:
                await trio.sleep(BUSY_SECONDS)
                exit_status, tries = await self._once(), tries + 1
        failed = self._failed
        if failed is not None:
            log.error("a scheduled task failed", code=failed.code, what=failed.what, remedy=failed.remedy)
        return exit_status

    async def _once(self) -> int:
        request = self._make()
        self._failed = None
        bus = EventBus()
        bus.subscribe(self._note)
        status: StatusSource = self._running.status
        outcome = JobOutcome(exit_status=Interrupted.exit_status)  # where a person cancels it
        with self._running.job(request, bus) as steering:
            outcome = await execute_in_daemon(self._provider.home, request, bus, status, steering, self._parking)
        _tell(request, outcome)
        return outcome.exit_status

    def _note(self, event: Event) -> None:
        if isinstance(event, DamageFound):
            log.error("damage found", where=event.where, what=event.what)
        elif isinstance(event, SecurityEvent):
            log.error("SECURITY", peer=event.peer, what=event.what)
        elif isinstance(event, Note):
            log.info("note", job=event.job, text=event.text)
        elif isinstance(event, JobFailed):
            self._failed = event


def _tell(request: JobRequest, outcome: JobOutcome) -> None:
    """Log what was done, and which points had to stay although they were to go."""
    result = outcome.result
    if isinstance(request, RetentionRequest | TransformRequest) and result:
        stay = result.get("refused") or result.get("stayed") or {}
        gone = len(result.get("removed") or result.get("folded") or ())
        log.info("points removed", job=request.job, count=gone)
        if stay:
            log.warning("points must stay", job=request.job, count=len(stay), what=next(iter(stay.values())))
    elif isinstance(request, PruneRequest) and result:
        log.info("pruned", repository=request.repository, freed_bytes=result.get("freed_bytes", 0))
    elif isinstance(request, CopyRequest) and result:
        log.info("copied", copy=request.job, points=result.get("points", 0))

"""Carry out one request in this process, with its place in the job history."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from transporter.catalog import Catalog
from transporter.clock import Clock, SystemClock
from transporter.config import load_config
from transporter.daemon.requests import (
    BackupRequest,
    DrillRequest,
    ExplainRequest,
    JobOutcome,
    JobRequest,
    PointsRequest,
    RestoreRequest,
    RewrapRequest,
    SaltsRequest,
    StatusRequest,
    SteerRequest,
    VerifyRequest,
    operation_of,
)
from transporter.daemon.steering import Steering, serve_steering
from transporter.errors import (
    ConfigError,
    DiskFull,
    FinishedWithGaps,
    Interrupted,
    JobFailed,
    TamperingDetected,
    TransporterError,
)
from transporter.events import EventBus, JobFinished, Note, SecurityEvent, event_to_dict
from transporter.events import JobFailed as JobFailedEvent
from transporter.home import Home
from transporter.jobs.backup import run_backup
from transporter.jobs.context import JobContext
from transporter.jobs.drill import drill, explain, unknown_salts
from transporter.jobs.points import Where, list_points, where_of
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.jobs.rewrap import rewrap
from transporter.jobs.verify import VerifyOrder, run_verify
from transporter.keys.database import KeyDatabase
from transporter.link.carrier import use_congestion_control
from transporter.link.identity import load_identity
from transporter.link.routes import Parking
from transporter.throttle.watch import watch_limits

StatusSource = Callable[[], dict[str, Any]]
log = structlog.get_logger()


async def execute(
    home: Home,
    request: JobRequest,
    bus: EventBus,
    status: StatusSource,
    clock: Clock | None = None,
    steering: Steering | None = None,
    parking: Parking | None = None,
) -> JobOutcome:
    """Run ``request`` to its end. Errors become a JobFailed event and an exit status; only cancellation is raised."""
    clock = clock or SystemClock()
    try:
        return await _execute(home, request, bus, status, clock, steering or Steering(), parking)
    except (TransporterError, OSError) as error:
        return _end(request, bus, _known(error))


async def execute_in_daemon(
    home: Home,
    request: JobRequest,
    bus: EventBus,
    status: StatusSource,
    steering: Steering | None = None,
    parking: Parking | None = None,
) -> JobOutcome:
    """Run ``request`` as `execute` does. A bug, too, ends its job and not the daemon; the log has the trace."""
    try:
        return await execute(home, request, bus, status, steering=steering, parking=parking)
    except Exception as error:
        log.exception("a job met an internal error", job=getattr(request, "job", ""))
        return _end(request, bus, _known(error))


def _end(request: JobRequest, bus: EventBus, error: TransporterError) -> JobOutcome:
    bus.publish(_failed(request, error))
    return JobOutcome(exit_status=error.exit_status)


def _known(error: Exception) -> TransporterError:
    """Return what to tell of an error: itself, what the system said, or that it is a bug."""
    if isinstance(error, TransporterError):
        return error
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DiskFull("no room left on a disk of this node", "make room; the next run goes on from here")
        return JobFailed(f"the operating system refused: {error.strerror or error}", "see the log; then run it again")
    return TransporterError(f"internal error: {type(error).__name__}", "this is a bug: report what the log says of it")


def _failed(request: JobRequest, error: TransporterError) -> JobFailedEvent:
    return JobFailedEvent(
        job=getattr(request, "job", ""),
        code=error.code,
        exit_status=error.exit_status,
        what=error.what,
        remedy=error.remedy,
    )


async def _execute(
    home: Home,
    request: JobRequest,
    bus: EventBus,
    status: StatusSource,
    clock: Clock,
    steering: Steering,
    parking: Parking | None,
) -> JobOutcome:
    if isinstance(request, StatusRequest):
        return JobOutcome(exit_status=0, result=status())
    if isinstance(request, SteerRequest):
        return steering.steer(request)
    config = load_config(home.config_path)
    use_congestion_control(config.link.congestion)
    steering.throttle.apply(config.throttle, clock.local_time())
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        identity = load_identity(home.path, config.node.name, clock)
        context = JobContext(
            home,
            config,
            identity,
            catalog,
            keys,
            clock,
            bus,
            parking,
            throttle=steering.throttle,
            gate=steering.gate,
            spare=steering.spare,
        )
        if isinstance(request, PointsRequest):
            rows, exit_status = await _points(context, request)
            return JobOutcome(exit_status=exit_status, result={"points": rows})
        if isinstance(request, RewrapRequest):
            report = await rewrap(context, request.password_name, give_up=request.give_up)
            return JobOutcome(exit_status=0, result=report.public())
        if isinstance(request, DrillRequest):
            return JobOutcome(exit_status=0, result=(await drill(context)).public())
        if isinstance(request, ExplainRequest):
            return JobOutcome(exit_status=0, result={"points": await explain(context, request.point)})
        if isinstance(request, SaltsRequest):
            return JobOutcome(exit_status=0, result={"salts": await unknown_salts(context)})
        return await _recorded(context, request)


async def _points(context: JobContext, request: PointsRequest) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of every place that answers, and the exit status of the first that does not."""
    if request.job or request.source:
        places = [where_of(context, request.job, request.source)]
    else:
        places = sorted({Where(job.peer, job.repository, "") for job in context.config.jobs.values()}, key=str)
    rows: list[dict[str, Any]] = []
    failed: TransporterError | None = None
    for where in places:
        try:
            found = await list_points(context, where)
        except TransporterError as error:
            failed = failed or error
            if len(places) > 1:
                context.bus.publish(Note(text=f"{where}: {error}"))
            continue
        rows += [{**row.public(), "repository": str(where)} for row in found]
    if failed is not None and not rows:
        raise failed
    return rows, failed.exit_status if failed else 0


async def _recorded(context: JobContext, request: BackupRequest | RestoreRequest | VerifyRequest) -> JobOutcome:
    operation, work = _work(context, request)
    run = context.catalog.run_started(request.job, operation, context.clock.now_ns())
    ended: dict[str, Any] = {"exit_status": Interrupted.exit_status, "code": Interrupted.code}
    try:
        finished = await work()
        status = FinishedWithGaps.exit_status if finished.files_skipped else 0
        ended = {"exit_status": status, "point": bytes.fromhex(finished.point), "statistics": _numbers(finished)}
        if finished.files_skipped:
            ended["code"] = FinishedWithGaps.code
            text = f"{finished.files_skipped} files could not be {_DONE[operation]}: they are listed above"
            context.bus.publish(Note(text=text, job=request.job))
        context.bus.publish(finished)
    except Exception as error:
        known = _known(error)
        ended = {**ended, "exit_status": known.exit_status, "code": known.code, "what": known.what}
        if isinstance(error, TamperingDetected):
            context.bus.publish(SecurityEvent(peer=request.job, what=error.what))
        raise
    finally:
        context.catalog.run_finished(run, finished_ns=context.clock.now_ns(), **ended)
    return JobOutcome(exit_status=status, result=event_to_dict(finished))


_DONE = {"backup": "read", "restore": "restored", "verify": "verified"}


def _numbers(finished: JobFinished) -> dict[str, Any]:
    return {name: value for name, value in event_to_dict(finished).items() if isinstance(value, int | float)}


def _work(
    context: JobContext, request: BackupRequest | RestoreRequest | VerifyRequest
) -> tuple[str, Callable[[], Awaitable[JobFinished]]]:
    if isinstance(request, BackupRequest):
        name = request.job
        return "backup", lambda: run_backup(context, name)
    if isinstance(request, RestoreRequest):
        order = RestoreOrder(
            request.job,
            request.point,
            request.output,
            list(request.include),
            request.overwrite,
            request.source,
            request.password,
            request.zone,
        )
        return "restore", lambda: run_restore(context, order)
    check = VerifyOrder(request.job, request.point, request.sample, request.source, request.password, request.zone)
    return "verify", lambda: run_verify(context, check)


def not_running() -> dict[str, Any]:
    """Return what there is to say without a daemon."""
    return {"daemon": False, "running": [], "sessions": []}


async def execute_here(home: Home, request: JobRequest, bus: EventBus) -> JobOutcome:
    """Run a request in a process of its own; SIGINT and SIGTERM stop it in order."""
    import signal

    def warn(error: ConfigError) -> None:
        bus.publish(Note(text=f"limits stay as they were: {error}", job=getattr(request, "job", "")))

    interrupted = False
    outcome = JobOutcome(exit_status=Interrupted.exit_status)
    async with trio.open_nursery() as nursery:

        async def watch_signals() -> None:
            nonlocal interrupted
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _number in signals:
                    interrupted = True
                    nursery.cancel_scope.cancel()
                    return

        nursery.start_soon(watch_signals)
        steering = Steering()
        job = getattr(request, "job", "")
        if isinstance(request, BackupRequest | RestoreRequest | VerifyRequest):
            nursery.start_soon(serve_steering, home, request, steering, bus, operation_of(request))
            nursery.start_soon(watch_limits, steering.throttle, home.config_path, SystemClock(), warn)
        with steering.cancellable(job, bus):
            outcome = await execute(home, request, bus, not_running, steering=steering)
        nursery.cancel_scope.cancel()
    if interrupted and outcome.exit_status == Interrupted.exit_status:
        bus.publish(_failed(request, Interrupted("interrupted", "run it again: what was sent already is used")))
    return outcome

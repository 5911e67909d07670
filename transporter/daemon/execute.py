"""Carry out one request in this process, with its place in the job history."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from transporter.catalog import Catalog
from transporter.clock import Clock, SystemClock
from transporter.config import load_config
from transporter.daemon.execute_browse import execute_browse
from transporter.daemon.execute_keeping import execute_keeping, list_points_of
from transporter.daemon.execute_prune import execute_prune
from transporter.daemon.execute_scrub import execute_scrub, needs_peer
from transporter.daemon.execute_search import execute_search
from transporter.daemon.requests import (
    ApplyKeysetsRequest,
    ApplyKmsRequest,
    BackupRequest,
    BrowsingRequest,
    CopyRequest,
    DrillRequest,
    ExplainRequest,
    JobOutcome,
    JobRequest,
    KeysetDrillRequest,
    PointRequest,
    PointsRequest,
    PruneRequest,
    RecoverKeepRequest,
    RecoverRequest,
    RestoreRequest,
    RetentionRequest,
    RewrapRequest,
    SaltsRequest,
    ScrubRequest,
    SearchRequest,
    StatusRequest,
    SteerRequest,
    TransformRequest,
    VerifyRequest,
    after_a_stop,
    operation_of,
)
from transporter.daemon.steering import Steering, serve_steering
from transporter.errors import (
    ConfigError,
    DamagedData,
    DiskFull,
    FinishedWithGaps,
    Interrupted,
    JobFailed,
    NoKey,
    TamperingDetected,
    TransporterError,
)
from transporter.events import EventBus, JobFinished, Note, SecurityEvent, display_path, event_to_dict
from transporter.events import JobFailed as JobFailedEvent
from transporter.given_path import NO_ROOM
from transporter.home import Home
from transporter.jobs.backup import run_backup
from transporter.jobs.context import JobContext
from transporter.jobs.copy import run_copy
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.jobs.drill import drill, explain, unknown_salts
from transporter.jobs.keyset_apply import apply_keysets
from transporter.jobs.keyset_drill import write_drill
from transporter.jobs.kms_apply import apply_kms
from transporter.jobs.recover import request_recovery
from transporter.jobs.recover_keep import keep_recovered
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.jobs.rewrap import rewrap
from transporter.jobs.transform import TransformOrder, transform
from transporter.jobs.verify import VerifyOrder, run_verify
from transporter.keys.database import KeyDatabase
from transporter.link.carrier import use_congestion_control
from transporter.link.identity import load_identity
from transporter.link.routes import Parking
from transporter.logs import get_logger
from transporter.throttle.watch import watch_limits
from transporter.workloads.write_messages import Wish

StatusSource = Callable[[], dict[str, Any]]
log = get_logger()


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
        return _end(request, bus, _known(error, home))


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
        return _end(request, bus, _known(error, home))


def _end(request: JobRequest, bus: EventBus, error: TransporterError) -> JobOutcome:
    bus.publish(_failed(request, error))
    return JobOutcome(exit_status=error.exit_status)


def _known(error: Exception, home: Home) -> TransporterError:
    """Return what to tell of an error: itself, what the system said, or that it is a bug."""
    if isinstance(error, TransporterError):
        return error
    if isinstance(error, OSError):
        named = isinstance(error.filename, str | bytes | os.PathLike)
        path = display_path(os.fsencode(error.filename)) if named else ""
        if error.errno in NO_ROOM:
            # A call that writes does not say to which file. Where a restore writes is said by the restore.
            place = f"for {path}" if named else f"on a disk of this node, most likely that of its home {home.path}"
            return DiskFull(f"no room left {place}", "make room; the next run goes on from here")
        where = f"{path}: " if named else ""
        return JobFailed(
            f"the operating system refused: {where}{error.strerror or error}", "see to that, then run it again"
        )
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
    if isinstance(request, ScrubRequest) and not needs_peer(config, request):
        # Before the keys are opened: it needs none.
        return await execute_scrub(home, request, bus, clock, steering.open_store)
    if isinstance(request, PruneRequest):
        return await execute_prune(home, request, bus)
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
            stores=steering.stores,
        )
        if isinstance(request, ScrubRequest):
            return await execute_scrub(home, request, bus, clock, steering.open_store, context)
        if isinstance(request, PointsRequest):
            return await list_points_of(context, request)
        if isinstance(request, RetentionRequest | PointRequest):
            return await execute_keeping(context, request)
        if isinstance(request, TransformRequest):
            order = TransformOrder(request.job, request.keep, request.before_ns, request.until, request.dry_run)
            return JobOutcome(exit_status=0, result=(await transform(context, order)).public())
        if isinstance(request, RewrapRequest):
            report = await rewrap(context, request.password_name, give_up=request.give_up)
            return JobOutcome(exit_status=0, result=report.public())
        if isinstance(request, DrillRequest):
            return JobOutcome(exit_status=0, result=(await drill(context)).public())
        if isinstance(request, ExplainRequest):
            return JobOutcome(exit_status=0, result={"points": await explain(context, request.point)})
        if isinstance(request, ApplyKeysetsRequest):
            return JobOutcome(exit_status=0, result=(await apply_keysets(context)).public())
        if isinstance(request, ApplyKmsRequest):
            return JobOutcome(exit_status=0, result=(await apply_kms(context, request.kms)).public())
        if isinstance(request, KeysetDrillRequest):
            return JobOutcome(exit_status=0, result={"points": await write_drill(context, Path(request.output))})
        if isinstance(request, RecoverRequest):
            text = await request_recovery(context, request.point, request.keyset, request.place)
            return JobOutcome(exit_status=0, result={"request": text})
        if isinstance(request, RecoverKeepRequest):
            kept = await keep_recovered(context, request.point, request.password_name, request.place)
            return JobOutcome(exit_status=0, result={"point": kept.point.hex(), "added": kept.added})
        if isinstance(request, SaltsRequest):
            return JobOutcome(exit_status=0, result={"salts": await unknown_salts(context)})
        if isinstance(request, SearchRequest):
            return await execute_search(context, request)
        if isinstance(request, BrowsingRequest):
            return await execute_browse(context, request)
        if isinstance(request, VerifyRequest) and request.points:
            return await _verify_each(context, request)
        return await _recorded(context, request)


_Recorded = BackupRequest | RestoreRequest | VerifyRequest | CopyRequest


async def _recorded(context: JobContext, request: _Recorded) -> JobOutcome:
    operation, work = _work(context, request)
    run = context.catalog.run_started(request.job, operation, context.clock.now_ns())
    ended: dict[str, Any] = {"exit_status": Interrupted.exit_status, "code": Interrupted.code}
    try:
        finished = await work()
        how_bad = DamagedData if finished.files_damaged else FinishedWithGaps
        status = how_bad.exit_status if finished.files_skipped else 0
        ended = {"exit_status": status, "point": bytes.fromhex(finished.point), "statistics": _numbers(finished)}
        if finished.files_skipped:
            ended["code"] = how_bad.code
            text = f"{finished.files_skipped:,} files could not be {_DONE[operation]}: they are listed above"
            text += "; the restore point is marked" if operation == "backup" else ""
            context.bus.publish(Note(text=text, job=request.job))
        context.bus.publish(finished)
    except Exception as error:
        known = _known(error, context.home)
        ended = {**ended, "exit_status": known.exit_status, "code": known.code, "what": known.what}
        if isinstance(error, TamperingDetected):
            context.bus.publish(SecurityEvent(peer=request.job, what=error.what))
        raise
    finally:
        context.catalog.run_finished(run, finished_ns=context.clock.now_ns(), **ended)
    return JobOutcome(exit_status=status, result=event_to_dict(finished))


async def _verify_each(context: JobContext, request: VerifyRequest) -> JobOutcome:
    """Verify points, one after the other: what is wrong with one keeps no other from being looked at."""
    worst, closed = 0, []
    for point in request.points:
        one = msgspec.structs.replace(request, point=point, points=[])
        try:
            status = (await _recorded(context, one)).exit_status
        except (TransporterError, OSError) as error:
            status = _end(one, context.bus, _known(error, context.home)).exit_status
            if isinstance(error, NoKey):
                closed.append(point)
                continue
        worst = status or worst
    result = {"closed": closed, "worst": worst}
    return JobOutcome(exit_status=worst or (NoKey.exit_status if closed else 0), result=result)


_DONE = {"backup": "read", "restore": "restored", "verify": "verified"}


def _numbers(finished: JobFinished) -> dict[str, Any]:
    return {name: value for name, value in event_to_dict(finished).items() if isinstance(value, int | float)}


def _work(context: JobContext, request: _Recorded) -> tuple[str, Callable[[], Awaitable[JobFinished]]]:
    if isinstance(request, CopyRequest):
        ends = End.of(request.source), End.of(request.target)
        copy = CopyOrder(
            request.job,
            *ends,
            jobs=tuple(request.jobs),
            point=request.point,
            through=request.through,
            seal=request.seal,
            password=request.password,
            removed_too=request.removed_too,
        )
        return "copy", lambda: run_copy(context, copy)
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
            _wish(request),
            request.to_fd,
            request.tenant,
        )
        return "restore", lambda: run_restore(context, order)
    where = request.source, request.password, request.zone, request.tenant
    check = VerifyOrder(request.job, request.point, request.sample, *where)
    return "verify", lambda: run_verify(context, check)


def _wish(request: RestoreRequest) -> Wish:
    return Wish(
        include=request.include,
        exclude=request.exclude,
        paths=request.paths,
        overwrite=request.overwrite,
        in_place=request.in_place,
        compare=request.compare,
        delete=request.delete,
        dry_run=request.dry_run,
        keep_going=request.keep_going or request.partial,
        partial=request.partial,
        tar=request.tar,
        onto=request.onto,
    )


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
        if isinstance(request, _Recorded):
            nursery.start_soon(serve_steering, home, request, steering, bus, operation_of(request))
            nursery.start_soon(watch_limits, steering.throttle, home.config_path, SystemClock(), warn)
        with steering.cancellable(job, bus):
            outcome = await execute(home, request, bus, not_running, steering=steering)
        nursery.cancel_scope.cancel()
    if interrupted and outcome.exit_status == Interrupted.exit_status:
        bus.publish(_failed(request, Interrupted("interrupted", after_a_stop(request))))
    return outcome

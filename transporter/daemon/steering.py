"""What a run can be told while it goes on: pause, resume, cancel; and the socket of a run without a daemon.

A run in a process of its own listens in ``HOME/run/``, for the same requests as the daemon: whoever can open that
folder owns the home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from transporter.daemon.framing import receive_request, send_message, unix_listener
from transporter.daemon.requests import JobOutcome, JobRequest, StatusRequest, SteerRequest
from transporter.errors import Interrupted, NotRunning
from transporter.events import EventBus, JobPaused, JobResumed, Note
from transporter.events import JobFailed as JobFailedEvent
from transporter.home import Home
from transporter.jobs.spare_worker import SpareWorker
from transporter.link.gate import Gate
from transporter.repository import Repository
from transporter.throttle.limits import Throttle

CANCELLED = Interrupted("the job was cancelled", "run it again: what was sent already is used")


def _nobody(request: SteerRequest) -> JobOutcome:
    raise NotRunning(f"no run of job {request.job!r} is under way", "`transporter status` shows what runs")


@dataclass
class Steering:
    """One run: its gate and its cancel scope, the limits that it is under, and the worker that may wait for it.

    ``steer`` carries out a request that is about other runs; ``open_store`` returns the repository that this process
    has open under a name, for writing.
    """

    throttle: Throttle = field(default_factory=Throttle)
    gate: Gate = field(default_factory=Gate)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    steer: Callable[[SteerRequest], JobOutcome] = _nobody
    spare: SpareWorker = field(default_factory=SpareWorker)
    # The repositories that the daemon has open for writing.
    stores: Mapping[str, Repository] = field(default_factory=dict)
    open_store: Callable[[str], Repository | None] = lambda _name: None

    def act(self, request: SteerRequest, bus: EventBus) -> None:
        """Do what is asked. Pausing what is paused changes nothing."""
        if request.action == "cancel":
            self.scope.cancel()
        elif request.action == "pause":
            if self.gate.close():
                bus.publish(JobPaused(job=request.job))
        elif self.gate.open():
            bus.publish(JobResumed(job=request.job))

    @contextmanager
    def cancellable(self, job: str, bus: EventBus) -> Iterator[None]:
        """Let ``cancel`` end what is in this context, and say so in the job's last event."""
        with self.scope:
            yield
        if self.scope.cancelled_caught:
            bus.publish(
                JobFailedEvent(
                    job=job,
                    code=CANCELLED.code,
                    exit_status=CANCELLED.exit_status,
                    what=CANCELLED.what,
                    remedy=CANCELLED.remedy,
                )
            )


def steered(request: SteerRequest, operations: list[str]) -> JobOutcome:
    """Return the outcome of a request that was carried out on these operations."""
    return JobOutcome(exit_status=0, result={"job": request.job, "action": request.action, "operations": operations})


async def serve_steering(home: Home, request: JobRequest, steering: Steering, bus: EventBus, operation: str) -> None:
    """Listen for what to do with the run of ``request`` in this process, until cancelled."""
    job = getattr(request, "job", "")

    async def take(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                asked = await receive_request(stream)
                if isinstance(asked, StatusRequest):
                    row = {"job": job, "operation": operation, "paused": steering.gate.shut}
                    await _answer(stream, JobOutcome(exit_status=0, result={"running": [row]}))
                elif isinstance(asked, SteerRequest) and asked.job == job:
                    await _answer(stream, steered(asked, [operation]))
                    # Last: a run that is cancelled ends, and this with it.
                    steering.act(asked, bus)
        except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return

    try:
        with unix_listener(home, home.run_socket(job)) as listener:
            await trio.serve_listeners(take, [listener])
    except OSError as error:
        # A file system without sockets, for one: the job matters more.
        text = f"no command can pause or cancel this run: {error.strerror or error}"
        bus.publish(Note(text=text, job=job))


async def _answer(stream: trio.SocketStream, outcome: JobOutcome) -> None:
    fields: dict[str, Any] = {"outcome": msgspec.to_builtins(outcome)}
    await send_message(stream, fields)

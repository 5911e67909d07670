"""The home's control socket: the command line hands jobs to the daemon and sees their events.

    request   u32 BE length | request (requests.py)
    answer    u32 BE length | msgpack {"event": {…}}   any number
              u32 BE length | msgpack {"outcome": {…}} the last

Closing the connection stops the job. The socket has mode 0600 in a folder of mode 0700: who can open it owns the home.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from pipeline.run import open_tasks
from transporter.daemon.execute import StatusSource, execute_in_daemon
from transporter.daemon.framing import receive_request, send_message, unix_listener
from transporter.daemon.requests import JobOutcome, JobRequest
from transporter.daemon.tuning import give_back_memory
from transporter.daemon.waiting_events import WaitingEvents
from transporter.errors import Interrupted
from transporter.events import EventBus, event_to_dict
from transporter.home import Home
from transporter.link.routes import Parking
from transporter.logs import get_logger

log = get_logger()


OnJob = Callable[[JobRequest, EventBus, trio.CancelScope], Any]
Before = Callable[[JobRequest], Awaitable[None]]


async def at_once(_request: JobRequest) -> None:
    """Wait for nothing."""


async def serve_control_socket(
    home: Home,
    status: StatusSource,
    on_job: OnJob,
    parking: Parking | None = None,
    before: Before = at_once,
) -> None:
    """Serve until cancelled. ``on_job`` returns a context manager of the run's steering, held while it runs.

    It is also given what is cancelled when the command goes away. ``parking``: by which jobs reach peers that dial this
    node; ``before``: what a job waits for.
    """

    async def take(stream: trio.SocketStream) -> None:
        await _serve_one(home, stream, status, on_job, parking, before)

    with unix_listener(home, home.control_socket) as listener:
        await trio.serve_listeners(take, [listener])


async def _serve_one(
    home: Home,
    stream: trio.SocketStream,
    status: StatusSource,
    on_job: OnJob,
    parking: Parking | None,
    before: Before,
) -> None:
    try:
        async with stream:
            await _run(home, await receive_request(stream), stream, status, on_job, parking, before)
    except (OSError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        return
    except Exception:
        # One command must never take the daemon down; the trace is for us.
        log.exception("a command failed")


async def _run(
    home: Home,
    request: JobRequest,
    stream: trio.SocketStream,
    status: StatusSource,
    on_job: OnJob,
    parking: Parking | None,
    before: Before,
) -> None:
    bus = EventBus()
    events = WaitingEvents()
    bus.subscribe(events.put)
    bus.room = events.room
    outcome = JobOutcome(exit_status=Interrupted.exit_status)
    async with open_tasks() as nursery:

        async def until_gone() -> None:
            # The command line says nothing more; an end of its stream means that its person stopped it.
            if not await stream.receive_some(1):
                nursery.cancel_scope.cancel()

        async def forward_events() -> None:
            async for event in events:
                await send_message(stream, {"event": event_to_dict(event)})

        nursery.start_soon(until_gone)
        async with open_tasks() as forwarding:
            forwarding.start_soon(forward_events)
            await before(request)
            with on_job(request, bus, nursery.cancel_scope) as steering:
                outcome = await execute_in_daemon(home, request, bus, status, steering, parking)
            # It ends the forwarder once it has sent everything: no event may come after the outcome.
            events.close()
        await send_message(stream, {"outcome": msgspec.to_builtins(outcome)})
        # Not before: whoever ran the command would wait for it.
        await trio.to_thread.run_sync(give_back_memory)
        nursery.cancel_scope.cancel()

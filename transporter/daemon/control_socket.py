"""The home's control socket: the command line hands jobs to the daemon and sees their events.

    request   u32 BE length | request (requests.py)
    answer    u32 BE length | msgpack {"event": {…}}   any number
              u32 BE length | msgpack {"outcome": {…}} the last

Closing the connection stops the job. The socket has mode 0600 in a folder of mode 0700: who can open it owns the home.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import trio

from pipeline.run import open_tasks
from transporter.daemon.client import LENGTH_BYTES
from transporter.daemon.execute import StatusSource, execute_in_daemon
from transporter.daemon.requests import JobOutcome, JobRequest, request_from_bytes
from transporter.daemon.tuning import give_back_memory
from transporter.daemon.waiting_events import WaitingEvents
from transporter.errors import Interrupted
from transporter.events import EventBus, event_to_dict
from transporter.home import Home
from transporter.link.routes import Parking

REQUEST_AT_MOST = 1 << 20
log = structlog.get_logger()


async def serve_control_socket(
    home: Home,
    status: StatusSource,
    on_job: Callable[[JobRequest, EventBus], Any],
    parking: Parking | None = None,
) -> None:
    """Serve until cancelled. ``on_job`` returns a context manager that is held while a job runs.

    ``parking``: by which jobs reach peers that dial this node.
    """
    with home.socket_address() as address:
        home.control_socket.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address)
    os.chmod(home.control_socket, 0o600)
    # Without a pause since its name appeared: a command that finds the name and nobody behind it runs the job itself.
    sock.listen(16)
    try:

        async def take(stream: trio.SocketStream) -> None:
            await _serve_one(home, stream, status, on_job, parking)

        await trio.serve_listeners(take, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
    finally:
        home.control_socket.unlink(missing_ok=True)


async def _serve_one(
    home: Home,
    stream: trio.SocketStream,
    status: StatusSource,
    on_job: Callable[[JobRequest, EventBus], Any],
    parking: Parking | None,
) -> None:
    try:
        async with stream:
            with trio.fail_after(10):
                request = request_from_bytes(await _receive(stream, REQUEST_AT_MOST))
            await _run(home, request, stream, status, on_job, parking)
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
    on_job: Callable[[JobRequest, EventBus], Any],
    parking: Parking | None,
) -> None:
    bus = EventBus()
    events = WaitingEvents()
    bus.subscribe(events.put)
    outcome = JobOutcome(exit_status=Interrupted.exit_status)
    async with open_tasks() as nursery:

        async def until_gone() -> None:
            # The command line says nothing more; an end of its stream means that its person stopped it.
            if not await stream.receive_some(1):
                nursery.cancel_scope.cancel()

        async def forward_events() -> None:
            async for event in events:
                await _send(stream, {"event": event_to_dict(event)})

        nursery.start_soon(until_gone)
        async with open_tasks() as forwarding:
            forwarding.start_soon(forward_events)
            with on_job(request, bus):
                outcome = await execute_in_daemon(home, request, bus, status, parking)
            # It ends the forwarder once it has sent everything: no event may come after the outcome.
            events.close()
        await trio.to_thread.run_sync(give_back_memory)
        await _send(stream, {"outcome": msgspec.to_builtins(outcome)})
        nursery.cancel_scope.cancel()


async def _receive(stream: trio.SocketStream, most: int) -> bytes:
    length = int.from_bytes(await _exactly(stream, LENGTH_BYTES), "big")
    if length > most:
        raise ValueError("too long")
    return await _exactly(stream, length)


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise ValueError("cut short")
        data += more
    return bytes(data)


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    data = msgspec.msgpack.encode(message)
    await stream.send_all(len(data).to_bytes(LENGTH_BYTES, "big") + data)

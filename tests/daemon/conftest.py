from __future__ import annotations

import socket
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from transporter.daemon.client import ask_daemon, connect_to_daemon
from transporter.daemon.control_socket import serve_control_socket
from transporter.daemon.requests import BackupRequest, JobOutcome, JobRequest, StatusRequest, request_to_bytes
from transporter.events import Event, EventBus
from transporter.home import Home


@dataclass
class Daemon:
    """A control socket that is served, and commands of its home."""

    home: Home
    status: dict[str, Any] = field(default_factory=lambda: {"daemon": True})

    async def ask(self, request: JobRequest) -> tuple[JobOutcome, list[Event]]:
        """Hand a request over as a command does; return its outcome and the events that came before it."""
        events: list[Event] = []

        def talk() -> JobOutcome:
            bus = EventBus()
            bus.subscribe(events.append)
            with connect_to_daemon(self.home) as sock:
                assert sock is not None
                return ask_daemon(sock, request, bus)

        with trio.fail_after(60):
            return await trio.to_thread.run_sync(talk), events

    async def still_serves(self) -> None:
        """Fail unless the daemon answers."""
        outcome, _ = await self.ask(StatusRequest())
        assert outcome == JobOutcome(exit_status=0, result=self.status)

    @contextmanager
    def raw(self, request: JobRequest):
        """A connection that has handed over ``request`` and reads nothing."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self.home.socket_address() as address:
                sock.connect(address)
            data = request_to_bytes(request)
            sock.sendall(len(data).to_bytes(4, "big") + data)
            yield sock
        finally:
            sock.close()


@pytest.fixture
async def daemon(tmp_path, nursery):
    """The control socket of a new home. The test fails if what serves it does."""
    made = Daemon(Home.create(tmp_path / "home"))

    def status() -> dict[str, Any]:
        return made.status

    nursery.start_soon(serve_control_socket, made.home, status, lambda _request, _bus, _until: nullcontext())
    while not made.home.control_socket.exists():
        await trio.lowlevel.checkpoint()
    return made


@pytest.fixture
def job(monkeypatch):
    """``job(work)``: every request but for the status runs ``work(bus)``; returns the request that does."""
    from transporter.daemon import execute

    original = execute._execute

    def set_work(work):
        async def run(home, request, bus, status, clock, steering, parking):
            if isinstance(request, StatusRequest):
                return await original(home, request, bus, status, clock, steering, parking)
            return await work(bus)

        monkeypatch.setattr(execute, "_execute", run)
        return BackupRequest(job="docs")

    return set_work

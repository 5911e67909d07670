"""The command line's end of pausing, resuming and cancelling runs, in the daemon or in processes of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from transporter.daemon.client import ANSWER_SECONDS, ask_daemon, connect_to_daemon
from transporter.daemon.requests import JobOutcome, JobRequest, StatusRequest, SteerRequest
from transporter.errors import CannotConnect, JobFailed, NotRunning
from transporter.events import EventBus
from transporter.home import Home


def steer_job(home: Home, request: SteerRequest) -> list[str]:
    """Have every run of a job paused, resumed or cancelled; return what they do. Raises NotRunning."""
    operations: list[str] = []
    with connect_to_daemon(home) as sock:
        if sock is not None:
            # What it publishes is that there is no such run: there may be one elsewhere.
            operations += ask_daemon(sock, request, EventBus()).result.get("operations", [])
    for outcome in _ask_runs(home, request, request.job):
        operations += outcome.result.get("operations", [])
    if not operations:
        raise NotRunning(f"no run of job {request.job!r} is under way", "`transporter status` shows what runs")
    return operations


def runs_of_their_own(home: Home) -> list[dict[str, Any]]:
    """Return a row for each run that goes on in a process of its own, as ``status`` shows it."""
    return [row for outcome in _ask_runs(home, StatusRequest()) for row in outcome.result.get("running", [])]


def _ask_runs(home: Home, request: JobRequest, job: str = "") -> Iterator[JobOutcome]:
    for path in home.run_sockets(job):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, home.socket_address(path) as address:
            sock.settimeout(ANSWER_SECONDS)  # to connect, too: its queue may be full
            try:
                sock.connect(address)
            except ConnectionRefusedError:
                # Its process was killed; another may have bound the name anew meanwhile, but not of the same id.
                path.unlink(missing_ok=True)
                continue
            except OSError:
                continue
            # A run that ends just now answers nothing.
            with suppress(JobFailed, CannotConnect, OSError):
                yield ask_daemon(sock, request, EventBus())

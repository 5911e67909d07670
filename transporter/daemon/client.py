"""The command line's end of the control socket: plain sockets and nothing heavy, so that a command starts fast."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from transporter.daemon.requests import JobOutcome, JobRequest, StatusRequest, SteerRequest, request_to_bytes
from transporter.errors import CannotConnect, ConfigError, JobFailed
from transporter.events import EventBus, event_from_dict
from transporter.home import Home

LENGTH_BYTES = 4
# What is answered at once, whatever else goes on: by a daemon that was stopped (SIGSTOP), or hangs, it never is.
PROMPT = (StatusRequest, SteerRequest)
ANSWER_SECONDS = 15.0
# A list of a hundred thousand restore points is some 30 MiB.
ANSWER_AT_MOST = 256 << 20
# A job that is stopped first finishes the small unit that each of its threads is at.
STOP_SECONDS = 30.0


@contextmanager
def connect_to_daemon(home: Home) -> Iterator[socket.socket | None]:
    """Yield a connection to the home's daemon, or None where none runs."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with home.socket_address() as address:
            try:
                sock.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                yield None
                return
            except PermissionError:
                raise ConfigError("the daemon of this home belongs to another user", "run this as that user") from None
        yield sock
    finally:
        sock.close()


@contextmanager
def _stopped_in_order(sock: socket.socket) -> Iterator[None]:
    """On Ctrl-C tell the daemon, and wait until it has let go of the job: the next command may run it again."""
    try:
        yield
    except KeyboardInterrupt:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(STOP_SECONDS)
        with suppress(OSError):
            while sock.recv(1 << 16):
                pass
        raise


def ask_daemon(sock: socket.socket, request: JobRequest, bus: EventBus) -> JobOutcome:
    """Hand a request over, publish its events here, return its outcome.

    Raises JobFailed when the daemon goes away, CannotConnect when it does not answer what is answered at once.
    """
    if not isinstance(request, PROMPT):
        return _ask(sock, request, bus)
    sock.settimeout(ANSWER_SECONDS)
    try:
        return _ask(sock, request, bus)
    except TimeoutError:
        raise CannotConnect(
            f"the daemon of this home, or a run of its own, did not answer within {ANSWER_SECONDS:.0f} s",
            "look at its process and its log: it was stopped (SIGSTOP), or hangs",
        ) from None


def _ask(sock: socket.socket, request: JobRequest, bus: EventBus) -> JobOutcome:
    data = request_to_bytes(request)
    sock.sendall(len(data).to_bytes(LENGTH_BYTES, "big") + data)
    with sock.makefile("rb") as stream, _stopped_in_order(sock):
        while True:
            head = stream.read(LENGTH_BYTES)
            length = int.from_bytes(head, "big")
            body = stream.read(length) if len(head) == LENGTH_BYTES and length <= ANSWER_AT_MOST else b""
            if not body or len(body) < length:
                raise JobFailed(
                    "the daemon of this home ended", "start it again; the next run goes on where this one stopped"
                )
            message = msgspec.msgpack.decode(body)
            if "outcome" in message:
                return msgspec.convert(message["outcome"], JobOutcome)
            bus.publish(event_from_dict(message["event"]))

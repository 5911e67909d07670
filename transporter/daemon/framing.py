"""What both kinds of Unix sockets of a home share: how they are bound, and how messages are framed on them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from transporter.daemon.client import LENGTH_BYTES
from transporter.daemon.requests import JobRequest, request_from_bytes
from transporter.home import Home

# A restore may name a hundred thousand paths. Whoever can send one owns the home.
REQUEST_AT_MOST = 16 << 20
REQUEST_SECONDS = 10.0


@contextmanager
def unix_listener(home: Home, path: Path) -> Iterator[trio.SocketListener]:
    """Listen at ``path`` (mode 0600) for as long as the context lasts."""
    with home.socket_address(path) as address:
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address)
    os.chmod(path, 0o600)
    # Without a pause since its name appeared: a command that finds the name and nobody behind it runs the job itself.
    sock.listen(16)
    try:
        yield trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    finally:
        path.unlink(missing_ok=True)


async def receive_request(stream: trio.SocketStream) -> JobRequest:
    """Return what a command asks for. Raises ValueError, TooSlowError."""
    with trio.fail_after(REQUEST_SECONDS):
        length = int.from_bytes(await _exactly(stream, LENGTH_BYTES), "big")
        if length > REQUEST_AT_MOST:
            raise ValueError("too long")
        return request_from_bytes(await _exactly(stream, length))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            raise ValueError("cut short")
        data += more
    return bytes(data)


async def send_message(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    """Send an event or an outcome."""
    data = msgspec.msgpack.encode(message)
    await stream.send_all(len(data).to_bytes(LENGTH_BYTES, "big") + data)

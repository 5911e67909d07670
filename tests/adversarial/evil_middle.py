"""A relay on the line, in the test's own event loop, that does with the bytes what it likes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from transporter.link.address import Address

TLS_FIRST_BYTE = b"\x16"
READ = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Last(bytes):
    """Bytes that go on, and then the connection ends."""


class LastAndReset(Last):
    """Bytes that go on, and then the connection is reset on both sides: the bytes may arrive, or not."""


@dataclass
class Way:
    """One direction of one connection. ``number`` counts connections of its ``kind`` from 0; ``seen`` its bytes."""

    kind: str
    number: int
    up: bool
    seen: int = 0


# A way by its name: kind, number, up.
Key = tuple[str, int, bool]
# Gets a way and the next bytes on it; returns what goes on instead, or None to cut the connection.
Meddle = Callable[[Way, bytes], list[bytes] | None]


def honest(_way: Way, data: bytes) -> list[bytes]:
    """Pass everything on."""
    return [data]


@dataclass
class Middle:
    """Dial ``address`` instead of the target's own."""

    target: Address
    meddle: Meddle = honest
    # Tells through which other way, if it is open, the next bytes of this one go on.
    divert: Callable[[Way], Key | None] = field(default=lambda _way: None)
    address: Address = field(init=False)
    counts: dict[str, int] = field(default_factory=lambda: {"control": 0, "data": 0})
    passed: dict[tuple[str, bool], int] = field(default_factory=dict)
    _sinks: dict[Key, tuple[trio.SocketStream, trio.Lock]] = field(default_factory=dict)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self._take, listeners)

    async def _take(self, client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(self.target.host, self.target.port) as server:
            await self.join(client, server)

    async def join(self, client: trio.SocketStream, server: trio.SocketStream, first: bytes = b"") -> None:
        """Pass on between two connections until one of them ends; ``first`` was read from the client already."""
        first = first or await client.receive_some(READ)
        kind = "control" if first[:1] == TLS_FIRST_BYTE else "data"
        number = self.counts[kind]
        self.counts[kind] += 1
        async with trio.open_nursery() as ways:
            up, down = Way(kind, number, True), Way(kind, number, False)
            ways.start_soon(self._pump, up, client, server, first, ways.cancel_scope)
            ways.start_soon(self._pump, down, server, client, b"", ways.cancel_scope)

    async def _pump(
        self, way: Way, source: trio.SocketStream, sink: trio.SocketStream, data: bytes, scope: trio.CancelScope
    ) -> None:
        mine = self._sinks[way.kind, way.number, way.up] = (sink, trio.Lock())
        try:
            data = data or await source.receive_some(READ)
            while data:
                pieces = self.meddle(way, bytes(data))
                other = self.divert(way)
                way.seen += len(data)
                key = (way.kind, way.up)
                self.passed[key] = self.passed.get(key, 0) + len(data)
                if pieces is None:
                    scope.cancel()
                    return
                onto, lock = mine if other is None else self._sinks.get(other, mine)
                async with lock:
                    for piece in pieces:
                        await onto.send_all(piece)
                if isinstance(pieces[-1] if pieces else b"", Last):
                    if isinstance(pieces[-1], LastAndReset):
                        source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    scope.cancel()
                    return
                data = await source.receive_some(READ)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()


def once_at(kind: str, number: int, up: bool, at: int, act: Callable[[bytes, int], list[bytes] | None]) -> Meddle:
    """Do ``act(block, place within it)`` once, when byte ``at`` of that way of that connection comes by."""

    def meddle(way: Way, data: bytes) -> list[bytes] | None:
        if (way.kind, way.number, way.up) == (kind, number, up) and way.seen <= at < way.seen + len(data):
            return act(data, at - way.seen)
        return [data]

    return meddle


def once_on_any(
    kind: str, numbers: tuple[int, ...], up: bool, at: int, act: Callable[[bytes, int], list[bytes] | None]
) -> Meddle:
    """Do as ``once_at``, on the first of several connections that gets so far: how much each carries is chance."""
    done: list[int] = []

    def meddle(way: Way, data: bytes) -> list[bytes] | None:
        mine = way.kind == kind and way.number in numbers and way.up == up
        if mine and not done and way.seen <= at < way.seen + len(data):
            done.append(way.number)
            return act(data, at - way.seen)
        return [data]

    return meddle


def flip(data: bytes, at: int) -> list[bytes]:
    """One bit of one byte."""
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]]


def drop(data: bytes, at: int) -> list[bytes]:
    """One byte left out."""
    return [data[:at] + data[at + 1 :]]


def insert(data: bytes, at: int) -> list[bytes]:
    """One byte put in."""
    return [data[:at] + b"\0" + data[at:]]


def repeat(data: bytes, _at: int) -> list[bytes]:
    """The whole block twice."""
    return [data, data]


def cut(_data: bytes, _at: int) -> None:
    """The end of the connection."""
    return


ACTS = {"flip": flip, "drop": drop, "insert": insert, "repeat": repeat}

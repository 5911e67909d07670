"""Two connections at a proxy host become one: what comes in at one end goes out at the other."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress

import trio

from protocol import limits
from transporter.link import long_line
from transporter.link.carrier import SocketCarrier
from transporter.link.dial import close_all
from transporter.logs import get_logger
from transporter.throttle.limits import Flow

# One for each direction of each pair: with 32 data channels 8 MiB in all.
BLOCK = 128 << 10
# A pair that moves nothing for so long is given up. The control connection's heartbeat comes every 10 s; a data channel
# may be silent while a disk works or a job is paused.
IDLE_SECONDS = 3600.0
log = get_logger()


class Meeting:
    """Where the two ends of one relayed connection come together. ``counted`` is held while they are joined.

    ``flow``: the limits under which both directions move.
    """

    def __init__(self, caller: str, target: str, counted: AbstractContextManager[None], flow: Flow) -> None:
        self._names = (caller, target)
        self._counted = counted
        self._flow = flow
        self._caller: trio.abc.Stream | None = None
        self._target: trio.abc.Stream | None = None
        self._met = trio.Event()
        self.moved = [0, 0]

    async def caller_came(self, stream: trio.abc.Stream) -> None:
        """Take the end of the node that asked."""
        self._caller = stream
        await self._came(stream)

    async def target_came(self, stream: trio.abc.Stream) -> None:
        """Take the end of the node that was called."""
        self._target = stream
        await self._came(stream)

    async def _came(self, stream: trio.abc.Stream) -> None:
        if self._caller is not None and self._target is not None:
            # Who comes second works for both.
            self._met.set()
            await self._join(self._caller, self._target)
            return
        try:
            with trio.move_on_after(limits.TICKET_SECONDS):
                await self._met.wait()
        finally:
            if not self._met.is_set():
                await close_all([stream])

    async def _join(self, caller: trio.abc.Stream, target: trio.abc.Stream) -> None:
        began = trio.current_time()
        try:
            with (
                self._counted,
                self._flow.in_session(),
                suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                for stream in (caller, target):
                    _notice_gone(stream)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, caller, target, 0, nursery.cancel_scope)
                    nursery.start_soon(self._pump, target, caller, 1, nursery.cancel_scope)
        finally:
            await close_all([caller, target])
            seconds = round(trio.current_time() - began, 1)
            log.info("relayed", caller=self._names[0], target=self._names[1], bytes=self.moved, seconds=seconds)

    async def _pump(self, source: trio.abc.Stream, sink: trio.abc.Stream, way: int, both: trio.CancelScope) -> None:
        read = _reader(source)
        try:
            while True:
                before = sum(self.moved)
                with trio.move_on_after(IDLE_SECONDS) as idle:
                    data = await read()
                if idle.cancelled_caught:
                    # One direction of a data channel says next to nothing: only both count.
                    if sum(self.moved) == before:
                        both.cancel()
                        return
                    continue
                if not data:
                    break
                if self._flow.sending.limited:
                    await self._flow.sending.send(sink.send_all, data)
                else:
                    await sink.send_all(data)
                self.moved[way] += len(data)
            if isinstance(sink, trio.abc.HalfCloseableStream):
                # A half-closed connection is one: the other direction goes on.
                await sink.send_eof()
                return
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            # One end broke: neither is of use any more.
            pass
        both.cancel()


def _reader(stream: trio.abc.Stream) -> Callable[[], Awaitable[bytes | bytearray | memoryview]]:
    """Return what reads the next bytes of a connection; those of a socket always into the same memory."""
    if not isinstance(stream, trio.SocketStream):
        return lambda: stream.receive_some(BLOCK)
    buffer = memoryview(bytearray(BLOCK))
    sock = stream.socket

    async def read() -> memoryview:
        return buffer[: await sock.recv_into(buffer)]

    return read


def _notice_gone(stream: trio.abc.Stream) -> None:
    if not isinstance(stream, trio.SocketStream):
        return
    # No TCP_USER_TIMEOUT: it would end a connection whose reader is paused, too.
    long_line.suit(stream.socket, SocketCarrier.congestion)
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ):
        with suppress(OSError):
            stream.socket.setsockopt(level, option, value)

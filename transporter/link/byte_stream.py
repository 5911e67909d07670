"""Any byte stream as a connection: looked at before it is handed on, and as the carrier of a data channel.

``incoming(stream)`` is how a listener meets a connection, whatever it is made of: it may peek at the first byte, take
a few, and then pass on the stream (``stream``, with everything that was only looked at still in it) or a carrier
(``carrier()``). A TCP connection keeps its fast path (`SocketCarrier`); anything else goes through `StreamCarrier`.
"""

from __future__ import annotations

import socket
from typing import Protocol

import trio

from transporter.link.carrier import Carrier, SocketCarrier


class Incoming(Protocol):
    """A connection that somebody opened to us, not yet handed on."""

    @property
    def stream(self) -> trio.abc.Stream:
        """The connection as a stream; what was peeked at is still to come, what was taken is not."""

    async def peek(self) -> bytes:
        """Return the first byte without taking it; empty at the end of the stream."""

    async def take(self, count: int) -> bytes:
        """Take exactly ``count`` bytes off the front; fewer at the end of the stream."""

    def carrier(self) -> Carrier:
        """Return the connection as the carrier of a data channel; nothing but the carrier is used afterwards."""


def incoming(stream: trio.abc.Stream) -> Incoming:
    """Return what a listener needs to know a connection by its first bytes."""
    return IncomingSocket(stream) if isinstance(stream, trio.SocketStream) else IncomingStream(stream)


def carrier_over(stream: trio.abc.Stream) -> Carrier:
    """Return the best carrier that there is over this stream."""
    return SocketCarrier(stream.socket) if isinstance(stream, trio.SocketStream) else StreamCarrier(stream)


class IncomingSocket:
    """A TCP connection: the kernel lets us look."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def peek(self) -> bytes:
        """Return the first byte without taking it."""
        return await self.stream.socket.recv(1, socket.MSG_PEEK)

    async def take(self, count: int) -> bytes:
        """Take exactly ``count`` bytes; fewer at the end."""
        data = b""
        while len(data) < count and (more := await self.stream.socket.recv(count - len(data))):
            data += more
        return data

    def carrier(self) -> Carrier:
        """Return the connection as a carrier."""
        return SocketCarrier(self.stream.socket)


class IncomingStream:
    """Any other stream: what was looked at is put back."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = PeekedStream(stream)

    async def peek(self) -> bytes:
        """Return the first byte without taking it."""
        return (await self.stream.peek())[:1]

    async def take(self, count: int) -> bytes:
        """Take exactly ``count`` bytes; fewer at the end."""
        data = b""
        while len(data) < count and (more := await self.stream.receive_some(count - len(data))):
            data += more
        return data

    def carrier(self) -> Carrier:
        """Return the connection as a carrier."""
        return StreamCarrier(self.stream)


class PeekedStream(trio.abc.HalfCloseableStream):
    """A stream whose next bytes can be looked at, and put back. One task reads at a time."""

    def __init__(self, stream: trio.abc.Stream, ahead: bytes = b"") -> None:
        self._stream = stream
        self._ahead = ahead

    async def peek(self) -> bytes:
        """Return what was read ahead; if that is nothing, wait for bytes first. Empty at the end of the stream."""
        if not self._ahead:
            self._ahead = bytes(await self._stream.receive_some())
        return self._ahead

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes that were read ahead, else those that come next."""
        if not self._ahead:
            return bytes(await self._stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint()
        count = len(self._ahead) if max_bytes is None else max_bytes
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End the sending side, where the stream below can."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


class KeptStream(trio.abc.Stream):
    """A stream that tells when it was closed: whoever lent it out may have to wait for that."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.closed = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the bytes that come next."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream, and say so."""
        try:
            await self._stream.aclose()
        finally:
            self.closed.set()


class StreamCarrier:
    """The carrier of a data channel over any stream (TLS, a WebSocket, a connection that a proxy host spliced)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``."""
        await self._stream.send_all(data)

    async def receive_into(self, buffer: memoryview, missing: int = 1) -> int:
        """Fill the start of ``buffer``; return how many bytes came, 0 at the end.

        Never waits for more than there is: how much of ``missing`` comes together is the stream's business.
        """
        data = await self._stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        """End the sending side, where the stream can; a data channel says it with its FIN anyway."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close at once, without a goodbye; tasks that wait on the stream are woken with an error."""
        await trio.aclose_forcefully(self._stream)

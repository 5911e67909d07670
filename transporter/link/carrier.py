"""What moves the bytes of a data channel. Today: the TCP connection itself."""

from __future__ import annotations

import socket
from typing import Protocol

import trio

from transporter.link import long_line

# Waking up for less costs more than it brings: some 40 microseconds of event loop for 64 KiB.
LOW_WATER = 256 << 10


class Carrier(Protocol):
    """Bytes in order, both ways. Raises ``trio.BrokenResourceError`` when the connection is gone."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``."""

    async def receive_into(self, buffer: memoryview, missing: int = 1) -> int:
        """Fill the start of ``buffer``; return how many bytes came, 0 at the end.

        ``missing`` bytes are certain to come; a carrier may wait for so many, never for more.
        """

    async def send_eof(self) -> None:
        """Say that no more bytes will come from here."""

    async def aclose(self) -> None:
        """Close."""


class SocketCarrier:
    """A TCP connection, without the copies that a stream of ``bytes`` objects would cost."""

    # What to ask the kernel for on a long line, for the whole process: a setting of the node (`[link] congestion`).
    congestion = long_line.BBR

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._low_water = 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        long_line.suit(sock, self.congestion)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send every byte of ``data``."""
        view = memoryview(data)
        try:
            while view:
                view = view[await self._socket.send(view) :]
        except OSError as error:
            raise trio.BrokenResourceError(f"sending failed: {error}") from error

    async def receive_into(self, buffer: memoryview, missing: int = 1) -> int:
        """Fill the start of ``buffer``; return how many bytes came, 0 at the end.

        ``missing`` bytes are certain to come; a carrier may wait for so many, never for more.
        """
        try:
            self._expect(min(missing, LOW_WATER))
            return await self._socket.recv_into(buffer)
        except OSError as error:
            raise trio.BrokenResourceError(f"receiving failed: {error}") from error

    def _expect(self, count: int) -> None:
        """Be woken when ``count`` bytes are there (SO_RCVLOWAT, socket(7)), not for each segment that arrives.

        Never more than the current frame still lacks: a wait for bytes that will not come is a wait for ever.
        """
        if count != self._low_water:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low_water = count

    async def send_eof(self) -> None:
        """Shut the sending side down."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(f"closing failed: {error}") from error

    async def aclose(self) -> None:
        """Close the socket; tasks that wait on it are woken with an error."""
        self._socket.close()
        await trio.lowlevel.checkpoint()


def use_congestion_control(name: str) -> None:
    """Set what this process asks for on long lines from now on; ``system``: nothing."""
    SocketCarrier.congestion = "" if name == "system" else name

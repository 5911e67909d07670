"""One port, four kinds of first byte: TLS (control), the preface (data), a ticket (asked for), anything else (closed).

Nothing is spent on a peer before its first byte; half-open peers are few, small, and gone within 10 s.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from protocol.data import PREFACE_LENGTH, PREFACE_MAGIC, Preface, parse_preface
from protocol.errors import ProtocolError
from protocol.ticket import TICKET_LENGTH, TICKET_MAGIC, parse_ticket
from transporter.errors import ConfigError
from transporter.link.address import Address
from transporter.link.carrier import SocketCarrier

TLS_FIRST_BYTE = 0x16
FIRST_BYTES_SECONDS = 10.0
# About 40 KiB each, and 64 KiB that are read at once: half-open peers together stay under 56 MiB whatever they send.
HALF_OPEN_AT_MOST = 512
_BACKLOG = 128

OnControl = Callable[[trio.SocketStream], Awaitable[None]]
OnData = Callable[[Preface, SocketCarrier], Awaitable[None]]
# Returns who takes the connection, or None for a ticket that is worth nothing.
OnTicket = Callable[[bytes], Callable[[trio.SocketStream], Awaitable[None]] | None]


def no_tickets(_ticket: bytes) -> None:
    """Nobody here asked for a connection."""


class HalfOpen:
    """Counts peers that are not known yet, from their first byte on; one over the limit is closed at once."""

    def __init__(self, limit: int = HALF_OPEN_AT_MOST) -> None:
        self._limit = limit
        self.count = 0

    def __enter__(self) -> HalfOpen:
        self.count += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.count -= 1

    @property
    def full(self) -> bool:
        """Whether one more is too many."""
        return self.count >= self._limit


async def open_listeners(address: Address) -> list[trio.SocketListener]:
    """Bind. Raises ConfigError when the address is taken or not ours."""
    try:
        return list(await trio.open_tcp_listeners(address.port, host=address.host or None, backlog=_BACKLOG))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror or error}",
            "choose another port in [node] listen, or stop what uses it",
        ) from error


def bound_address(listeners: list[trio.SocketListener]) -> Address:
    """Return where the first listener really is (the port may have been 0)."""
    host, port = listeners[0].socket.getsockname()[:2]
    return Address(host, port)


async def dispatch(
    stream: trio.SocketStream,
    half_open: HalfOpen,
    on_control: OnControl,
    on_data: OnData,
    on_ticket: OnTicket = no_tickets,
) -> None:
    """Look at the first byte of a new connection and hand it on; closes it at the end, unless a ticket gave it away."""
    given_away = False
    try:
        if half_open.full:
            return
        with half_open:
            first = await _first_words(stream)
        if first is CONTROL:
            await on_control(stream)
        elif isinstance(first, Preface):
            await on_data(first, SocketCarrier(stream.socket))
        elif isinstance(first, bytes) and (take := on_ticket(first)) is not None:
            given_away = True
            await take(stream)
    except OSError:
        return
    finally:
        if not given_away:
            # A data channel's socket belongs to its session by now, which closes it; closing twice does no harm.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


class _Control:
    """Stands for a TLS record at the beginning."""


CONTROL = _Control()


async def _first_words(stream: trio.SocketStream) -> _Control | Preface | bytes | None:
    """Return what a connection begins with: TLS (left unread), a preface, a ticket, or None for anything else."""
    with trio.move_on_after(FIRST_BYTES_SECONDS):
        first = await stream.socket.recv(1, socket.MSG_PEEK)
        try:
            if first == bytes([TLS_FIRST_BYTE]):
                return CONTROL
            if first == PREFACE_MAGIC[:1]:
                return parse_preface(await _exactly(stream, PREFACE_LENGTH))
            if first == TICKET_MAGIC[:1]:
                return parse_ticket(await _exactly(stream, TICKET_LENGTH))
        except ProtocolError:
            return None
    return None


async def _exactly(stream: trio.SocketStream, length: int) -> bytes:
    """Return ``length`` bytes, and not one more: they are the next reader's; fewer at the end."""
    data = b""
    while len(data) < length:
        more = await stream.socket.recv(length - len(data))
        if not more:
            break
        data += more
    return data

"""One port, and the first byte of a connection tells what it is.

TLS: control. The preface: data. A ticket: a connection that was asked for. ``G``: an outer WebSocket, inside which the
first byte decides again (no further WebSocket is unpacked there). Anything else is closed. Nothing is spent on a peer
before its first byte; half-open peers are few, small, and gone within 10 s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from protocol.data import PREFACE_LENGTH, PREFACE_MAGIC, Preface, parse_preface
from protocol.errors import ProtocolError
from protocol.ticket import TICKET_LENGTH, TICKET_MAGIC, parse_ticket
from transporter.errors import ConfigError
from transporter.link.address import Address
from transporter.link.byte_stream import Incoming, KeptStream, incoming
from transporter.link.carrier import Carrier
from transporter.link.websocket_stream import TUNNEL_PATH, accept_websocket

TLS_FIRST_BYTE = b"\x16"
# Of "GET": the request that a front end passes on.
HTTP_FIRST_BYTE = b"G"
FIRST_BYTES_SECONDS = 10.0
# About 40 KiB each, and 64 KiB that are read at once: half-open peers together stay under 56 MiB whatever they send.
HALF_OPEN_AT_MOST = 512
_BACKLOG = 128

OnControl = Callable[[trio.abc.Stream], Awaitable[None]]
OnData = Callable[[Preface, Carrier], Awaitable[None]]
# Returns who takes the connection, or None for a ticket that is worth nothing.
OnTicket = Callable[[bytes], Callable[[trio.abc.Stream], Awaitable[None]] | None]


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
    stream: trio.abc.Stream,
    half_open: HalfOpen,
    on_control: OnControl,
    on_data: OnData,
    on_ticket: OnTicket = no_tickets,
) -> None:
    """Look at the first byte of a new connection and hand it on; always closes it at the end."""
    known: _Known | None = None
    try:
        if half_open.full:
            return
        with half_open, trio.move_on_after(FIRST_BYTES_SECONDS):
            known = await _classify(incoming(stream))
        if known is None:
            return
        connection, first = known
        if first is None:
            await on_control(connection.stream)
        elif isinstance(first, Preface):
            await on_data(first, connection.carrier())
        elif (take := on_ticket(first)) is not None:
            await _give_away(connection.stream, take)
    except OSError:
        return
    finally:
        # A data channel's connection belongs to its session by now, which closes it; closing twice does no harm.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _give_away(stream: trio.abc.Stream, take: Callable[[trio.abc.Stream], Awaitable[None]]) -> None:
    """Have a connection outlive the task that accepted it, which closes what it was given when it ends."""
    if isinstance(stream, trio.SocketStream):
        await take(trio.SocketStream(stream.socket.dup()))
        return
    kept = KeptStream(stream)
    await take(kept)
    await kept.closed.wait()


# A connection and what was taken off its front: a preface, a ticket, or nothing (TLS).
_Known = tuple[Incoming, Preface | bytes | None]


async def _classify(connection: Incoming, *, tunnels: bool = True) -> _Known | None:
    """Return the connection and what it begins with; None for what is to be closed."""
    first = await connection.peek()
    if first == TLS_FIRST_BYTE:
        return connection, None
    if first == PREFACE_MAGIC[:1]:
        preface = await take_preface(connection)
        return None if preface is None else (connection, preface)
    if first == TICKET_MAGIC[:1]:
        ticket = await _take_ticket(connection)
        return None if ticket is None else (connection, ticket)
    if first == HTTP_FIRST_BYTE and tunnels:
        inner = await accept_websocket(connection.stream, TUNNEL_PATH)
        return None if inner is None else await _classify(incoming(inner), tunnels=False)
    return None


async def take_preface(connection: Incoming) -> Preface | None:
    """Take the preface off the front of a data channel; None when it ends first, or is none."""
    try:
        return parse_preface(await connection.take(PREFACE_LENGTH))
    except ProtocolError:
        return None


async def _take_ticket(connection: Incoming) -> bytes | None:
    try:
        return parse_ticket(await connection.take(TICKET_LENGTH))
    except ProtocolError:
        return None

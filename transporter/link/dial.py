"""Outbound connections: to a peer's control port, and for data channels; by whatever route leads to the peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from pipeline.run import open_tasks
from transporter.errors import CannotConnect
from transporter.link.address import Address
from transporter.link.carrier import SocketCarrier
from transporter.link.control_link import ControlLink, control_client
from transporter.link.identity import Identity
from transporter.link.tls import TlsStream

CONNECT_SECONDS = 10.0


class Route(Protocol):
    """How connections to a peer come about. Whoever made them, the peer answers on them as if it had been dialled."""

    async def connect(self, count: int, seconds: float) -> list[trio.SocketStream]:
        """Return ``count`` new connections, made within ``seconds``; all of them or none. Raises CannotConnect."""


@dataclass(frozen=True)
class Peer:
    """A paired node as this one knows it: its name here, where it listens, and the pin of its public key.

    ``connect_seconds``: how long to wait for a connection. ``route``: how one is made; None: by dialling ``address``.
    ``where``: what people read of the way to it, if that is not the address.
    """

    name: str
    address: Address
    pin: bytes
    connect_seconds: float = CONNECT_SECONDS
    route: Route | None = field(default=None, compare=False)
    where: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.where or str(self.address)

    async def connect(self, count: int = 1) -> list[trio.SocketStream]:
        """Return ``count`` new connections. Raises CannotConnect."""
        route = self.route or DirectRoute(self.address)
        return await route.connect(count, self.connect_seconds)


async def dial_tcp(address: Address, seconds: float = CONNECT_SECONDS) -> trio.SocketStream:
    """Open a TCP connection within ``seconds``. Raises CannotConnect."""
    try:
        with trio.fail_after(seconds):
            return await trio.open_tcp_stream(address.host, address.port)
    except (OSError, trio.TooSlowError) as error:
        reason = "it does not answer" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(
            f"cannot connect to {address}: {reason}",
            "check that `transporter serve` runs there and that the port is open",
        ) from error


@dataclass(frozen=True)
class DirectRoute:
    """TCP to where the peer listens."""

    address: Address

    async def connect(self, count: int, seconds: float) -> list[trio.SocketStream]:
        """Dial ``count`` times at once."""
        return await all_or_none(count, lambda _number: dial_tcp(self.address, seconds))


async def all_or_none(count: int, make: Callable[[int], Awaitable[trio.SocketStream]]) -> list[trio.SocketStream]:
    """Make ``count`` connections at once, in order; where one fails the others are closed."""
    made: dict[int, trio.SocketStream] = {}

    async def one(number: int) -> None:
        made[number] = await make(number)

    try:
        async with open_tasks() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
    except BaseException:
        await close_all(made.values())
        raise
    return [made[number] for number in range(count)]


async def close_all(streams: Iterable[trio.SocketStream]) -> None:
    """Close connections at once, whatever becomes of the task that had them."""
    with trio.CancelScope(shield=True):
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def dial_carriers(peer: Peer, count: int = 1) -> list[SocketCarrier]:
    """Open connections for data channels."""
    return [SocketCarrier(stream.socket) for stream in await peer.connect(count)]


@asynccontextmanager
async def dial_control(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    """Open a control connection to ``peer``, whose pin is checked in the handshake.

    Raises CannotConnect, IdentityRefused; LinkBroken when it breaks later.
    """
    (stream,) = await peer.connect()
    try:
        tls = TlsStream(stream, identity, server=False, accept_pin=lambda pin: pin == peer.pin)
        async with control_client(tls, peer.address.host, identity.name) as link:
            yield link
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)

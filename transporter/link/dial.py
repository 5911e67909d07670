"""Outbound connections: to a peer's control port, and for data channels; by whatever route leads to the peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from pipeline.run import open_tasks
from transporter.errors import CannotConnect
from transporter.link import segments
from transporter.link.address import Address
from transporter.link.byte_stream import carrier_over
from transporter.link.carrier import Carrier
from transporter.link.control_link import ControlLink, SilentPeer, control_client
from transporter.link.identity import Identity
from transporter.link.tls import TlsStream
from transporter.link.tunnel import open_stream
from transporter.link.websocket_carrier import open_data_websocket
from transporter.link_config import DataCarrier
from transporter.logs import get_logger
from transporter.outbound_proxy import OutboundProxy

CONNECT_SECONDS = 10.0
log = get_logger()


def _log(text: str) -> None:
    log.warning(text)


def _nobody_asks(_error: CannotConnect | None) -> None:
    pass


class Route(Protocol):
    """How connections to a peer come about. Whoever made them, the peer answers on them as if it had been dialled."""

    async def connect(self, count: int, seconds: float) -> list[trio.abc.Stream]:
        """Return ``count`` new connections, made within ``seconds``; all of them or none. Raises CannotConnect."""


@dataclass(frozen=True)
class Peer:
    """A paired node as this one knows it: its name here, where it listens, and the pin of its public key.

    ``connect_seconds``: how long to wait for a connection. ``outbound``: the proxy that leads there. ``data``: what
    carries its data channels. ``route``: how connections come about; None: by dialling ``address``. ``where``: what
    people read of the way to it, if that is not the address. ``say``: told what a person should know of the line.
    ``dialled``: told of each control connection why it could not be opened, or None.
    """

    name: str
    address: Address
    pin: bytes
    connect_seconds: float = CONNECT_SECONDS
    outbound: OutboundProxy | None = None
    data: DataCarrier = "auto"
    route: Route | None = field(default=None, compare=False)
    where: str = ""
    say: Callable[[str], None] = field(default=_log, compare=False)
    dialled: Callable[[CannotConnect | None], None] = field(default=_nobody_asks, compare=False)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.where or str(self.address)

    @property
    def end_to_end(self) -> bool:
        """Whether its TCP connections end where it is, so that what the kernel says of them holds for the whole way."""
        return self.route is None and self.outbound is None and not self.address.scheme

    async def connect(self, count: int = 1) -> list[trio.abc.Stream]:
        """Return ``count`` new connections. Raises CannotConnect."""
        if self.route is not None:
            return await self.route.connect(count, self.connect_seconds)
        return await all_or_none(count, lambda: open_stream(self.address, self.connect_seconds, self.outbound))


async def all_or_none(count: int, make: Callable[[], Awaitable[trio.abc.Stream]]) -> list[trio.abc.Stream]:
    """Make ``count`` connections at once; where one fails the others are closed."""
    made: list[trio.abc.Stream] = []

    async def one() -> None:
        made.append(await make())

    try:
        async with open_tasks() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
    except BaseException:
        await close_all(made)
        raise
    return made


async def close_all(streams: Iterable[trio.abc.Stream]) -> None:
    """Close connections at once, whatever becomes of the task that had them."""
    with trio.CancelScope(shield=True):
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def dial_carriers(peer: Peer, identity: Identity, count: int = 1) -> list[Carrier]:
    """Open connections for data channels: direct, unless ``peer.data`` says otherwise. Raises CannotConnect."""
    streams = await peer.connect(count)
    if peer.data != "websocket":
        return [carrier_over(stream) for stream in streams]
    carriers: list[Carrier] = []
    try:
        async with open_tasks() as nursery:
            for stream in streams:
                nursery.start_soon(_over_websocket, _tls(stream, peer, identity), peer, carriers)
    except BaseException:
        await close_all(streams)
        raise
    return carriers


async def dial_carrier(peer: Peer, identity: Identity) -> Carrier:
    """Open a connection for one data channel. Raises CannotConnect."""
    (carrier,) = await dial_carriers(peer, identity)
    return carrier


async def _over_websocket(tls: TlsStream, peer: Peer, carriers: list[Carrier]) -> None:
    carriers.append(await open_data_websocket(tls, peer.address.authority))


def _tls(stream: trio.abc.Stream, peer: Peer, identity: Identity) -> TlsStream:
    return TlsStream(stream, identity, server=False, accept_pin=lambda pin: pin == peer.pin)


@asynccontextmanager
async def dial_control(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    """Open a control connection to ``peer``, whose pin is checked in the handshake.

    A peer that takes the connection and then is silent is tried once more with short segments, in case the line
    swallows long ones. Raises CannotConnect, IdentityRefused; LinkBroken when it breaks later.
    """
    async with AsyncExitStack() as stack:
        try:
            link = await _dial(peer, identity, stack)
        except CannotConnect as error:
            peer.dialled(error)
            raise
        peer.dialled(None)
        yield link


async def _dial(peer: Peer, identity: Identity, stack: AsyncExitStack) -> ControlLink:
    try:
        return await stack.enter_async_context(_dial_once(peer, identity))
    except SilentPeer:
        if peer.route is not None or segments.OF_THIS_PROCESS.wanted(peer.address):
            raise
    return await stack.enter_async_context(_dial_with_short_segments(peer, identity))


@asynccontextmanager
async def _dial_with_short_segments(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    segments.OF_THIS_PROCESS.note(peer.address)
    answered = False
    try:
        async with _dial_once(peer, identity) as link:
            answered = True
            peer.say(
                f"long packets do not get through to {peer.name}: segments of {segments.SMALL_SEGMENT} bytes are used"
            )
            yield link
    finally:
        if not answered:
            segments.OF_THIS_PROCESS.forget(peer.address)


@asynccontextmanager
async def _dial_once(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    (stream,) = await peer.connect()
    try:
        async with control_client(_tls(stream, peer, identity), peer.address.authority, identity.name) as link:
            yield link
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)

"""Outbound connections: to a peer's control port, and for data channels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from transporter.errors import CannotConnect
from transporter.link.address import Address
from transporter.link.carrier import SocketCarrier
from transporter.link.control_link import ControlLink, control_client
from transporter.link.identity import Identity
from transporter.link.tls import TlsStream

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Peer:
    """A paired node as this one knows it: its name here, where it listens, and the pin of its public key.

    ``connect_seconds``: how long to wait for its TCP connection.
    """

    name: str
    address: Address
    pin: bytes
    connect_seconds: float = CONNECT_SECONDS


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


async def dial_carrier(address: Address) -> SocketCarrier:
    """Open a connection for a data channel."""
    stream = await dial_tcp(address)
    return SocketCarrier(stream.socket)


@asynccontextmanager
async def dial_control(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    """Open a control connection to ``peer``, whose pin is checked in the handshake.

    Raises CannotConnect, IdentityRefused; LinkBroken when it breaks later.
    """
    stream = await dial_tcp(peer.address, peer.connect_seconds)
    try:
        tls = TlsStream(stream, identity, server=False, accept_pin=lambda pin: pin == peer.pin)
        async with control_client(tls, peer.address.host, identity.name) as link:
            yield link
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)

"""Outbound connections: to a peer's control port, and for data channels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from transporter.link.address import Address
from transporter.link.byte_stream import carrier_over
from transporter.link.carrier import Carrier
from transporter.link.control_link import ControlLink, control_client
from transporter.link.identity import Identity
from transporter.link.tls import TlsStream
from transporter.link.tunnel import open_stream
from transporter.link.websocket_carrier import open_data_websocket
from transporter.link_config import DataCarrier
from transporter.outbound_proxy import OutboundProxy

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Peer:
    """A paired node as this one knows it: its name here, where it listens, and the pin of its public key.

    ``connect_seconds``: how long to wait for its TCP connection. ``outbound``: the proxy that leads there.
    ``data``: what carries its data channels.
    """

    name: str
    address: Address
    pin: bytes
    connect_seconds: float = CONNECT_SECONDS
    outbound: OutboundProxy | None = None
    data: DataCarrier = "auto"


async def dial_stream(peer: Peer) -> trio.abc.Stream:
    """Open a connection to ``peer``. Raises CannotConnect."""
    return await open_stream(peer.address, peer.connect_seconds, peer.outbound)


async def dial_carrier(peer: Peer, identity: Identity) -> Carrier:
    """Open a connection for a data channel: direct, unless ``peer.data`` says otherwise. Raises CannotConnect."""
    stream = await dial_stream(peer)
    if peer.data == "websocket":
        return await open_data_websocket(_tls(stream, peer, identity), peer.address.authority)
    return carrier_over(stream)


def _tls(stream: trio.abc.Stream, peer: Peer, identity: Identity) -> TlsStream:
    return TlsStream(stream, identity, server=False, accept_pin=lambda pin: pin == peer.pin)


@asynccontextmanager
async def dial_control(peer: Peer, identity: Identity) -> AsyncIterator[ControlLink]:
    """Open a control connection to ``peer``, whose pin is checked in the handshake.

    Raises CannotConnect, IdentityRefused; LinkBroken when it breaks later.
    """
    stream = await dial_stream(peer)
    try:
        async with control_client(_tls(stream, peer, identity), peer.address.authority, identity.name) as link:
            yield link
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)

"""From a peer in the catalog to how it is reached: directly, through a proxy host, or by waiting for its call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transporter.catalog import PEER_DIALS, PROXY_HOST
from transporter.catalog import Peer as Paired
from transporter.errors import IdentityRefused, PeerAway
from transporter.link.address import Address, parse_address
from transporter.link.dial import Peer
from transporter.link.identity import Identity
from transporter.link.outbound import choose_proxy
from transporter.link.parking import ParkedLinks, ReversedRoute
from transporter.link.relay_route import RelayRoute
from transporter.link.tickets import TicketOffice
from transporter.link_config import LinkConfig


@dataclass(frozen=True)
class Parking:
    """What a daemon has and a command of its own has not: nodes that parked a connection, and tickets for them."""

    links: ParkedLinks
    tickets: TicketOffice


@dataclass(frozen=True)
class Routes:
    """Makes peers that can be dialled. ``find``: a peer of the catalog by name. ``seconds``: for each connection."""

    find: Callable[[str], Paired | None]
    identity: Identity
    link: LinkConfig
    seconds: float
    parking: Parking | None = None

    def to(self, row: Paired) -> Peer:
        """Return how to reach a peer. Raises IdentityRefused, PeerAway; ConfigError for a proxy of no use."""
        if row.link == PEER_DIALS and self.parking is not None:
            route = ReversedRoute(self.parking.links, self.parking.tickets, row.pin, self.identity.pin)
            return self._without_address(row, route, "it dials this node")
        if row.via:
            return self._through(row)
        if row.link == PEER_DIALS:
            raise PeerAway(
                f"{row.name} dials this node, and only a daemon can wait for that",
                "start `transporter serve` for this home, then try again",
            )
        if not row.address:
            raise IdentityRefused(
                f"there is no peer {row.name!r} that this node could dial", "pair first: `invite` there, `join` here"
            )
        return self._direct(row)

    def _direct(self, row: Paired) -> Peer:
        address = parse_address(row.address)
        return Peer(row.name, address, row.pin, self.seconds, choose_proxy(self.link, address), self.link.data)

    def _through(self, row: Paired) -> Peer:
        relay = self.find(row.via)
        if relay is None or relay.link != PROXY_HOST:
            raise IdentityRefused(
                f"{row.name} is reached through the proxy host {row.via!r}, which is not known here",
                "join it: `invite --proxy` there, `join` here",
            )
        return self._without_address(
            row, RelayRoute(self._direct(relay), self.identity, row.pin), f"through {relay.name}"
        )

    def _without_address(self, row: Paired, route: ReversedRoute | RelayRoute, where: str) -> Peer:
        # The name stands for the host where a WebSocket's request wants one.
        address = Address(row.pin.hex()[:16], 1)
        return Peer(row.name, address, row.pin, self.seconds, None, self.link.data, route, where)

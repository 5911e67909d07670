"""Connections through a proxy host: it is asked for tickets, called once for each connection, and joins the ends."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from protocol import limits
from protocol.messages import Reach, Refused, Tickets
from protocol.ticket import encode_ticket
from transporter.errors import CannotConnect, PeerAway, RefusedByPeer
from transporter.link.broken import LinkBroken
from transporter.link.control_link import refusal_to_error
from transporter.link.dial import Peer, close_all, dial_control
from transporter.link.identity import Identity


@dataclass(frozen=True)
class RelayRoute:
    """The way to the node with the pin ``target``, by way of ``relay``, where both are registered."""

    relay: Peer
    identity: Identity
    target: bytes

    async def connect(self, count: int, seconds: float) -> list[trio.abc.Stream]:
        """Ask for ``count`` connections and open them. Raises PeerAway, CannotConnect, IdentityRefused."""
        with trio.move_on_after(seconds) as deadline:
            tickets = await self._ask(count)
        if deadline.cancelled_caught:
            raise CannotConnect(f"the proxy host {self.relay.name} does not answer", "check the line to it")
        return await show_tickets(self.relay, tickets)

    async def _ask(self, count: int) -> list[bytes]:
        try:
            async with dial_control(self.relay, self.identity) as link:
                await link.send(Reach(peer=self.target, count=count))
                message = (await link.receive()).message
        except LinkBroken as error:
            raise CannotConnect(f"the proxy host {self.relay.name} broke off: {error}", "try again") from error
        if isinstance(message, Refused):
            if message.code == PeerAway.code:
                raise PeerAway(message.what, message.remedy)
            raise refusal_to_error(message.code, message.what, message.remedy)
        if not isinstance(message, Tickets) or len(message.tickets) != count * limits.TICKET:
            raise RefusedByPeer(f"the proxy host {self.relay.name} gave no tickets", "update the transporter there")
        return split_tickets(message.tickets)


def split_tickets(tickets: bytes) -> list[bytes]:
    """Return the tickets of a message one by one."""
    return [tickets[at : at + limits.TICKET] for at in range(0, len(tickets), limits.TICKET)]


async def show_tickets(peer: Peer, tickets: list[bytes]) -> list[trio.abc.Stream]:
    """Open a connection to ``peer`` for each ticket, and show it there. Raises CannotConnect."""
    streams = await peer.connect(len(tickets))
    try:
        with trio.fail_after(peer.connect_seconds):
            for stream, ticket in zip(streams, tickets, strict=True):
                await stream.send_all(encode_ticket(ticket))
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await close_all(streams)
        raise CannotConnect(f"{peer.name} does not take connections that it asked for", "try again") from error
    except BaseException:
        await close_all(streams)
        raise
    return streams


__all__ = ["RelayRoute", "show_tickets", "split_tickets"]

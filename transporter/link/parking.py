"""Parked connections: control connections that peers keep open here, so that they can be called.

A node that accepts no connections parks one at whoever wants to reach it: at a proxy host, or at the source whose jobs
it serves. It is called with Incoming, dials, and shows the tickets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from pipeline.run import open_tasks
from protocol.messages import Incoming, Park, Parked
from transporter.errors import CannotConnect, DuplicateIdentity, PeerAway
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink
from transporter.link.dial import close_all
from transporter.link.tickets import TicketOffice

# How long an older connection of the same identity has to show that it lives.
PROBE_SECONDS = 5.0
CALL_SECONDS = 10.0


@dataclass(eq=False)
class ParkedLink:
    """One parked connection. ``instance`` tells processes of one identity apart."""

    link: ControlLink
    instance: bytes
    since: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: trio.Event = field(default_factory=trio.Event)

    async def call(self, caller: bytes, tickets: list[bytes]) -> None:
        """Ask the node to dial and show these tickets. ``caller``: the pin of who wants it. Raises PeerAway."""
        try:
            with trio.fail_after(CALL_SECONDS):
                await self.link.send(Incoming(peer=caller, tickets=b"".join(tickets)))
        except (LinkBroken, trio.TooSlowError) as error:
            # It is of no use any more; the node comes back over another one.
            self.scope.cancel()
            raise PeerAway("the peer does not take calls on its parked connection", "check the line there") from error


class ParkedLinks:
    """Who is parked here, by pin."""

    def __init__(self) -> None:
        self._links: dict[bytes, ParkedLink] = {}
        self._came = trio.lowlevel.ParkingLot()

    def get(self, pin: bytes) -> ParkedLink | None:
        """Return the parked connection of a node, if there is one."""
        return self._links.get(pin)

    def rows(self) -> list[dict[str, str | float]]:
        """Return what ``status`` shows: the peer's own name for itself, and for how many seconds it has been here."""
        now = trio.current_time()
        return [{"peer": one.link.peer_name, "seconds": round(now - one.since, 1)} for one in self._links.values()]

    async def wait_for(self, pin: bytes, seconds: float) -> ParkedLink:
        """Return the parked connection of a node as soon as there is one. Raises PeerAway."""
        with trio.move_on_after(seconds):
            while pin not in self._links:
                await self._came.park()
        if pin not in self._links:
            raise _away()
        return self._links[pin]

    async def keep(self, link: ControlLink, park: Park) -> None:
        """Hold a parked connection until it ends. Raises LinkBroken at its end, DuplicateIdentity (see `_admit`)."""
        async with self._admitted(link, park) as mine:
            await link.send(Parked())
            with mine.scope:
                # Nothing may come but heartbeats, which are answered in there.
                await link.receive()
        raise LinkBroken("the peer came back over a new connection")

    @asynccontextmanager
    async def _admitted(self, link: ControlLink, park: Park) -> AsyncIterator[ParkedLink]:
        await self._admit(link.peer_pin, park.instance)
        mine = self._links[link.peer_pin] = ParkedLink(link, park.instance, trio.current_time())
        self._came.unpark_all()
        try:
            yield mine
        finally:
            mine.gone.set()
            if self._links.get(link.peer_pin) is mine:
                del self._links[link.peer_pin]

    async def _admit(self, pin: bytes, instance: bytes) -> None:
        """Let the same process come back at once; another one of the same identity only when the first is dead."""
        while (other := self._links.get(pin)) is not None:
            if other.instance != instance and await other.link.alive(PROBE_SECONDS):
                raise DuplicateIdentity(
                    "two daemons claim one identity: another one is connected already, and lives",
                    "stop the one that should not be; if it is unknown, the key was stolen: remove the peer, pair anew",
                )
            if self._links.get(pin) is other:
                del self._links[pin]
                other.scope.cancel()


def _away() -> PeerAway:
    return PeerAway(
        "the peer, which dials this node, is not connected",
        "check that `transporter serve` runs there and reaches this node",
    )


@dataclass(frozen=True)
class ReversedRoute:
    """Connections to a node that dials this one: it is called, and comes."""

    parked: ParkedLinks
    tickets: TicketOffice
    pin: bytes
    own_pin: bytes

    async def connect(self, count: int, seconds: float) -> list[trio.abc.Stream]:
        """Call the node and wait until ``count`` connections of it are here. Raises PeerAway, CannotConnect."""
        came: list[trio.abc.Stream] = []
        changed = trio.lowlevel.ParkingLot()

        async def take(stream: trio.abc.Stream) -> None:
            came.append(stream)
            changed.unpark_all()

        tickets = [self.tickets.issue(take) for _ in range(count)]
        try:
            with trio.move_on_after(seconds) as deadline:
                async with open_tasks() as nursery:
                    nursery.start_soon(self._keep_calling, tickets, seconds)
                    while len(came) < count:
                        await changed.park()
                    nursery.cancel_scope.cancel()
            if deadline.cancelled_caught and self.parked.get(self.pin) is None:
                raise _away()
            if deadline.cancelled_caught:
                raise CannotConnect("the peer was called and did not dial", "check the log of the daemon there")
        except BaseException:
            await close_all(came)
            raise
        finally:
            for ticket in tickets:
                self.tickets.withdraw(ticket)
        return came

    async def _keep_calling(self, tickets: list[bytes], seconds: float) -> None:
        """Call, and again when the node comes back over another connection: the first one may have been dead."""
        while True:
            link = await self.parked.wait_for(self.pin, seconds)
            with suppress(PeerAway):
                await link.call(self.own_pin, [ticket for ticket in tickets if self.tickets.open(ticket)])
            await link.gone.wait()

"""The proxy host: joins connections of two nodes that both only dial out. It is blind: all it sees is sealed.

Who may use it is paired with it; everybody's connections are counted, and there is a limit for each node.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from protocol import limits
from protocol.messages import Reach, Tickets
from transporter.catalog import Peer
from transporter.errors import IdentityRefused, JobBusy, PeerAway
from transporter.link.control_link import ControlLink
from transporter.link.pairing import PROXY_RIGHT
from transporter.link.parking import ParkedLinks
from transporter.link.tickets import TicketOffice
from transporter.service.meeting import Meeting
from transporter.throttle.limits import Flow, Throttle

# Connections of one node at a time: a few jobs with 32 data channels each.
STREAMS_PER_NODE = 128
# How long a node that is wanted may take to come back after its connection, or a process, broke.
AWAIT_SECONDS = 5.0


class Relay:
    """One for each daemon that serves as a proxy host."""

    def __init__(
        self,
        parked: ParkedLinks,
        tickets: TicketOffice,
        streams_per_node: int = STREAMS_PER_NODE,
        throttle: Throttle | None = None,
    ) -> None:
        self._parked = parked
        self._tickets = tickets
        self._throttle = throttle or Throttle()
        self._most = streams_per_node
        self._streams: Counter[bytes] = Counter()
        # Until when connections are expected for which a node has a ticket.
        self._expected: dict[bytes, deque[float]] = {}

    async def reach(self, link: ControlLink, caller: Peer, target: Peer | None, message: Reach) -> None:
        """Answer Reach: call the other node, and give both their tickets. Raises what keeps it from that."""
        if target is None or PROXY_RIGHT not in target.rights:
            # The same for a node that is unknown and for one that may not use this host.
            raise IdentityRefused("the node that is wanted is not registered at this proxy host", "`join` it there")
        for peer in (caller, target):
            self._check_limit(peer, message.count)
        if self._tickets.full:
            raise JobBusy("too many connections are being made through this proxy host", "try again")
        meetings = [self._meeting(caller, target) for _ in range(message.count)]
        callers = [self._tickets.issue(meeting.caller_came) for meeting in meetings]
        targets = [self._tickets.issue(meeting.target_came) for meeting in meetings]
        await self._call(target, caller.pin, targets)
        await link.send(Tickets(tickets=b"".join(callers)))

    async def _call(self, target: Peer, caller: bytes, tickets: list[bytes]) -> None:
        """Call a node; one that comes back just now is waited for. Raises PeerAway."""
        try:
            with trio.fail_after(AWAIT_SECONDS):
                while True:
                    parked = await self._parked.wait_for(target.pin, AWAIT_SECONDS)
                    try:
                        await parked.call(caller, tickets)
                    except PeerAway:
                        await parked.gone.wait()
                    else:
                        return
        except (PeerAway, trio.TooSlowError) as error:
            raise PeerAway(
                f"{target.name} is not connected to the proxy host", "check that `transporter serve` runs there"
            ) from error

    def _meeting(self, caller: Peer, target: Peer) -> Meeting:
        pins = (caller.pin, target.pin)
        for pin in pins:
            self._expected.setdefault(pin, deque()).append(trio.current_time() + limits.TICKET_SECONDS)
        # What goes through counts for both nodes, and for the daemon: `[throttle.peers.NAME]` limits what one may use.
        flow = Flow(self._throttle, (("daemon", ""), ("peer", caller.name), ("peer", target.name)))
        return Meeting(caller.name, target.name, self._counted(pins), flow)

    def _check_limit(self, peer: Peer, more: int) -> None:
        """Raise JobBusy when a node would have too many connections: those that stand, and those that are expected."""
        expected = self._expected.get(peer.pin, deque())
        while expected and expected[0] < trio.current_time():
            expected.popleft()
        has = self._streams[peer.pin] + len(expected)
        if has + more > self._most:
            raise JobBusy(
                f"{peer.name} has {has} connections through this proxy host, and {self._most} are allowed",
                "wait until a job has ended, or have the limit raised there",
            )

    @contextmanager
    def _counted(self, pins: tuple[bytes, ...]) -> Iterator[None]:
        for pin in pins:
            self._streams[pin] += 1
            if self._expected.get(pin):
                self._expected[pin].popleft()
        try:
            yield
        finally:
            for pin in pins:
                self._streams[pin] -= 1
                if not self._streams[pin]:
                    del self._streams[pin]

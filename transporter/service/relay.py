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
# Of these, connections with one and the same other node: nobody can use up another's share alone.
PAIR_SHARE = 2
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
        # By pin, and by both pins of a pair.
        self._streams: Counter[bytes] = Counter()
        # Until when connections are expected for which a ticket is out.
        self._expected: dict[bytes, deque[float]] = {}

    async def reach(self, link: ControlLink, caller: Peer, target: Peer | None, message: Reach) -> None:
        """Answer Reach: call the other node, and give both their tickets. Raises what keeps it from that."""
        if target is None or PROXY_RIGHT not in target.rights:
            # The same for a node that is unknown and for one that may not use this host.
            raise IdentityRefused("the node that is wanted is not registered at this proxy host", "`join` it there")
        for peer in (caller, target):
            self._check_limit(peer.pin, peer.name, message.count, self._most)
        both = f"{caller.name} with {target.name}"
        self._check_limit(_pair(caller, target), both, message.count, self._most // PAIR_SHARE)
        if self._tickets.full:
            raise JobBusy("too many connections are being made through this proxy host", "try again")
        meetings = [self._meeting(caller, target) for _ in range(message.count)]
        callers = [self._tickets.issue(meeting.caller_came) for meeting in meetings]
        targets = [self._tickets.issue(meeting.target_came) for meeting in meetings]
        try:
            await self._call(target, caller.pin, targets)
            await link.send(Tickets(tickets=b"".join(callers)))
        except BaseException:
            # Nobody will come with these: they must not count against either node until they are too old.
            for ticket in (*callers, *targets):
                self._tickets.withdraw(ticket)
            for key in (caller.pin, target.pin, _pair(caller, target)):
                self._no_longer_expected(key, message.count)
            raise

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
        keys = (caller.pin, target.pin, _pair(caller, target))
        for key in keys:
            self._expected.setdefault(key, deque()).append(trio.current_time() + limits.TICKET_SECONDS)
        # What goes through counts for both nodes, and for the daemon: `[throttle.peers.NAME]` limits what one may use.
        flow = Flow(self._throttle, (("daemon", ""), ("peer", caller.name), ("peer", target.name)))
        return Meeting(caller.name, target.name, self._counted(keys), flow)

    def _check_limit(self, key: bytes, who: str, more: int, most: int) -> None:
        """Raise JobBusy when there would be too many connections: those that stand, and those that are expected."""
        expected = self._expected.get(key, deque())
        while expected and expected[0] < trio.current_time():
            expected.popleft()
        if not expected:
            self._expected.pop(key, None)
        has = self._streams[key] + len(expected)
        if has + more > most:
            raise JobBusy(
                f"{who} has {has} connections through this proxy host, and {most} are allowed",
                "wait until a job has ended, or have the limit raised there",
            )

    def _no_longer_expected(self, key: bytes, count: int) -> None:
        expected = self._expected.get(key, deque())
        for _ in range(min(count, len(expected))):
            expected.popleft()

    @contextmanager
    def _counted(self, keys: tuple[bytes, ...]) -> Iterator[None]:
        for key in keys:
            self._streams[key] += 1
            self._no_longer_expected(key, 1)
        try:
            yield
        finally:
            for key in keys:
                self._streams[key] -= 1
                if not self._streams[key]:
                    del self._streams[key]


def _pair(one: Peer, other: Peer) -> bytes:
    """Return the same for two nodes whoever of them asks."""
    return b"".join(sorted((one.pin, other.pin)))

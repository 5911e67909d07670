"""What a daemon lends to its tenants: repositories, keys, and the sessions that are open.

A tenant is an authenticated identity, never a field of a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from pipeline.workers import Lane
from protocol.messages import CopiedTo, CopyTo
from transporter.catalog import Catalog, Peer
from transporter.clock import Clock
from transporter.config import Config, RepositoryConfig
from transporter.errors import IdentityRefused, JobBusy, RefusedByPeer, TransporterError
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.link.control_link import ControlLink
from transporter.link.identity import Identity
from transporter.link.parking import ParkedLinks
from transporter.link.tickets import TicketOffice
from transporter.points.gone_keys import ANYWHERE, GoneKeys
from transporter.points.keeping_rows import rules_of
from transporter.points.mandate import Mandate
from transporter.repository import Repository
from transporter.throttle.limits import Throttle

if TYPE_CHECKING:
    from transporter.service.relay import Relay
    from transporter.service.session import ServiceSession

# A session that lost its link closes its pack first; the next one of the same job waits for that. Less than the time
# after which a silent link is given up: whoever waits here should hear why, not find the line cut.
HAND_OVER_SECONDS = 20.0

# Live sessions of one tenant: each has queues, buffers and files of its own, and few homes run so many jobs at once.
# As many again by its mandates, which other nodes hold.
SESSIONS_AT_MOST = 16
# Control connections of one node: each may hold a message of 16 MiB that is not whole yet.
CONNECTIONS_AT_MOST = 64


Push = Callable[[Peer, CopyTo, Mandate, bytes, Callable[[int], None]], Awaitable[CopiedTo]]
"""(tenant, what is asked for, its mandate, that as it travels, told of bytes) → what was copied."""


@dataclass(frozen=True)
class OpenRepository:
    """A repository in use by this daemon."""

    name: str
    store: Repository
    config: RepositoryConfig

    def __post_init__(self) -> None:
        self.store.keeping.rules = rules_of(self.config)


@dataclass
class Provider:
    """One for each daemon."""

    home: Home
    config: Config
    identity: Identity
    catalog: Catalog
    keys: KeyDatabase
    clock: Clock
    repositories: dict[str, OpenRepository] = field(default_factory=dict)
    # What keeps the others from being served: their tenants are told.
    closed: dict[str, TransporterError] = field(default_factory=dict)
    sessions: dict[bytes, ServiceSession] = field(default_factory=dict)
    # Nodes that dial this one keep a connection parked here; what comes in on call shows a ticket.
    parked: ParkedLinks = field(default_factory=ParkedLinks)
    tickets: TicketOffice = field(default_factory=TicketOffice)
    # Copies points to another node in a tenant's name; None where nobody does (in tests).
    push: Push | None = None
    # Where this daemon serves as a proxy host.
    relay: Relay | None = None
    # One lane for look-ups and one for writes: a slow fsync must not hold up a HAVE.
    lookups: Lane = field(default_factory=lambda: Lane(2))
    writes: Lane = field(default_factory=lambda: Lane(4))
    slots: Lane = field(default_factory=lambda: Lane(1))
    # The limits of the whole daemon: its own jobs are under them, too.
    throttle: Throttle = field(default_factory=Throttle)
    _replacing: dict[str, trio.Lock] = field(default_factory=dict)
    _connections: Counter[bytes] = field(default_factory=Counter)

    def drop_keys(self, points: Sequence[bytes]) -> None:
        """Forget the storage keys of points that went from a repository of this node and lie nowhere else."""
        GoneKeys(self.home, self.config, self.identity, self.catalog, self.keys).drop(ANYWHERE, points)

    @contextmanager
    def connected(self, pin: bytes) -> Iterator[None]:
        """Count a control connection of a known peer while the context lasts. Raises JobBusy when it has too many."""
        if self._connections[pin] >= CONNECTIONS_AT_MOST:
            peer = self.catalog.peer_by_pin(pin)
            raise JobBusy(
                f"{peer.name if peer is not None else 'one node'} has {CONNECTIONS_AT_MOST} connections to "
                f"{self.config.node.name}, and no more are served at once",
                "wait until one of them has ended",
            )
        self._connections[pin] += 1
        try:
            yield
        finally:
            self._connections[pin] -= 1
            if not self._connections[pin]:
                del self._connections[pin]

    def replacing_slots(self, tenant: str) -> trio.Lock:
        """Return the lock that a tenant's replacement of slots holds."""
        return self._replacing.setdefault(tenant, trio.Lock())

    def known_peer(self, pin: bytes) -> Peer:
        """Return the peer of this public key as it is known now. Raises IdentityRefused once it has been removed."""
        peer = self.catalog.peer_by_pin(pin)
        if peer is None:
            raise IdentityRefused(
                f"{self.config.node.name} does not know the node that asks any more",
                "ask the provider for a new invitation",
            )
        return peer

    def peer_on(self, link: ControlLink) -> Peer:
        """Return in whose name the node at the other end of a connection acts: its own, or a conductor's.

        Raises IdentityRefused once that one has been removed, and once the node itself has.
        """
        peer = self.known_peer(link.peer_pin)
        mandate = link.mandate
        if not isinstance(mandate, Mandate):
            return peer
        conductor = self.known_peer(mandate.conductor)
        return replace(conductor, rights=tuple(name for name in conductor.rights if name == mandate.repository))

    def repository(self, peer: Peer, name: str) -> OpenRepository:
        """Return the repository ``name`` if this tenant may use it. Raises RefusedByPeer.

        A tenant learns the same from a repository that is not there as from one that is not its own.
        """
        if name in peer.rights and name in self.closed:
            error = self.closed[name]
            raise RefusedByPeer(f"the repository {name!r} is out of service there: {error.what}", "tell the provider")
        if name not in peer.rights or name not in self.repositories:
            raise RefusedByPeer(
                f"{peer.name} may not use a repository {name!r} of {self.config.node.name}",
                "ask the provider for an invitation to it",
            )
        return self.repositories[name]

    async def claim(self, session: ServiceSession) -> None:
        """Make ``session`` the only one of its tenant and job; a predecessor that is ending is waited for.

        A session of the same run is replaced: its link is gone, whether or not this end has noticed. So is one that
        another node holds by the tenant's mandate, by one of the tenant's own. Raises JobBusy when another run of the
        job goes on, and when the tenant has as many sessions as it may: those that others hold do not count.
        """
        with trio.move_on_after(HAND_OVER_SECONDS):
            # Looked up anew after each wait: another one that waited may have got in before.
            while (other := self._of_same_job(session)) is not None:
                if other.start.resume == session.start.resume or (other.mandated and not session.mandated):
                    other.replace()
                await other.ended.wait()
        if self._of_same_job(session) is not None:
            raise JobBusy("another run of this job is under way", "wait until it has ended")
        who = (session.tenant, session.mandated)
        if sum((other.tenant, other.mandated) == who for other in self.sessions.values()) >= SESSIONS_AT_MOST:
            raise JobBusy(
                f"{SESSIONS_AT_MOST} jobs of {session.peer.name} are under way at {self.config.node.name}, and no more "
                "are served at once",
                "wait until one of them has ended",
            )
        self.sessions[session.session_id] = session

    def _of_same_job(self, session: ServiceSession) -> ServiceSession | None:
        return next((other for other in self.sessions.values() if other.same_job(session)), None)

    def release(self, session: ServiceSession) -> None:
        """Forget a session."""
        self.sessions.pop(session.session_id, None)

"""One session as the provider sees it: Key A made, Key B received, data channels attached, and then the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from protocol.channel_keys import binding
from protocol.control import Received
from protocol.data import DataChannel, Preface
from protocol.errors import TamperingError
from protocol.keeping_messages import GetChain
from protocol.messages import GetPoint, Limit, ListPoints, Ready, Start
from transporter.catalog import Peer
from transporter.errors import RefusedByPeer, TamperingDetected, TransporterError
from transporter.link.carrier import Carrier
from transporter.link.control_link import ControlLink
from transporter.link.data_link import DataLink
from transporter.points.domain import domain_for, key_label
from transporter.repository import PointRef
from transporter.service.answers import answer_get_point, answer_list_points
from transporter.service.keeping import answer_get_chain
from transporter.service.provider import OpenRepository, Provider
from transporter.service.refusal import refuse
from transporter.throttle.limits import Flow

KEY_LENGTH = 32
SESSION_ID_LENGTH = 16


@dataclass(eq=False)
class ServiceSession:
    """Identity, keys and channels of one session. What travels is the business of backup.py and recovery.py."""

    provider: Provider
    link: ControlLink
    peer: Peer
    start: Start
    repository: OpenRepository
    session_id: bytes
    key_a: bytes | None = field(repr=False)
    key_b: bytes | None = field(default=None, repr=False)
    channels: trio.MemorySendChannel[DataLink] | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    # What a backup builds on: announced at its start, and checked at its commit.
    parent: PointRef | None = None
    failure: TransporterError | None = None
    # Of the chunks that are written, or that the point to recover needs: an older point may be of another one.
    domain: bytes = field(init=False)
    flow: Flow = field(init=False)
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _arrived: set[int] = field(default_factory=set)
    _open: list[DataLink] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.domain = domain_for(self.tenant, self.start.job, acceleration=self.start.acceleration)
        self.flow = Flow(self.provider.throttle, (("daemon", ""), ("peer", self.peer.name)))

    @property
    def tenant(self) -> str:
        """Whose session this is: from the authenticated identity."""
        return self.peer.tenant

    @property
    def mandated(self) -> bool:
        """Whether another node than the tenant's holds it, by the tenant's mandate."""
        return self.link.mandate is not None

    @property
    def key_label(self) -> str:
        """What the key database calls the domain's chunk-id key."""
        return key_label(self.tenant, self.start.job, acceleration=self.start.acceleration)

    def same_job(self, other: ServiceSession) -> bool:
        """Tell whether both write to the same job of the same tenant: two backups, or two copies."""
        return (
            self.start.purpose == other.start.purpose
            and self.start.purpose in ("backup", "copy-in", "copy-seal")
            and self.tenant == other.tenant
            and self.start.job == other.start.job
            and self.repository is other.repository
        )

    def public(self) -> dict[str, str | int]:
        """Return what ``status`` shows of the session."""
        moved = sum(channel.bytes_received + channel.bytes_sent for channel in self._open)
        return {
            "peer": self.peer.name,
            "purpose": self.start.purpose,
            "job": self.start.job,
            "repository": self.repository.name,
            "bytes": moved,
            "streams": len(self._open),
        }

    def replace(self) -> None:
        """Stop: the same run came back over a new link."""
        self._scope.cancel()

    @property
    def scope(self) -> trio.CancelScope:
        """Cancelled when the session is replaced."""
        return self._scope

    def close_channels(self) -> None:
        """No further data channels; those that are open are closed."""
        if self.channels is not None:
            self.channels.close()
        self.channels = None
        for data_link in self._open:
            data_link.closed.set()

    def check_peer(self) -> None:
        """Raise IdentityRefused or RefusedByPeer if the peer, or its right to the repository, was taken away since."""
        self.provider.repository(self.provider.peer_on(self.link), self.repository.name)

    def general(self, received: Received) -> Callable[[Received], Awaitable[None]]:
        """Return the answer to a question that fits any session. Raises RefusedByPeer for anything else."""
        self.check_peer()
        message = received.message
        if isinstance(message, GetPoint):
            return lambda _received: answer_get_point(self.provider, self.link, self.peer, message)
        if isinstance(message, GetChain):
            return lambda _received: answer_get_chain(self.provider, self.link, self.peer, message)
        if isinstance(message, Limit):
            return self._asked_to_pace
        if isinstance(message, ListPoints):
            return lambda _received: answer_list_points(self.provider, self.link, self.peer, message)
        raise RefusedByPeer(f"{type(message).__name__} does not fit in this session", "update the transporter")

    async def _asked_to_pace(self, received: Received) -> None:
        if isinstance(received.message, Limit):
            self.flow.asked(received.message.bytes_per_second)

    async def _end(self, error: TransporterError) -> None:
        """End the session for what happened on a channel: the initiator hears of it before that channel closes.

        Else it sees a broken line, and dials again, while this end still finishes its packs.
        """
        self.failure = error
        await refuse(self.link, error)
        self._scope.cancel()

    async def attach(self, preface: Preface, carrier: Carrier) -> DataLink:
        """Take in a data channel that named this session; returns when it is handed over.

        Channel 0 comes first, under Key A, and brings Key B; Key A is forgotten then. Raises RefusedByPeer.
        """
        number = preface.channel
        key = self.key_a if number == 0 else self.key_b
        if key is None or number in self._arrived or self.channels is None:
            raise RefusedByPeer("a data channel came out of turn", "nothing to do about it")
        bound = binding(self.link.peer_pin, self.provider.identity.pin, self.link.exporter)
        try:
            channel = DataChannel.accept(preface, input_key=key, binding=bound)
        except TamperingError as error:
            failure = TamperingDetected(
                f"a data channel of {self.peer.name} was not opened by {self.peer.name}: {error}",
                "find out who stands in the line before the next run",
            )
            await self._end(failure)
            raise failure from error
        # Each number once: that is what makes the replay of a whole channel fail.
        self._arrived.add(number)
        data_link = DataLink(channel, carrier, self.link.peer_name)
        data_link.flow = self.flow
        try:
            key_b = await data_link.open_as_acceptor()
        except TransporterError as error:
            await self._end(error)
            raise
        if number == 0:
            self.key_b, self.key_a = key_b, None
            await self.link.send(Ready())
        if self.channels is None:
            # The session ended while the channel was opened.
            raise RefusedByPeer("a data channel came too late for its session", "nothing to do about it")
        self._open.append(data_link)
        await self.channels.send(data_link)
        return data_link

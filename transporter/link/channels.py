"""The data channels of one session, at its initiating side: opened at its start, and more of them as it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from protocol.channel_keys import binding
from protocol.data import DataChannel
from transporter.clock import Clock
from transporter.errors import CannotConnect, IdentityRefused, TamperingDetected, TransporterError
from transporter.link.broken import LinkBroken
from transporter.link.carrier import Carrier
from transporter.link.data_link import DataLink
from transporter.link.dial import Peer, dial_carriers
from transporter.link.identity import Identity
from transporter.link.striping import FEW, Striper
from transporter.logs import get_logger

if TYPE_CHECKING:
    from transporter.link.session import Session

KEY_LENGTH = 32
SALT_LENGTH = 24
# Connections that were made while the provider prepared the session: it closes those that say nothing for 10 s.
FRESH_SECONDS = 5.0
# Looks at the backlog within one measurement.
LOOKS = 5
ROUND_TRIP_SECONDS = 5.0
log = get_logger()


class EarlyCarriers:
    """Connections for the first channels, made while the session is still being asked for: saves a round trip.

    One at first, and the others while channel 0 agrees on Key B: until it hears of their session the provider counts
    them among those that are half open, and a hundred jobs that begin in the same minute must find room there.
    Where the peer has to be called (by a proxy host, or because it dials) a second call costs more than that: then all.
    """

    def __init__(self, peer: Peer, identity: Identity, count: int) -> None:
        self._peer = peer
        self._identity = identity
        self._counts = (1, count - 1) if peer.end_to_end else (count, 0)
        self._carriers: list[Carrier] = []
        self._error: CannotConnect | None = None
        self._dialled = (trio.Event(), trio.Event())
        self._wanted = trio.Event()
        self._at = 0.0

    async def dial(self) -> None:
        """Make them; a failure is kept for `take`."""
        await self._dial(0)
        await self._wanted.wait()
        await self._dial(1)

    async def _dial(self, part: int) -> None:
        try:
            if self._counts[part] and self._error is None:
                # The provider counts from when it accepts each of them.
                self._at = trio.current_time()
                # In two steps: `+=` would look up the list before it waits, and hand out the same connections twice.
                made = await dial_carriers(self._peer, self._identity, self._counts[part])
                self._carriers += made
        except CannotConnect as error:
            self._error = error
        finally:
            self._dialled[part].set()

    async def take(self) -> list[Carrier]:
        """Return the first, and have the others made; new ones where they may have been closed meanwhile."""
        return await self._take(0)

    async def take_rest(self) -> list[Carrier]:
        """Return the others."""
        return await self._take(1)

    async def _take(self, part: int) -> list[Carrier]:
        """Return what was dialled. Raises CannotConnect."""
        await self._dialled[part].wait()
        self._wanted.set()
        if self._error is not None:
            raise self._error
        if self._carriers and trio.current_time() - self._at > FRESH_SECONDS:
            await self.close()
            return await dial_carriers(self._peer, self._identity, self._counts[part])
        carriers, self._carriers = self._carriers, []
        return carriers

    async def close(self) -> None:
        """Close those that nobody took."""
        carriers, self._carriers = self._carriers, []
        with trio.CancelScope(shield=True):
            for carrier in carriers:
                await carrier.aclose()


class ChannelOpener:
    """Opens data channels of one session, each with the next number; 0 agrees on Key B, which the others need."""

    def __init__(
        self, session: Session, nursery: trio.Nursery, peer: Peer, identity: Identity, key_a: bytes, clock: Clock
    ) -> None:
        self._session = session
        self._nursery = nursery
        self._peer = peer
        self._identity = identity
        self._key_a = key_a
        self._key_b = clock.random_bytes(KEY_LENGTH)
        self._clock = clock
        link = session.link
        self._binding = binding(identity.pin, link.peer_pin, link.exporter)
        self.opened = 0

    async def open_first(self, early: EarlyCarriers, ready: Callable[[], Awaitable[None]]) -> None:
        """Open the first channels; ``ready`` waits until the provider has Key B."""
        await self._open_all(await early.take(), ready)
        await self._open_all(await early.take_rest())

    async def grow_to(self, count: int) -> None:
        """Open channels until there are ``count``. Raises CannotConnect, LinkBroken, what a proxy host refuses."""
        if count <= self.opened:
            return
        await self._open_all(await dial_carriers(self._peer, self._identity, count - self.opened))

    async def _open_all(self, carriers: list[Carrier], ready: Callable[[], Awaitable[None]] | None = None) -> None:
        waiting = list(carriers)
        try:
            while waiting:
                await self._open(waiting.pop(0))
                if self.opened == 1 and ready is not None:
                    await ready()
        finally:
            # Those that have become channels are the session's to close.
            with trio.CancelScope(shield=True):
                for carrier in waiting:
                    await carrier.aclose()

    async def _open(self, carrier: Carrier) -> None:
        number = self.opened
        self.opened += 1
        channel = DataChannel.initiate(
            channel=number,
            session=self._session.started.session,
            input_key=self._key_b if number else self._key_a,
            binding=self._binding,
            salt=self._clock.random_bytes(SALT_LENGTH),
        )
        data_link = DataLink(channel, carrier, self._peer.name)
        self._session.add(data_link)
        try:
            await data_link.open_as_initiator(None if number else self._key_b)
        except BaseException:
            if number:
                self._session.drop(data_link)
                with trio.CancelScope(shield=True):
                    await data_link.aclose()
            raise
        self._nursery.start_soon(self._session.send_chunks, data_link, number)
        self._nursery.start_soon(self._session.receive_chunks, data_link)


async def stripe(session: Session, opener: ChannelOpener, most: int, round_trip: float | None) -> None:
    """Measure, and use as many channels, up to ``most``, as make the session faster; until it closes.

    ``round_trip`` in seconds; None: it is measured by a Ping, because the kernel knows only the way to the next hop.
    """
    session.is_growing = True
    try:
        with session.growing:
            if round_trip is None:
                round_trip = await session.link.round_trip(ROUND_TRIP_SECONDS)
            if round_trip is not None:
                await _stripe(session, opener, most, round_trip)
    finally:
        session.is_growing = False
        session.grown.unpark_all()


async def _stripe(session: Session, opener: ChannelOpener, most: int, round_trip: float) -> None:
    striper = Striper(most, round_trip, opener.opened if opener.opened > FEW else 0)
    if striper.short_line:
        return
    while True:
        try:
            await opener.grow_to(striper.streams)
        except (TamperingDetected, IdentityRefused):
            # Whoever meddles with a channel that is added later is no reason to do with fewer of them.
            raise
        except (TransporterError, LinkBroken) as error:
            # Those that are open do their work; if it is the line, they will say so.
            log.info("no more data channels", peer=session.link.peer_name, have=opener.opened, reason=str(error))
            striper.most = striper.streams = opener.opened
        session.use_channels(striper.streams)
        rate, bound = await _measure(session, striper.interval)
        striper.measured(rate, striper.interval, line_bound=bound)


async def _measure(session: Session, seconds: float) -> tuple[float, bool]:
    """Return the goodput of the next ``seconds`` in bytes a second, and whether there was always something to move."""
    before, began, bound = session.data_bytes, trio.current_time(), True
    for _ in range(LOOKS):
        await trio.sleep(seconds / LOOKS)
        bound = bound and session.backlog
    return (session.data_bytes - before) / (trio.current_time() - began), bound

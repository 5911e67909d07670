"""Keeps connections parked at proxy hosts, and at sources that this node dials; comes when it is called there.

One task for each such peer: dial, park, serve calls, and when the connection ends dial again, with growing pauses.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from pipeline.run import open_tasks
from protocol.messages import Incoming, Park, Parked, Refused
from transporter.catalog import PROXY_HOST, WE_DIAL, Peer
from transporter.errors import (
    CannotConnect,
    IdentityRefused,
    RefusedByPeer,
    TamperingDetected,
    TransporterError,
)
from transporter.events import EventBus, LinkLost, LinkUp, SecurityEvent
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import Peer as DialPeer
from transporter.link.dial import dial_control
from transporter.link.relay_route import show_tickets, split_tickets
from transporter.link.routes import Routes
from transporter.logs import get_logger
from transporter.service.provider import Provider

# How often the catalog is looked at: pairing is done by commands, in processes of their own.
LOOK_SECONDS = 2.0
PARK_SECONDS = 20.0
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
# A peer that refuses is not a line that broke: nothing changes there until a person does something.
REFUSED_PAUSE = 60.0
# A connection that lasted so long was a good one: the pauses begin anew.
STEADY_SECONDS = 10.0
INSTANCE_LENGTH = 16
# Calls of one peer that are answered at a time, of up to 32 connections each: it cannot make us dial without end.
# What comes on those connections is bounded as if it had been accepted here.
CALLS_AT_MOST = 64
log = get_logger()

TakeIn = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass(eq=False)
class _Kept:
    """One peer at which a connection is to be parked."""

    peer: Peer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    parked_since: float | None = None
    trouble: str = ""
    # Calls for which connections are being made.
    answering: int = 0


class Keeper:
    """Keeps one parked connection at each peer of the catalog that wants one. ``take_in`` serves what a call brings."""

    def __init__(self, provider: Provider, bus: EventBus, take_in: TakeIn) -> None:
        self._provider = provider
        self._bus = bus
        self._take_in = take_in
        # Of this process: so that a peer can tell a daemon that came back from a second one with a stolen key.
        self._instance = provider.clock.random_bytes(INSTANCE_LENGTH)
        self._kept: dict[tuple[str, ...], _Kept] = {}

    async def run(self) -> None:
        """Follow the catalog until cancelled."""
        async with open_tasks() as nursery:
            while True:
                wanted = {_key(peer): peer for peer in self._provider.catalog.peers() if peer.link in _LINKS}
                for key in self._kept.keys() - wanted.keys():
                    self._kept.pop(key).scope.cancel()
                for key in wanted.keys() - self._kept.keys():
                    kept = self._kept[key] = _Kept(wanted[key])
                    nursery.start_soon(self._keep, kept)
                await trio.sleep(LOOK_SECONDS)

    def rows(self) -> list[dict[str, str | float]]:
        """Return what ``status`` shows: each peer, for how long a connection has been parked there, or why none is."""
        now = trio.current_time()
        return [
            {"peer": kept.peer.name, "link": kept.peer.link, "state": "away", "trouble": kept.trouble}
            if kept.parked_since is None
            else {
                "peer": kept.peer.name,
                "link": kept.peer.link,
                "state": "parked",
                "seconds": round(now - kept.parked_since, 1),
            }
            for kept in self._kept.values()
        ]

    async def _keep(self, kept: _Kept) -> None:
        pause = FIRST_PAUSE
        # Calls outlive the connection they came over: sessions have connections of their own.
        with kept.scope:
            async with open_tasks() as calls:
                while True:
                    began = trio.current_time()
                    error = await self._one_connection(kept, calls)
                    steady = kept.parked_since is not None and trio.current_time() - began > STEADY_SECONDS
                    lost, kept.parked_since = kept.parked_since is not None, None
                    refused = isinstance(error, RefusedByPeer)
                    pause = REFUSED_PAUSE if refused else FIRST_PAUSE if steady else pause
                    self._tell(kept, error, lost=lost)
                    # Jitter, so that a thousand nodes do not all return in the same second.
                    await trio.sleep(pause * random.uniform(0.5, 1.5))
                    pause = FIRST_PAUSE if refused else min(pause * 2, LONGEST_PAUSE)

    def _tell(self, kept: _Kept, error: Exception, *, lost: bool) -> None:
        name, what = kept.peer.name, str(error)
        if isinstance(error, TamperingDetected | IdentityRefused):
            self._bus.publish(SecurityEvent(peer=name, what=what))
            log.error("parked link refused", peer=name, what=what)
        elif lost:
            self._bus.publish(LinkLost(peer=name, reason=what))
            log.warning("parked link lost", peer=name, reason=what)
        elif what != kept.trouble:
            log.warning("cannot park a link", peer=name, reason=what)
        kept.trouble = what

    async def _one_connection(self, kept: _Kept, calls: trio.Nursery) -> Exception:
        """Park one connection and take its calls; return why it ended."""
        try:
            routes = Routes(
                self._provider.catalog.peer,
                self._provider.identity,
                self._provider.config.link,
                float(self._provider.config.limits.connect_timeout),
            )
            there = routes.to(kept.peer)
            async with dial_control(there, self._provider.identity) as link:
                await self._park(link)
                kept.parked_since, kept.trouble = trio.current_time(), ""
                self._bus.publish(LinkUp(peer=kept.peer.name, address=there.place))
                log.info("link parked", peer=kept.peer.name, where=there.place)
                await self._take_calls(link, there, kept, calls)
        except (LinkBroken, TransporterError) as error:
            return error
        except Exception as error:
            # One peer must never take the daemon down, whatever it answers with; the trace is for us.
            log.exception("parked link failed", peer=kept.peer.name)
            return LinkBroken(f"an internal error: {type(error).__name__}")
        return LinkBroken("the connection ended")

    async def _park(self, link: ControlLink) -> None:
        with trio.move_on_after(PARK_SECONDS) as deadline:
            await link.send(Park(instance=self._instance))
            message = (await link.receive()).message
        if deadline.cancelled_caught:
            raise CannotConnect("the peer did not take the parked connection in time", "see its log")
        if isinstance(message, Refused):
            raise refusal_to_error(message.code, message.what, message.remedy)
        if not isinstance(message, Parked):
            raise RefusedByPeer("the peer did not take the parked connection", "update the transporter there")

    async def _take_calls(self, link: ControlLink, there: DialPeer, kept: _Kept, calls: trio.Nursery) -> None:
        while True:
            message = (await link.receive()).message
            if isinstance(message, Refused):
                raise refusal_to_error(message.code, message.what, message.remedy)
            if isinstance(message, Incoming) and kept.answering >= CALLS_AT_MOST:
                log.warning("too many calls at once", peer=there.name)
            elif isinstance(message, Incoming):
                kept.answering += 1
                calls.start_soon(self._answer_call, there, kept, split_tickets(message.tickets))

    async def _answer_call(self, there: DialPeer, kept: _Kept, tickets: list[bytes]) -> None:
        """Dial, show the tickets, and serve what comes on these connections, as if it had been accepted."""
        try:
            streams = await show_tickets(there, tickets)
        except (LinkBroken, TransporterError) as error:
            log.warning("a call could not be answered", peer=there.name, reason=str(error))
            return
        except Exception:
            log.exception("a call could not be answered", peer=there.name)
            return
        finally:
            kept.answering -= 1
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(self._take_in, stream)


_LINKS = frozenset({PROXY_HOST, WE_DIAL})


def _key(peer: Peer) -> tuple[str, ...]:
    """Return what makes a parked connection another one."""
    return peer.name, peer.pin.hex(), peer.address, peer.via, peer.link

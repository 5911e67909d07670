"""Tickets: who asked a node to dial knows by them which of the connections that come in is which.

Each is random, opens one connection, and is worth nothing after `TICKET_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from protocol import limits
from transporter.clock import Clock, SystemClock

# Outstanding tickets, of all peers together: some 300 bytes each.
TICKETS_AT_MOST = 4096

Taker = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass(frozen=True)
class _Issued:
    take: Taker
    until: float


class TicketOffice:
    """Issues tickets and takes them back, once each."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._issued: dict[bytes, _Issued] = {}

    def issue(self, take: Taker) -> bytes:
        """Return a new ticket. ``take`` is called with the connection that shows it, and owns it from then on."""
        self._sweep()
        ticket = self._clock.random_bytes(limits.TICKET)
        self._issued[ticket] = _Issued(take, trio.current_time() + limits.TICKET_SECONDS)
        return ticket

    def open(self, ticket: bytes) -> bool:
        """Whether nobody has shown it yet."""
        return ticket in self._issued

    def withdraw(self, ticket: bytes) -> None:
        """Make a ticket worthless."""
        self._issued.pop(ticket, None)

    def find(self, ticket: bytes) -> Taker | None:
        """Use a ticket up; return who takes its connection, None where it is unknown, used or too old."""
        issued = self._issued.pop(ticket, None)
        return issued.take if issued is not None and trio.current_time() < issued.until else None

    @property
    def full(self) -> bool:
        """Whether so many are outstanding that no more should be issued."""
        self._sweep()
        return len(self._issued) >= TICKETS_AT_MOST

    def _sweep(self) -> None:
        """Forget old ones; the oldest come first."""
        now = trio.current_time()
        for ticket, issued in list(self._issued.items()):
            if issued.until > now:
                return
            del self._issued[ticket]

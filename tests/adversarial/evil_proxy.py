"""A proxy host that is the product's own but for what it does with the bytes, and with whom it joins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from evil_middle import Middle

from protocol.ticket import TICKET_LENGTH, TICKET_MAGIC
from transporter.catalog import Peer
from transporter.link.address import Address
from transporter.link.dial import close_all
from transporter.service.meeting import Meeting
from transporter.service.relay import Relay


class EvilMeeting(Meeting):
    """Joins two connections by way of somebody in the middle."""

    middle: Middle

    async def _join(self, caller: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            with self._counted:
                first = await caller.receive_some(TICKET_LENGTH)
                if first[:1] == TICKET_MAGIC[:1]:
                    # A node that comes because it was called: from here on the other end speaks first.
                    await target.send_all(first)
                    await self.middle.join(target, caller)
                else:
                    await self.middle.join(caller, target, first)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await close_all([caller, target])


@dataclass
class Instead:
    """Whom the proxy host calls instead of who was wanted; None: whoever was wanted."""

    of: Callable[[Peer, Peer | None], Peer | None] = field(default=lambda _caller, wanted: wanted)


class EvilRelay(Relay):
    """Answers as a proxy host does; ``middle`` has the bytes, ``instead`` chooses who is called."""

    def __init__(self, honest: Relay) -> None:
        super().__init__(honest._parked, honest._tickets)
        self.middle = Middle(Address("nowhere", 1))
        self.instead = Instead()

    async def reach(self, link, caller, target, message):  # type: ignore[no-untyped-def]
        await super().reach(link, caller, self.instead.of(caller, target), message)

    def _meeting(self, caller: Peer, target: Peer) -> Meeting:
        honest = super()._meeting(caller, target)
        evil = EvilMeeting(caller.name, target.name, honest._counted, honest._flow)
        evil.middle = self.middle
        return evil

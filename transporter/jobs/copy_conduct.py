"""Conducting a copy between two peers: the data goes straight from the one to the other, and only words come here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from protocol.errors import ProtocolError
from protocol.limits import MAX_MANDATE_POINTS
from protocol.messages import CopiedTo, CopyTo, GetSlots, Message, Progress, Refused, Slots
from transporter.errors import RefusedByPeer
from transporter.jobs.context import JobContext
from transporter.jobs.copy_ends import CopyRow
from transporter.jobs.copy_plan import CopyOrder, Group
from transporter.keys.node_key import NodeKey
from transporter.link.broken import LinkBroken, NoAnswer
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control
from transporter.points.copied import copy_name
from transporter.points.mandate import VALID_SECONDS, VERSION, Mandate, make_mandate

M = TypeVar("M", bound=Message)
# The source says each second how far it is: then it lives, and may be waiting for the target as long as its links do.
SILENT_SECONDS = 60.0


class LimitMoved(Exception):
    """The copy's limit is another one than the source was told: it is asked anew, for what is missing then."""


@dataclass(frozen=True)
class Conductor:
    """One connection to the source. ``moved``: told how many bytes have gone to the target, in this request."""

    context: JobContext
    order: CopyOrder
    link: ControlLink
    moved: Callable[[int], None]

    def limit(self) -> int:
        """Return how fast the copy may go by this node's configuration, 0: as it likes.

        Its own limit alone: those on the node and on its peers are on what passes here, and none of this does.
        """
        return self.context.throttle.rate(("job", self.order.label))

    async def copy(self, group: Group, rows: list[CopyRow]) -> CopiedTo:
        """Have points of a group pushed; all are there when this returns.

        Raises what the source says, LinkBroken, LimitMoved.
        """
        context, order = self.context, self.order
        source, target = context.peer(order.source.peer), context.peer(order.target.peer)
        name = copy_name(source.pin, await self._repository_id(rows[0]), group.domain)
        now = context.clock.now_ns()
        key = NodeKey(context.identity.key)
        mandate = Mandate(
            version=VERSION,
            public=key.public,
            source=source.pin,
            target=target.pin,
            repository=order.target.repository,
            job=group.job,
            name=name,
            made_ns=now,
            ends_ns=now + VALID_SECONDS * 10**9,
            points=[(row.row.point, row.row.point_hash) for row in rows],
        )
        ask = CopyTo(order.source.repository, rows[0].row.job, target.pin, self.limit())
        return await self._ask(ask, make_mandate(key, mandate), CopiedTo)

    async def _repository_id(self, row: CopyRow) -> bytes:
        ask = GetSlots(self.order.source.repository, row.row.job, row.row.point)
        return (await self._ask(ask, b"", Slots)).repository_id

    async def _ask(self, message: Message, payload: bytes, reply: type[M]) -> M:
        await self.link.send(message, payload)
        while True:
            with trio.move_on_after(SILENT_SECONDS) as deadline:
                received = (await self.link.receive()).message
            if deadline.cancelled_caught:
                raise NoAnswer(f"{self.order.source.peer} has gone silent")
            if isinstance(received, Refused):
                raise refusal_to_error(received.code, received.what, received.remedy)
            if isinstance(received, reply):
                return received
            if not isinstance(received, Progress):
                raise RefusedByPeer(
                    "the peer does not push points to others", "update the transporter there: --through"
                )
            self.moved(received.done)
            if isinstance(message, CopyTo) and message.bytes_per_second != self.limit():
                raise LimitMoved


@asynccontextmanager
async def open_conductor(
    context: JobContext, order: CopyOrder, moved: Callable[[int], None]
) -> AsyncIterator[Conductor]:
    """Connect to the source of a copy. Raises what dialling raises, and LinkBroken."""
    try:
        async with dial_control(context.peer(order.source.peer), context.identity) as link:
            yield Conductor(context, order, link, moved)
    except ProtocolError as error:
        raise LinkBroken(str(error)) from error


def batches(rows: list[CopyRow]) -> list[list[CopyRow]]:
    """Divide points into as many as one mandate names."""
    return [rows[at : at + MAX_MANDATE_POINTS] for at in range(0, len(rows), MAX_MANDATE_POINTS)]

"""Every restore point that this home has to do with, place by place, as what opens it: slots, and a key of its ring.

Places are the repositories of this node and those that peers offer it. A visitor gets the points of one job in batches,
and may return changes of slots. Each place is gone through until nothing new turns up, so that a point that was
committed meanwhile is not missed. A place that cannot be reached is noted; the others are gone through all the same,
but for those at the same peer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from pipeline.run import open_tasks
from pipeline.trust_zone import Zone
from protocol.errors import ProtocolError
from protocol.limits import MAX_POINTS_AT_ONCE
from protocol.messages import GetSlots, Message, PutSlots, Refused, Slots, SlotsPut
from transporter.errors import CannotConnect, JobFailed, RefusedByPeer, TransporterError
from transporter.jobs.context import JobContext, own_tenant
from transporter.jobs.points import DAMAGED, Where, list_points
from transporter.jobs.points_here import Batch, PointName, PointsHere, Visit, Visited, by_origin
from transporter.jobs.unreached import Unreached
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control
from transporter.points.copied import is_of_another_tenant
from transporter.points.slot_rows import decode_point_slots, encode_rows
from transporter.repository import Repository

ANSWER_SECONDS = 120.0
# Points of a repository of this node that are visited together: three flushes of the disk for each batch of changes.
LOCAL_BATCH = 1024
# Rounds through one place. The second finds what was committed during the first; more are for a busy one.
ROUNDS_AT_MOST = 10

T = TypeVar("T")
Hand = Callable[[list[PointName]], Awaitable[Visited]]
"""Visits a batch, as `PointsHere.batch`."""


@dataclass(frozen=True)
class PlaceHere:
    """A repository of this node, for those who help; as `PointsHere` has it."""

    path: Path
    name: str
    own: str
    keep: float


Helpers = Callable[[PlaceHere, Hand], AbstractAsyncContextManager[Sequence[Hand]]]
"""Opens further hands for a place, each in a process of its own; what they cannot do goes to the given one."""


__all__ = ["Batch", "Hand", "Helpers", "PlaceHere", "Walk"]


@dataclass
class Walk:
    """What a walk met. ``unreadable``: points whose object is damaged; ``unreached``: places, with the reason.

    ``helpers``: where a repository of this node has many points.
    """

    visit: Visit
    helpers: Helpers | None = None
    points: int = 0
    slots_replaced: int = 0
    slots_added: int = 0
    kept_until_ns: int = 0
    unreadable: list[str] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)
    _done: dict[str, set[bytes]] = field(default_factory=dict, repr=False)
    _unreached: Unreached = field(default_factory=Unreached, repr=False)

    async def everywhere(self, context: JobContext, only: str = "") -> None:
        """Go through every place; again: through what has turned up since. ``only``: that place, as `Batch.place`."""
        self.unreached.clear()
        context = replace(context, unreached=self._unreached)  # one for all times that this walk goes through
        for name in sorted(context.config.repositories):
            if only in ("", name):
                with self._noted(name):
                    await self._here(context, name)
        for where in _places(context):
            if only in ("", str(where)):
                with self._noted(str(where)):
                    await self._there(context, where)

    def check_reached(self) -> None:
        """Raise CannotConnect unless every place was reached: what was not found may be in one of the others."""
        if self.unreached:
            places = "; ".join(f"{place}: {why}" for place, why in self.unreached.items())
            raise CannotConnect(f"not every repository was reached ({places})", "try again when they can be reached")

    @contextmanager
    def _noted(self, place: str) -> Iterator[None]:
        try:
            yield
        except TransporterError as error:
            self.unreached[place] = error.what

    def _took(self, visited: Visited) -> None:
        self.points += visited.points
        self.slots_replaced += visited.replaced
        self.slots_added += visited.added
        self.kept_until_ns = max(self.kept_until_ns, visited.kept_until_ns)
        self.unreadable += [point.hex() for point in visited.unreadable]

    # --- repositories of this node ------------------------------------------------------------------------------

    async def _here(self, context: JobContext, name: str) -> None:
        settings = context.config.repository(name)
        path = context.home.repository_path(name, settings.path)
        place = PlaceHere(path, name, own_tenant(context), float(settings.keep_replaced_slots))
        # For reading only: it goes on beside the daemon that writes.
        store = await trio.to_thread.run_sync(partial(Repository.open, path, context.clock, writable=False))
        with store:
            for _ in range(ROUNDS_AT_MOST):
                new = await trio.to_thread.run_sync(self._new_here, store, name)
                if not new:
                    return
                await self._visit_here(store, place, new)
        raise _never_quiet(name)

    async def _visit_here(self, store: Repository, place: PlaceHere, new: list[PointName]) -> None:
        """Visit points of a repository of this node: whoever is free takes the next batch."""
        here = PointsHere(store, place.name, place.own, place.keep, self.visit)
        batches = _batches(new, LOCAL_BATCH)
        done = self._done_in(place.name)

        async def own(some: list[PointName]) -> Visited:
            return await trio.to_thread.run_sync(here.batch, some)

        async def work(hand: Hand) -> None:
            for some in batches:
                self._took(await hand(some))
                done.update(point for _tenant, _job, point in some)

        async with AsyncExitStack() as stack:
            hands: list[Hand] = [own]
            if self.helpers is not None and len(new) > LOCAL_BATCH:
                hands += await stack.enter_async_context(self.helpers(place, own))
            async with open_tasks() as nursery:
                for hand in hands:
                    nursery.start_soon(work, hand)

    def _new_here(self, store: Repository, name: str) -> list[PointName]:
        """Return the points that were not visited yet: (tenant, job, id)."""
        done = self._done_in(name)
        return [
            (tenant, job, point)
            for tenant in store.tenants()
            for job, point in store.point_ids(tenant)
            if point not in done
        ]

    def _done_in(self, place: str) -> set[bytes]:
        """Return the points that have been visited in a place. Not before they have: what broke off is done again."""
        return self._done.setdefault(place, set())

    # --- repositories at peers ----------------------------------------------------------------------------------

    async def _there(self, context: JobContext, where: Where) -> None:
        done = self._done_in(str(where))
        for _ in range(ROUNDS_AT_MOST):
            rows = [row for row in await list_points(context, where) if row.point not in done]
            if not rows:
                return
            self.unreadable += [row.point.hex() for row in rows if row.kind == DAMAGED]
            # What the target seals is the target's to open.
            ours = [
                (row.job, row.point)
                for row in rows
                if row.kind != DAMAGED and row.zone == Zone.SOURCE and not is_of_another_tenant(row.job)
            ]
            done.update({row.point for row in rows} - {point for _job, point in ours})
            async with _asking(context, where) as link:
                for job, pairs in groupby(sorted(ours), key=lambda pair: pair[0]):
                    for batch in _batches([point for _job, point in pairs], MAX_POINTS_AT_ONCE):
                        await self._batch_there(link, where, job, batch)
                        done.update(batch)
        raise _never_quiet(str(where))

    async def _batch_there(self, link: ControlLink, where: Where, job: str, ids: list[bytes]) -> None:
        answer, payload = await _ask(link, GetSlots(where.repository, job, b"".join(ids)), b"", Slots)
        assert isinstance(answer, Slots)
        asked = set(ids)
        found = {row.point: row for row in decode_point_slots(payload) if row.point in asked}
        visited = Visited(len(found), unreadable=[point for point in ids if point not in found])
        batch = Batch(str(where), answer.tenant, answer.repository_id, job, list(found.values()))
        parts = by_origin(batch)
        rows = [row for part in parts for row in await trio.to_thread.run_sync(self.visit, part)]
        if rows:
            put, _ = await _ask(link, PutSlots(where.repository, job), encode_rows(rows), SlotsPut)
            assert isinstance(put, SlotsPut)
            visited.changed(rows, put.kept_until_ns)
        self._took(visited)


@asynccontextmanager
async def _asking(context: JobContext, where: Where) -> AsyncIterator[ControlLink]:
    try:
        async with dial_control(context.peer(where.peer), context.identity) as link:
            yield link
    except (LinkBroken, trio.TooSlowError) as error:
        reason = "it is silent" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(f"the peer did not answer: {reason}", "check the line and try again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ProtocolError) as error:
        raise RefusedByPeer(
            "the peer's list of points or slots is not valid", "update the transporter there"
        ) from error


async def _ask(link: ControlLink, message: Message, payload: bytes, reply: type[Message]) -> tuple[Message, memoryview]:
    with trio.fail_after(ANSWER_SECONDS):
        await link.send(message, payload)
        received = await link.receive()
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, reply):
        raise RefusedByPeer("the peer answered something else", "update the transporter there")
    return received.message, received.payload


def _places(context: JobContext) -> list[Where]:
    """Return the repositories at peers: those that they offer, and those that jobs go to all the same."""
    offered = {(peer.name, offer) for peer in context.catalog.peers() for offer in peer.offers}
    used = {(job.peer, job.repository) for job in context.config.jobs.values() if Zone(job.encrypt) is Zone.SOURCE}
    return [Where(peer, repository, "") for peer, repository in sorted(offered | used)]


def _never_quiet(place: str) -> JobFailed:
    return JobFailed(f"new restore points came all the time in {place}", "go on when fewer jobs run")


def _batches(ids: list[T], size: int) -> Iterator[list[T]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]

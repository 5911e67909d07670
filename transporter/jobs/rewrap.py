"""The second half of a password's change: its slots, on all points of all repositories that this home can reach.

Any number of changes at once, of any passwords. Each place is gone through until nothing new turns up, so that a point
that was committed meanwhile is not missed. What was done stays done: a run that is killed, or that did not reach every
place, is simply run again. An old hash is forgotten only once every place was reached and no old slot is left there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import trio

from pipeline.trust_zone import Zone
from protocol.limits import MAX_POINTS_AT_ONCE
from protocol.messages import GetSlots, Message, PutSlots, Refused, Slots, SlotsPut
from transporter.errors import CannotConnect, DamagedData, RefusedByPeer, TransporterError
from transporter.jobs.context import JobContext
from transporter.jobs.points import DAMAGED, Where, list_points
from transporter.keys.database import UnfinishedChange
from transporter.link.broken import LinkBroken
from transporter.link.control_link import ControlLink, refusal_to_error
from transporter.link.dial import dial_control
from transporter.points.rewrap import Rewrapping
from transporter.points.slot_rows import PointSlots, SlotChangeRow, decode_point_slots, encode_rows, point_slots
from transporter.repository import Repository, SlotChange

ANSWER_SECONDS = 120.0
# Points of a repository of this node whose slots are replaced together: three flushes of the disk for each batch.
LOCAL_BATCH = 1024
# Rounds through one place. The second finds what was committed during the first; more are for a busy one.
ROUNDS_AT_MOST = 10


@dataclass
class RewrapReport:
    """What was done. ``failed``: points whose old slot nothing opens; ``unreached``: places, with the reason."""

    replaced: int = 0
    points: int = 0
    failed: list[str] = field(default_factory=list)
    unreached: dict[str, str] = field(default_factory=dict)
    kept_until_ns: int = 0

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "slots_replaced": self.replaced,
            "points": self.points,
            "failed": self.failed,
            "unreached": self.unreached,
            "old_slots_kept_until_ns": self.kept_until_ns,
        }


async def rewrap(context: JobContext, name: str = "", *, give_up: bool = False) -> RewrapReport:
    """Replace every slot of the unfinished changes (of the password ``name``, or all), and finish those changes.

    ``give_up``: finish also where points cannot be opened by the old password any more.

    Raises:
        CannotConnect: not every place was reached; what was done is in a Note.
        DamagedData: points are left that nothing here opens.
    """
    changes = context.keys.unfinished_changes(name)
    report = RewrapReport()
    if not changes:
        return report
    rewrapping = Rewrapping(
        {change.old.salt: (change.old, context.keys.user_key(change.name)) for change in changes},
        context.keys.storage_key,
        context.clock,
    )
    for repository in sorted(context.config.repositories):
        with _noted(report, repository):
            await trio.to_thread.run_sync(_rewrap_here, context, repository, rewrapping, report)
    for peer in context.catalog.peers():
        for offer in peer.offers:
            where = Where(peer.name, offer, "")
            with _noted(report, str(where)):
                await _rewrap_there(context, where, rewrapping, report)
    _finish(context, changes, report, give_up=give_up)
    return report


@contextmanager
def _noted(report: RewrapReport, place: str) -> Iterator[None]:
    """Note in the report why a place could not be gone through, and let the others be."""
    try:
        yield
    except TransporterError as error:
        report.unreached[place] = error.what


def _finish(context: JobContext, changes: Iterable[UnfinishedChange], report: RewrapReport, *, give_up: bool) -> None:
    if report.unreached:
        places = "; ".join(f"{place}: {why}" for place, why in report.unreached.items())
        raise CannotConnect(
            f"{report.replaced} slots were replaced, but not every repository was reached ({places}); "
            "there the old password still opens its points",
            "go on when they can be reached: transporter password change NAME --resume",
        )
    if report.failed and not give_up:
        raise DamagedData(
            f"{report.replaced} slots were replaced, but of {len(report.failed)} restore points the old slot is "
            f"damaged ({', '.join(report.failed[:5])}{' …' if len(report.failed) > 5 else ''})",
            "run scrub where they lie; to leave them as they are: transporter password change NAME --resume --give-up",
        )
    for change in changes:
        context.keys.finish_change(change.old.salt, replaced=report.replaced, given_up=len(report.failed))


# --- repositories of this node -----------------------------------------------------------------------------------


def _rewrap_here(context: JobContext, name: str, rewrapping: Rewrapping, report: RewrapReport) -> None:
    settings = context.config.repository(name)
    place = Path(settings.path) if settings.path else context.home.repository_path(name)
    with Repository.open(place, context.clock, writable=False) as store:
        for tenant in store.tenants():
            done: set[bytes] = set()
            for _ in range(ROUNDS_AT_MOST):
                refs = [ref for ref in store.points(tenant) if ref.point_id not in done]
                if not refs:
                    break
                done.update(ref.point_id for ref in refs)
                for job, group in groupby(sorted(refs, key=lambda ref: ref.job), key=lambda ref: ref.job):
                    ids = [ref.point_id for ref in group]
                    for batch in _batches(ids, LOCAL_BATCH):
                        rows = list(_rows_of(store, tenant, job, batch))
                        found = _changes_of(rewrapping, tenant, store.repository_id, rows, report)
                        if found:
                            changes = [SlotChange(r.point, r.slot_id, r.slot, tuple(r.replaces)) for r in found]
                            until = store.replace_slots(tenant, job, changes, float(settings.keep_replaced_slots))
                            _count(report, found, until)


def _rows_of(store: Repository, tenant: str, job: str, points: list[bytes]) -> Iterator[PointSlots]:
    for point in points:
        try:
            yield point_slots(store, tenant, job, point)
        except DamagedData:
            continue  # scrub names it; there is nothing here that a key could be taken out of


# --- repositories at peers ---------------------------------------------------------------------------------------


async def _rewrap_there(context: JobContext, where: Where, rewrapping: Rewrapping, report: RewrapReport) -> None:
    done: set[bytes] = set()
    for _ in range(ROUNDS_AT_MOST):
        rows = await list_points(context, where)
        ours = [
            row
            for row in rows
            if row.point not in done and row.kind != DAMAGED and row.zone == Zone.SOURCE and row.encrypted
        ]
        if not ours:
            return
        done.update(row.point for row in ours)
        async with _asking(context, where) as link:
            for job, group in groupby(sorted(ours, key=lambda row: row.job), key=lambda row: row.job):
                for batch in _batches([row.point for row in group], MAX_POINTS_AT_ONCE):
                    await _rewrap_batch(link, where, job, batch, rewrapping, report)


@asynccontextmanager
async def _asking(context: JobContext, where: Where) -> AsyncIterator[ControlLink]:
    try:
        async with dial_control(context.peer(where.peer), context.identity) as link:
            yield link
    except (LinkBroken, trio.TooSlowError) as error:
        reason = "it is silent" if isinstance(error, trio.TooSlowError) else str(error)
        raise CannotConnect(f"the peer did not answer: {reason}", "check the line and try again") from error
    except msgspec.DecodeError as error:
        raise RefusedByPeer("the peer's list of slots is not valid", "update the transporter there") from error


async def _rewrap_batch(
    link: ControlLink, where: Where, job: str, points: list[bytes], rewrapping: Rewrapping, report: RewrapReport
) -> None:
    answer, payload = await _ask(link, GetSlots(where.repository, job, b"".join(points)), b"", Slots)
    assert isinstance(answer, Slots)
    rows = [row for row in decode_point_slots(payload) if row.point in set(points)]
    found = await trio.to_thread.run_sync(_changes_of, rewrapping, answer.tenant, answer.repository_id, rows, report)
    if found:
        put, _ = await _ask(link, PutSlots(where.repository, job), encode_rows(found), SlotsPut)
        assert isinstance(put, SlotsPut)
        _count(report, found, put.kept_until_ns)


async def _ask(link: ControlLink, message: Message, payload: bytes, reply: type[Message]) -> tuple[Message, memoryview]:
    with trio.fail_after(ANSWER_SECONDS):
        await link.send(message, payload)
        received = await link.receive()
    if isinstance(received.message, Refused):
        raise refusal_to_error(received.message.code, received.message.what, received.message.remedy)
    if not isinstance(received.message, reply):
        raise RefusedByPeer("the peer answered something else", "update the transporter there")
    return received.message, received.payload


# --- both --------------------------------------------------------------------------------------------------------


def _changes_of(
    rewrapping: Rewrapping, tenant: str, repository_id: bytes, rows: Iterable[PointSlots], report: RewrapReport
) -> list[SlotChangeRow]:
    found = []
    for row in rows:
        try:
            change = rewrapping.of_point(tenant, repository_id, row)
        except DamagedData:
            report.failed.append(row.point.hex())
            continue
        report.points += 1
        if change is not None:
            found.append(change)
    return found


def _batches(ids: list[bytes], size: int) -> Iterator[list[bytes]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]


def _count(report: RewrapReport, rows: list[SlotChangeRow], until: int) -> None:
    report.replaced += sum(len(row.replaces) for row in rows)
    report.kept_until_ns = max(report.kept_until_ns, until)


__all__ = ["RewrapReport", "rewrap"]

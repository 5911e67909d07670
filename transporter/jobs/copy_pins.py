"""Pins of copied points: what is pinned where it was copied from is pinned where it was copied to.

Brought by whoever has the point copied, over a connection of its own, also where the data goes straight from peer to
peer: it is a tenant of both. A pin that is there stays as it is, and so does one whose original was taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from protocol.keeping_messages import PinPoint, PointPinned
from protocol.limits import MAX_NAME, MAX_TEXT
from transporter.errors import TransporterError
from transporter.jobs.ask import ask, asking
from transporter.jobs.context import JobContext, own_tenant
from transporter.jobs.copy_ends import CopyRow
from transporter.jobs.copy_plan import CopyOrder
from transporter.jobs.keeping_here import open_here
from transporter.repository import PROVIDER, PointKept, PointMissing
from transporter.repository.limits import REASON_LENGTH

Failures = list[tuple[bytes, TransporterError]]


async def bring_pins(context: JobContext, order: CopyOrder, job: str, rows: Sequence[CopyRow]) -> Failures:
    """Pin points at the target of a copy that are pinned at its source; return those that could not be.

    ``job``: under which they lie at the target. Raises CannotConnect.
    """
    pinned = [row for row in rows if row.row.pinned is not None]
    if not pinned:
        return []
    if order.target.peer:
        return await _there(context, order, job, pinned)
    return await trio.to_thread.run_sync(_here, context, order, job, pinned)


async def _there(context: JobContext, order: CopyOrder, job: str, rows: Sequence[CopyRow]) -> Failures:
    failed: Failures = []
    end = order.target
    async with asking(context, end.peer) as link:
        for row in rows:
            reason, by = _claims(order, row)
            message = PinPoint(end.repository, job, row.row.point, reason, True, by, row.row.pinned_ns)
            try:
                await ask(link, message, b"", PointPinned)
            except (PointKept, PointMissing):
                continue  # somebody else's pin keeps it; or it has gone, and there is nothing to keep
            except TransporterError as error:
                failed.append((row.row.point, error))
    return failed


def _here(context: JobContext, order: CopyOrder, job: str, rows: Sequence[CopyRow]) -> Failures:
    failed: Failures = []
    name, tenant = order.target.repository, own_tenant(context)
    with open_here(context, name) as store:
        for row in rows:
            reason, by = _claims(order, row)
            try:
                store.keeping.bring_pin(tenant, job, row.row.point, reason, PROVIDER, by, row.row.pinned_ns)
            except PointMissing:
                continue
            except TransporterError as error:
                failed.append((row.row.point, error))
    return failed


def _claims(order: CopyOrder, row: CopyRow) -> tuple[str, str]:
    """Return reason and who, as a pin takes them, whatever a source says: rather a poor reason than no pin."""
    said = "".join(letter for letter in row.row.pinned or "" if letter.isprintable())[:REASON_LENGTH]
    reason = _cut(said, MAX_TEXT).strip() or f"pinned at {order.source}"
    return reason, _cut(row.row.pinned_by, MAX_NAME)


def _cut(text: str, most: int) -> str:
    """Cut a text to so many bytes of UTF-8."""
    return text.encode()[:most].decode("utf-8", "ignore")

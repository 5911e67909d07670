"""One restore point of all that this home has to do with, by how its id begins."""

from __future__ import annotations

from dataclasses import dataclass

from transporter.errors import UsageError
from transporter.jobs.context import JobContext
from transporter.jobs.point_walk import Batch, Walk
from transporter.points.slot_rows import PointSlots, SlotChangeRow

SHORTEST = 4
"""Digits of a point's id at least: fewer would fit half of a large repository."""


@dataclass(frozen=True)
class Found:
    """A point with its slots, and where it lies."""

    batch: Batch
    row: PointSlots


async def find_point(context: JobContext, beginning: str, place: str = "") -> Found:
    """Return the point whose id begins so.

    ``place``: the repository where it is looked for, as `points --from` takes it; else everywhere.

    Raises:
        UsageError: there is none, or there are several, or in several places.
        CannotConnect: it was not found, and not every place was reached.
    """
    if len(beginning) < SHORTEST:
        raise UsageError(f"{SHORTEST} digits of a restore point's id at least", "`transporter points` lists them")
    found: list[Found] = []

    def visit(batch: Batch) -> list[SlotChangeRow]:
        if place in ("", batch.place):
            found.extend(Found(batch, row) for row in batch.points if row.point.hex().startswith(beginning))
        return []

    walk = Walk(visit)
    await walk.everywhere(context, only=place)
    if not found:
        walk.check_reached()
    if len({each.row.point for each in found}) != 1:
        many = "several restore points begin" if found else "no restore point begins"
        raise UsageError(f"{many} with {beginning!r}", "`transporter points` lists them")
    if len(found) > 1:
        # Each is wrapped for its own place; and a hostile one may say that it has what others have.
        places = ", ".join(sorted(each.batch.place for each in found))
        raise UsageError(f"the restore point lies in several places ({places})", "say which one: --from PLACE")
    return found[0]

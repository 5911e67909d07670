"""The second half of a password's change: its slots, on all points of all repositories that this home can reach.

Any number of changes at once, of any passwords. What was done stays done: a run that is killed, or that did not reach
every place, is simply run again. An old hash is forgotten only once every place was reached and no old slot is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transporter.errors import CannotConnect, DamagedData
from transporter.jobs.context import JobContext
from transporter.jobs.point_walk import Batch, Walk
from transporter.points.rewrap import Rewrapping
from transporter.points.slot_rows import SlotChangeRow

_SHOWN = 5


@dataclass
class RewrapReport:
    """What was done. ``failed``: points whose old slots hold nothing that opens them; those slots stay."""

    replaced: int = 0
    points: int = 0
    failed: list[str] = field(default_factory=list)
    kept_until_ns: int = 0

    def public(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {
            "slots_replaced": self.replaced,
            "points": self.points,
            "failed": self.failed,
            "old_slots_kept_until_ns": self.kept_until_ns,
        }


async def rewrap(context: JobContext, name: str = "", *, give_up: bool = False) -> RewrapReport:
    """Replace every slot of the unfinished changes (of the password ``name``, or all), and finish those changes.

    ``give_up``: finish also where points cannot be opened by the old password any more.

    Raises:
        CannotConnect: not every place was reached; what was done stays done.
        DamagedData: points are left that nothing here opens.
    """
    changes = context.keys.unfinished_changes(name)
    if not changes:
        return RewrapReport()
    rewrapping = Rewrapping(
        {change.old.salt: (change.old, context.keys.user_key(change.name)) for change in changes},
        context.keys.storage_key,
        context.clock,
    )
    failed: list[str] = []

    def visit(batch: Batch) -> list[SlotChangeRow]:
        found = []
        for point in batch.points:
            try:
                change = rewrapping.of_point(batch.tenant, batch.repository_id, point)
            except DamagedData:
                failed.append(point.point.hex())
                continue
            if change is not None:
                found.append(change)
        return found

    walk = Walk(visit)
    await walk.everywhere(context)
    # A point that cannot even be read may have a slot of the old password, and may be mended one day.
    failed += walk.unreadable
    _check(walk, failed, give_up=give_up)
    for change in changes:
        context.keys.finish_change(change.old.salt, replaced=walk.slots_replaced, given_up=len(failed))
    return RewrapReport(walk.slots_replaced, walk.points, failed, walk.kept_until_ns)


def _check(walk: Walk, failed: list[str], *, give_up: bool) -> None:
    if walk.unreached:
        places = "; ".join(f"{place}: {why}" for place, why in walk.unreached.items())
        raise CannotConnect(
            f"{walk.slots_replaced} slots were replaced, but not every repository was reached ({places}); "
            "there the old password still opens its points",
            "go on when they can be reached: transporter password change NAME --resume",
        )
    if failed and not give_up:
        named = ", ".join(failed[:_SHOWN]) + (" …" if len(failed) > _SHOWN else "")
        raise DamagedData(
            f"{walk.slots_replaced} slots were replaced, but {len(failed)} restore points are damaged ({named})",
            "run scrub where they lie; to leave them as they are: transporter password change NAME --resume --give-up",
        )

"""The second half of a password's change: its slots, on all points of all repositories that this home can reach.

Any number of changes at once, of any passwords. What was done stays done: a run that is killed, or that did not reach
every place, is simply run again. An old hash is forgotten only once every place was reached and no old slot is left.

A job of this home that runs meanwhile may have put its point together with the old password, and commit it after every
place was gone through. So at the end the jobs of these passwords are kept from running, for as long as it takes to go
through what has turned up since. (What the target seals looks after itself: service/committing.py.)
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from transporter.errors import CannotConnect, DamagedData, JobBusy
from transporter.jobs.context import JobContext, hold_jobs
from transporter.jobs.point_walk import Walk
from transporter.jobs.rewrap_helpers import open_helpers
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.jobs.rewrap_messages import Change, Hash
from transporter.jobs.rewrap_worker import visitor
from transporter.keys.database import UnfinishedChange
from transporter.points.rewrap import Rewrapping

_SHOWN = 5


@dataclass
class RewrapReport:
    """What was done. ``failed``: points whose old slots hold nothing that opens them; those slots stay.

    ``unreached``: places that were left out, with the reason, because somebody said so.
    """

    replaced: int = 0
    points: int = 0
    failed: list[str] = field(default_factory=list)
    kept_until_ns: int = 0
    unreached: dict[str, str] = field(default_factory=dict)

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

    ``give_up``: finish also where places were not reached, or points cannot be opened by the old password any more.

    Raises:
        CannotConnect: not every place was reached; what was done stays done, here and below.
        DamagedData: points are left that nothing here opens.
        JobBusy: a job of the password is running, or another change.
    """
    async with rewrap_lock(context.home) as lock:
        changes = await trio.to_thread.run_sync(context.keys.unfinished_changes, name)
        if not changes:
            return RewrapReport()
        rewrapping = await trio.to_thread.run_sync(_rewrapping, context, changes)
        opened_by_nothing: list[bytes] = []
        told = [Change(Hash.of(old), new.name, Hash.of(new.hash)) for old, new in rewrapping.changes.values()]
        helpers = partial(open_helpers, told, lock)
        walk = Walk(visitor(rewrapping, opened_by_nothing), helpers)
        await walk.everywhere(context)
        with ExitStack() as jobs:
            _hold_jobs(context, changes, jobs, walk)
            await walk.everywhere(context)
        # A point that cannot even be read may have a slot of the old password, and may be mended one day.
        failed = list(dict.fromkeys([*(point.hex() for point in opened_by_nothing), *walk.unreadable]))
        if not give_up:
            _check(walk, failed, changes)
        for change in changes:
            await trio.to_thread.run_sync(_finish, context, change, walk, failed)
    return RewrapReport(walk.slots_replaced, walk.points, failed, walk.kept_until_ns, dict(walk.unreached))


def _rewrapping(context: JobContext, changes: list[UnfinishedChange]) -> Rewrapping:
    return Rewrapping(
        {change.old.salt: (change.old, context.keys.user_key(change.name)) for change in changes},
        context.keys.storage_key,
        context.clock,
    )


def _finish(context: JobContext, change: UnfinishedChange, walk: Walk, failed: list[str]) -> None:
    context.keys.finish_change(
        change.old.salt, replaced=walk.slots_replaced, given_up=len(failed), unreached=sorted(walk.unreached)
    )


def _hold_jobs(context: JobContext, changes: list[UnfinishedChange], jobs: ExitStack, walk: Walk) -> None:
    names = {change.name for change in changes}
    try:
        hold_jobs(context, jobs, names)
    except JobBusy as busy:
        raise JobBusy(
            f"{walk.slots_replaced} slots were replaced, but {busy.what}, and may still commit a point under the old "
            "password",
            f"go on when it has ended: {_going_on(changes)}",
        ) from None


def _going_on(changes: list[UnfinishedChange], also: str = "") -> str:
    """Return the command that goes on with the changes: of each password its own."""
    names = dict.fromkeys(change.name for change in changes)
    return "; ".join(f"transporter password change {shlex.quote(name)} --resume{also}" for name in names)


def _check(walk: Walk, failed: list[str], changes: list[UnfinishedChange]) -> None:
    if walk.unreached:
        places = "; ".join(f"{place}: {why}" for place, why in walk.unreached.items())
        raise CannotConnect(
            f"{walk.slots_replaced} slots were replaced, but not every repository was reached ({places}); "
            "there the old password still opens its points",
            f"go on when they can be reached: {_going_on(changes)}; to leave them out for good, add --give-up",
        )
    if failed:
        named = ", ".join(failed[:_SHOWN]) + (" …" if len(failed) > _SHOWN else "")
        raise DamagedData(
            f"{walk.slots_replaced} slots were replaced, but {len(failed)} restore points are damaged ({named})",
            f"run scrub where they lie; to leave them as they are: {_going_on(changes, ' --give-up')}",
        )

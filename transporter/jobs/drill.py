"""The drill: does a live way open every restore point? Tried, not asked; nothing of any point is released."""

from __future__ import annotations

from typing import Any

import trio

from transporter.jobs.context import JobContext
from transporter.jobs.drill_report import DrillReport
from transporter.jobs.point_walk import Batch, Walk
from transporter.keys.slot import SlotInfo
from transporter.points.slot_rows import SlotChangeRow
from transporter.points.ways import KeysAtHand, Way, is_live, lives_here_alone, public_info


async def drill(context: JobContext) -> DrillReport:
    """Try the ways of every sealed point of every repository that this home can reach."""
    at_hand = KeysAtHand.of(context.keys)
    report = DrillReport()

    def visit(batch: Batch) -> list[SlotChangeRow]:
        for row in batch.points:
            if not row.ring_length:
                continue  # nobody sealed it
            report.points += 1
            ways = at_hand.prove(batch.tenant, batch.repository_id, row)
            if is_live(ways) and not lives_here_alone(ways):
                continue
            (report.here_alone if is_live(ways) else report.closed).append(
                {
                    "point": row.point.hex(),
                    "job": batch.job,
                    "repository": batch.place,
                    "ways": [way.public() for way in ways],
                }
            )
        return []

    walk = Walk(visit)
    # Thousands of points may be opened by a service: that is one entry of the audit trail, and a service that failed
    # is not asked for every one of them.
    with context.keys.kms.counted():
        await walk.everywhere(context)
    report.unreadable, report.unreached = walk.unreadable, walk.unreached
    await trio.to_thread.run_sync(_record, context, report)
    return report


def _record(context: JobContext, report: DrillReport) -> None:
    context.keys.record(
        "drill",
        points=report.points,
        closed=len(report.closed) + len(report.here_alone),
        unreached=sorted(report.unreached),
    )


async def explain(context: JobContext, beginning: str) -> list[dict[str, Any]]:
    """Return the ways of each point whose id begins so, by what is written on them; nothing is opened."""
    at_hand = KeysAtHand.of(context.keys)
    found: list[dict[str, Any]] = []

    def visit(batch: Batch) -> list[SlotChangeRow]:
        for row in batch.points:
            if row.point.hex().startswith(beginning):
                ways: list[Way] = at_hand.explain(row)
                found.append(
                    {
                        "point": row.point.hex(),
                        "job": batch.job,
                        "repository": batch.place,
                        "sealed": bool(row.ring_length),
                        "ways": [way.public() for way in ways],
                    }
                )
        return []

    walk = Walk(visit)
    await walk.everywhere(context)
    if not found:
        walk.check_reached()
    return found


async def unknown_salts(context: JobContext) -> list[dict[str, Any]]:
    """Return the passwords that points were made with and that this home does not keep, as their slots say publicly.

    Those of most points first. Raises CannotConnect where no place was reached.
    """
    found: dict[bytes, dict[str, Any]] = {}

    def visit(batch: Batch) -> list[SlotChangeRow]:
        for row in batch.points:
            for _id, slot in row.slots:
                info = public_info(slot)
                if info is not None and not context.keys.knows_salt(info.salt):
                    facts = found.setdefault(info.salt, _facts(info))
                    facts["points"] += 1
        return []

    walk = Walk(visit)
    await walk.everywhere(context)
    if not found:
        walk.check_reached()
    return sorted(found.values(), key=lambda facts: -int(facts["points"]))


def _facts(info: SlotInfo) -> dict[str, Any]:
    price = info.params
    return {
        "salt": info.salt.hex(),
        "verifier": info.verifier.hex(),
        "memory_kib": price.memory_kib,
        "iterations": price.iterations,
        "lanes": price.lanes,
        "points": 0,
    }

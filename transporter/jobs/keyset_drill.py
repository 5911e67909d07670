"""What an escrow needs for a drill of its keysets, written to a file: the slots of every sealed point of this node."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO

import trio

from transporter.errors import JobFailed
from transporter.given_path import check_new_file, unusable
from transporter.jobs.context import JobContext
from transporter.jobs.point_walk import Batch, Walk
from transporter.keys.keyset_drill import DrillPoint, DrillWriter
from transporter.keys.keyset_open import MAX_SLOTS
from transporter.keys.node_key import NodeKey
from transporter.keys.slot import is_keyset_slot
from transporter.points.slot_rows import PointSlots, SlotChangeRow


async def write_drill(context: JobContext, output: Path) -> int:
    """Write the file, whole or not at all; return how many points are in it.

    Raises UsageError where no file can be made there, CannotConnect where not every place was reached, DiskFull,
    JobFailed for a disk's error.
    """
    check_new_file(output)
    partial_name = output.with_name(f".{output.name}.{context.clock.random_bytes(8).hex()}.part")
    try:
        fd = os.open(partial_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(output, error) from error
    try:
        try:
            with open(fd, "wb") as file:
                count = await _write(context, file)
                await trio.to_thread.run_sync(partial(_settle, file))
            os.replace(partial_name, output)
        finally:
            partial_name.unlink(missing_ok=True)
    except OSError as error:
        raise JobFailed(f"cannot write {output}: {error.strerror}", "check the path and the disk") from error
    return count


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _write(context: JobContext, file: BinaryIO) -> int:
    writer = DrillWriter(file)

    def visit(batch: Batch) -> list[SlotChangeRow]:
        for row in batch.points:
            if row.ring_length:
                writer.add(_point(batch, row))
        return []

    walk = Walk(visit)
    await walk.everywhere(context)
    walk.check_reached()
    writer.finish(NodeKey(context.identity.key), context.clock.now_ns())
    return writer.count


def _point(batch: Batch, row: PointSlots) -> DrillPoint:
    slots = [slot for _id, slot in row.slots if is_keyset_slot(slot)][:MAX_SLOTS]
    return DrillPoint(
        batch.place, batch.tenant, batch.repository_id, batch.job, row.point, slots, row.ring_length, row.ring_first
    )

"""Starts the processes that help to change a password (rewrap_worker.py), and hands them their points."""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import msgspec

from transporter.jobs.point_walk import Hand, PlaceHere
from transporter.jobs.points_here import PointName, Visited
from transporter.jobs.rewrap_messages import Answer, Begin, Change, Some
from transporter.jobs.worker_process import WorkerProcess, failure_to_error, open_worker
from transporter.workloads.worker_channel import Failed

MODULE = "transporter.jobs.rewrap_worker"
HELPERS_AT_MOST = 3


@asynccontextmanager
async def open_helpers(
    changes: Sequence[Change], lock: int, place: PlaceHere, own: Hand
) -> AsyncIterator[Sequence[Hand]]:
    """Start one process for each further core. ``lock``: a descriptor that they hold as long as they may change slots.

    ``own``: takes what they cannot decide: this process has more keys than they.
    """
    begin = Begin(str(place.path), place.name, place.own, place.keep, list(changes))
    async with AsyncExitStack() as stack:
        hands = []
        for _ in range(min(len(os.sched_getaffinity(0)) - 1, HELPERS_AT_MOST)):
            opened = open_worker(MODULE, mmap.PAGESIZE, msgspec.msgpack.Decoder(Answer), pass_on=(lock,))
            worker = await stack.enter_async_context(opened)
            await worker.send(begin)
            hands.append(partial(_visit, worker, own))
        yield hands


async def _visit(worker: WorkerProcess[Answer], own: Hand, some: list[PointName]) -> Visited:
    await worker.send(Some(some))
    answer = await worker.receive()
    if isinstance(answer, Failed):
        raise failure_to_error(answer)
    visited = answer.visited()
    if answer.undecided:
        left = set(answer.undecided)
        visited.add(await own([name for name in some if name[2] in left]))
    return visited

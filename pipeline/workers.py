"""The hop into worker threads: own limiters, an order-keeping window, nothing abandoned.

``trio.to_thread.run_sync`` cannot be cancelled half-way; so one call does a small unit of work (about 1 MiB),
cancellation is looked at between units, and no thread is ever left behind (``abandon_on_cancel`` stays off).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from pipeline.channel import ByteChannel

T = TypeVar("T")
R = TypeVar("R")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Lane:
    """A limiter of its own for one kind of work: a shared one could deadlock two stages against each other."""

    def __init__(self, width: int) -> None:
        self._limiter = trio.CapacityLimiter(width)

    async def run(self, function: Callable[..., R], *args: object) -> R:
        """Run ``function(*args)`` in a worker thread of this lane."""
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


class _Slot:
    """Where one item's result will be, in the order in which the items came."""

    __slots__ = ("done", "result")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: object = None


async def ordered_window(
    incoming: ByteChannel[T],
    work: Callable[[T], Awaitable[R]],
    deliver: Callable[[R], Awaitable[None]],
    width: int,
) -> None:
    """Keep up to ``width`` items in work at once and deliver the results in the order of arrival.

    Returns when ``incoming`` has ended and everything is delivered; the first failure cancels the rest.
    """
    # As many places as there is room for: with fewer, handing over a slot would wait for the one before it.
    slots, todo = trio.open_memory_channel[_Slot](width)
    room = trio.CapacityLimiter(width)

    async def one(item: T, slot: _Slot) -> None:
        slot.result = await work(item)
        slot.done.set()

    async def deliver_in_order() -> None:
        async for slot in todo:
            await slot.done.wait()
            await deliver(slot.result)  # type: ignore[arg-type]  # a slot holds what `work` returned
            room.release_on_behalf_of(slot)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver_in_order)
        with slots:
            async for item in incoming:
                slot = _Slot()
                await room.acquire_on_behalf_of(slot)
                nursery.start_soon(one, item, slot)
                await slots.send(slot)

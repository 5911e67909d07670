"""Many threads at work, and what they made taken in the order of what they were given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

import trio

from pipeline.run import open_tasks

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# How far the fastest may be ahead of the slowest, for each thread: what waits is held in memory.
AHEAD = 8


class InOrder(Generic[_In, _Out]):
    """Gives each of ``items`` to ``work``, ``lanes`` at a time, and its result to ``take``, one by one and in order."""

    def __init__(
        self,
        items: Iterator[_In],
        work: Callable[[_In], Awaitable[_Out]],
        take: Callable[[_In, _Out], Awaitable[None]],
    ) -> None:
        self._items = items
        self._work = work
        self._take = take
        self._next = trio.Lock()
        self._taking = trio.Lock()
        self._given = self._taken = 0
        self._done: dict[int, tuple[_In, _Out]] = {}
        self._room = trio.Condition()

    async def run(self, lanes: int) -> None:
        """Return when everything was taken. Raises what ``items``, ``work`` and ``take`` raise."""
        async with open_tasks() as nursery:
            for _ in range(lanes):
                nursery.start_soon(self._lane, lanes * AHEAD)

    async def _lane(self, ahead: int) -> None:
        while True:
            async with self._room:
                while self._given - self._taken >= ahead:
                    await self._room.wait()
            async with self._next:
                # In a thread: the next one may be in a folder that has to be listed.
                item = await trio.to_thread.run_sync(next, self._items, _END)
                if item is _END:
                    return
                number = self._given
                self._given += 1
            self._done[number] = (item, await self._work(item))  # type: ignore[assignment, arg-type]
            await self._take_ready()

    async def _take_ready(self) -> None:
        async with self._taking:
            while self._taken in self._done:
                await self._take(*self._done.pop(self._taken))
                self._taken += 1
        async with self._room:
            self._room.notify_all()


_END = object()

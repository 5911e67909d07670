"""Many blocks are wanted, and each is little work: what waits is read together, in one thread and by one question."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from pipeline.workers import Lane, processors
from transporter.errors import DamagedData

# Chunks that are read together: some milliseconds of work. Few at first, as the first line should not wait for others.
TOGETHER = 8
TOGETHER_LATER = 24


@dataclass(eq=False)
class Wanted:
    """A chunk that somebody waits for, and what is to be done with it. ``found``: ``result`` is there.

    ``settled`` is called once it was read, or tried: a call, as a task for each of many blocks costs more than a block.
    """

    chunk_id: bytes
    work: Callable[[memoryview], object]
    settled: Callable[[Wanted], None]
    found: bool = False
    result: object = None
    error: DamagedData | None = None

    def use(self, plain: memoryview) -> None:
        """Do it, with what was read."""
        self.result = self.work(plain)
        self.found = True


class ReadTogether:
    """``read``: reads what is wanted and uses it, or notes an error in it; runs in threads."""

    def __init__(self, read: Callable[[list[Wanted]], None]) -> None:
        self._read = read
        self._lane = Lane(processors())
        self._waiting: deque[Wanted] = deque()
        self._changed = trio.lowlevel.ParkingLot()

    def attach(self, nursery: trio.Nursery) -> None:
        """Keep the tasks that read in this nursery."""
        for _ in range(processors()):
            nursery.start_soon(self._read_all)

    def begin(self, wanted: Wanted) -> None:
        """Have a chunk read soon."""
        self._waiting.append(wanted)
        self._changed.unpark()

    async def want(self, chunk_id: bytes, work: Callable[[memoryview], object]) -> Wanted:
        """Return once it was read, or tried."""
        done = trio.Event()
        wanted = Wanted(chunk_id, work, lambda _wanted: done.set())
        self.begin(wanted)
        await done.wait()
        return wanted

    async def _read_all(self) -> None:
        together = TOGETHER
        while True:
            while not self._waiting:
                await self._changed.park()
            batch = [self._waiting.popleft() for _ in range(min(together, len(self._waiting)))]
            await self._lane.run(self._read, batch)
            together = TOGETHER_LATER
            for wanted in batch:
                wanted.settled(wanted)


def by_id(batch: list[Wanted]) -> dict[bytes, list[Wanted]]:
    """Return what is wanted of each chunk."""
    found: dict[bytes, list[Wanted]] = {}
    for wanted in batch:
        found.setdefault(wanted.chunk_id, []).append(wanted)
    return found

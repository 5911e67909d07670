"""The events of one job that wait for a slow terminal: none that matters is lost, and memory is bounded."""

from __future__ import annotations

from collections import deque

import trio

from transporter.events import (
    PROGRESS_EVENTS,
    DamageFound,
    Event,
    FileNote,
    FilePlanned,
    FileSkipped,
    LimitInForce,
    Note,
    RangeLost,
)

# Progress is worth nothing behind so many other events: the next one says more. So does the next limit.
PROGRESS_AT_MOST = 64
_REPLACED = (*PROGRESS_EVENTS, LimitInForce)
# Events of which a job may have one for each file or chunk; each takes some 500 bytes here, so 50 MB in all.
MANY_AT_MOST = 100_000
# Events with results, some 100 KiB each.
RESULTS_AT_MOST = 16
_MANY = (FileNote, FilePlanned, FileSkipped, RangeLost, DamageFound)


class WaitingEvents:
    """A queue between a job, which never waits, and whoever sends its events on. For the thread of the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._left_out = 0
        self._closed = False
        self._changed = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()

    async def room(self) -> None:
        """Wait until few enough events wait, for a job whose events are its result."""
        while len(self._waiting) >= RESULTS_AT_MOST:
            await self._taken.park()

    def put(self, event: Event) -> None:
        """Queue an event. Too much progress is dropped; of too many notes on files it is told how many are left out."""
        if isinstance(event, _REPLACED) and len(self._waiting) >= PROGRESS_AT_MOST:
            return
        if isinstance(event, _MANY) and len(self._waiting) >= MANY_AT_MOST:
            self._left_out += 1
            return
        self._tell_left_out()
        self._waiting.append(event)
        self._changed.unpark_all()

    def _tell_left_out(self) -> None:
        if self._left_out:
            text = "lines on single files are left out here: they came faster than they could be shown"
            self._waiting.append(Note(text=f"{self._left_out:,} {text}"))
            self._left_out = 0

    def close(self) -> None:
        """No further events come."""
        self._tell_left_out()
        self._closed = True
        self._changed.unpark_all()

    def __aiter__(self) -> WaitingEvents:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; the end comes when the queue is closed and empty."""
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            await self._changed.park()
        self._taken.unpark_all()
        return self._waiting.popleft()

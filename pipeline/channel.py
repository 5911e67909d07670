"""Channels between stages, bounded in items and in bytes, with statistics."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A moment's view of one channel; ``peak_bytes`` is the most it ever held."""

    name: str
    items: int
    bytes: int
    peak_bytes: int
    passed_items: int
    passed_bytes: int
    waiting_senders: int
    waiting_receivers: int


class ByteChannel(Generic[T]):
    """A queue of items with known sizes, for any number of senders and receivers.

    ``send`` waits while the channel holds ``max_items`` items or more than ``max_bytes`` bytes. One item larger than
    ``max_bytes`` passes alone, so that a bound can slow a pipeline but never stop it.
    """

    def __init__(self, name: str, max_items: int, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._name = name
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._peak = 0
        self._passed_items = 0
        self._passed_bytes = 0
        self._closed = False
        self._senders = trio.lowlevel.ParkingLot()
        self._receivers = trio.lowlevel.ParkingLot()

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._max_items and self._bytes + size <= self._max_bytes

    async def send(self, item: T) -> None:
        """Put ``item`` in, waiting for room. Raises ``trio.ClosedResourceError`` after ``close``."""
        size = self._size_of(item)
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._closed and not self._has_room(size):
            await self._senders.park()
        if self._closed:
            raise trio.ClosedResourceError(f"channel {self._name} is closed")
        self._items.append((item, size))
        self._bytes += size
        self._peak = max(self._peak, self._bytes)
        self._receivers.unpark()

    async def receive(self) -> T:
        """Take the oldest item, waiting for one. Raises ``trio.EndOfChannel`` when closed and empty."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            if self._closed:
                raise trio.EndOfChannel
            await self._receivers.park()
        return self._take()

    def receive_nowait(self) -> T:
        """Take the oldest item. Raises ``trio.WouldBlock`` when there is none."""
        if not self._items:
            raise trio.WouldBlock
        return self._take()

    def _take(self) -> T:
        item, size = self._items.popleft()
        self._bytes -= size
        self._passed_items += 1
        self._passed_bytes += size
        # Every sender looks again: a small item may fit where the first waiter's large one does not,
        # and a wake-up given to a sender that is being cancelled must not be lost.
        self._senders.unpark_all()
        return item

    def close(self) -> None:
        """No more items will come; receivers drain what is there."""
        self._closed = True
        self._senders.unpark_all()
        self._receivers.unpark_all()

    def __aiter__(self) -> AsyncIterator[T]:
        """Iterate until the end of the channel."""
        return self

    async def __anext__(self) -> T:
        """Return the next item."""
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def statistics(self) -> ChannelStatistics:
        """Return what is in the channel now, and what went through it."""
        return ChannelStatistics(
            name=self._name,
            items=len(self._items),
            bytes=self._bytes,
            peak_bytes=self._peak,
            passed_items=self._passed_items,
            passed_bytes=self._passed_bytes,
            waiting_senders=self._senders.statistics().tasks_waiting,
            waiting_receivers=self._receivers.statistics().tasks_waiting,
        )


class ByteBudget:
    """A number of bytes that may be out at a time; ``acquire`` waits until they fit.

    Used where bytes stay in memory after they left a channel (chunks that were sent and not yet acknowledged).
    Who had to wait goes on when ``resume_at`` bytes or fewer are out (by default: as soon as the request fits), so that
    a sender may be made to go in bursts where single steps are dear.
    """

    def __init__(self, name: str, limit: int, resume_at: int | None = None) -> None:
        self._name = name
        self._limit = limit
        self._resume_at = limit if resume_at is None else resume_at
        self._out = 0
        self._peak = 0
        self._waiters = trio.lowlevel.ParkingLot()

    async def acquire(self, size: int) -> None:
        """Take ``size`` bytes out of the budget; one request larger than the budget passes alone."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._out and self._out + size > self._limit:
            await self._waiters.park()
        self._out += size
        self._peak = max(self._peak, self._out)

    def release(self, size: int) -> None:
        """Give ``size`` bytes back."""
        self._out -= size
        if self._out <= self._resume_at:
            self._waiters.unpark_all()

    def statistics(self) -> ChannelStatistics:
        """Return what is out now, as a channel would."""
        return ChannelStatistics(
            self._name, 0, self._out, self._peak, 0, 0, self._waiters.statistics().tasks_waiting, 0
        )

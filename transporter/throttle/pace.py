"""Token buckets that several senders share, in turn and in small slices.

A slice is let through when every bucket that applies to it has paid off its last one, and is taken from all of them at
that moment: so no bucket is charged for what another still holds up, and each keeps to its own rate exactly. In any
second at most rate × (1 + burst + slice) passes: 108 %. There is no least burst: 4 KiB would be half a second of the
lowest limit.

Senders that wait for the same bucket take turns. The more of them wait the smaller is a slice, so that turns come
often. A sender that is held back by a limit of its own saves up meanwhile, so that its turn at the shared one is worth
as much as any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import trio

# What a bucket saves up while nobody takes: it makes up for a loop that wakes late.
BURST_SECONDS = 0.06
# What passes at once, by all that wait together.
SLICE_SECONDS = 0.02
# Down to this a slice is shared among those that wait; smaller ones cost more than they smooth.
SHARED_SLICE = 16 << 10
LARGEST_SLICE = 256 << 10
# What rounding leaves: half a byte is carried on as a debt.
_NEARLY = 0.5


class Bucket:
    """``rate`` bytes a second; 0: as much as anybody likes."""

    __slots__ = ("_at", "_level", "rate", "waiting")

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self.waiting = 0
        self._level = 0.0
        self._at = float("-inf")

    def set_rate(self, rate: float) -> None:
        """Go on at another rate; what was saved, or is owed, counts for no longer than under the new one.

        Whoever waits notices when the slice before is paid off under the old rate: within some 20 ms.
        """
        now = trio.current_time()
        self._fill(now)
        self.rate = rate
        self._level = min(max(self._level, -rate * SLICE_SECONDS), rate * BURST_SECONDS)
        self._at = now

    def _fill(self, now: float) -> None:
        if now > self._at:
            most = self.rate * BURST_SECONDS
            since = now - self._at
            # Before the first use "since" is infinite.
            self._level = most if since > BURST_SECONDS and self._level >= 0 else self._level + since * self.rate
            self._level = min(self._level, most)
            self._at = now

    def ready_at(self, now: float) -> float:
        """Return when the next slice may pass."""
        if not self.rate:
            return now
        self._fill(now)
        return now if self._level > -_NEARLY else now - self._level / self.rate

    def slice(self) -> float:
        """Return how many bytes may pass at once."""
        if not self.rate:
            return LARGEST_SLICE
        whole = self.rate * SLICE_SECONDS
        shared = max(whole / max(self.waiting, 1), min(whole, SHARED_SLICE))
        return min(shared + max(self._level, 0.0), LARGEST_SLICE)

    def draw(self, count: int) -> None:
        """Take ``count`` bytes out (or, negative, put them back)."""
        if self.rate:
            self._level -= count


class _Ticket:
    __slots__ = ("granted", "number", "want", "woken")

    def __init__(self, number: int, want: int) -> None:
        self.number = number
        self.want = want
        self.granted = 0
        self.woken = trio.Event()


class Arbiter:
    """Whose turn it is. All senders whose buckets may have any in common wait at the same one.

    There is no task of its own: one of those who wait keeps the time for all of them.
    """

    def __init__(self) -> None:
        # Those that wait for the same buckets are one queue: only its head is looked at.
        self._queues: dict[Pace, deque[_Ticket]] = {}
        self._count = 0
        self._keeper: _Ticket | None = None
        self._due = float("inf")

    async def take(self, pace: Pace, want: int) -> int:
        """Wait for a turn; return how many bytes may pass now, 1 … ``want``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._count += 1
        ticket = _Ticket(self._count, want)
        self._queues.setdefault(pace, deque()).append(ticket)
        for bucket in pace.buckets:
            bucket.waiting += 1
        try:
            await self._turn(ticket)
        except BaseException:
            for bucket in pace.buckets:
                bucket.draw(-ticket.granted)
            raise
        finally:
            if not ticket.granted:
                self._remove(pace, ticket)
            for bucket in pace.buckets:
                bucket.waiting -= 1
            if self._keeper is ticket:
                self._keeper = None
                self._appoint()
        return ticket.granted

    async def _turn(self, ticket: _Ticket) -> None:
        due = self._hand_out()
        while not ticket.granted:
            ticket.woken = trio.Event()
            if self._keeper is None:
                self._keeper = ticket
            if self._keeper is ticket:
                self._due = due
                with trio.move_on_at(due):
                    await ticket.woken.wait()
            else:
                if due < self._due:
                    self._keeper.woken.set()
                await ticket.woken.wait()
            due = self._hand_out()

    def _hand_out(self) -> float:
        """Let through whoever may, first come first served; return when the next one may."""
        now = trio.current_time()
        while True:
            due = float("inf")
            first: Pace | None = None
            for pace, queue in self._queues.items():
                at = pace.ready_at(now)
                if at > now:
                    due = min(due, at)
                elif first is None or queue[0].number < self._queues[first][0].number:
                    first = pace
            if first is None:
                return due
            ticket = self._queues[first][0]
            ticket.granted = first.draw(ticket.want)
            self._remove(first, ticket)
            ticket.woken.set()

    def _remove(self, pace: Pace, ticket: _Ticket) -> None:
        queue = self._queues[pace]
        queue.remove(ticket)
        if not queue:
            del self._queues[pace]

    def _appoint(self) -> None:
        """Wake somebody who keeps the time from now on."""
        first = next((queue[0] for queue in self._queues.values()), None)
        if first is not None:
            first.woken.set()


class Pace:
    """The buckets that one sender takes from. A fast path looks at ``limited`` and at nothing else."""

    __slots__ = ("_arbiter", "buckets", "limited")

    def __init__(self, arbiter: Arbiter, buckets: Iterable[Bucket] = ()) -> None:
        self._arbiter = arbiter
        self.buckets = tuple(buckets)
        self.limited = False
        self.look()

    def look(self) -> None:
        """Note whether any bucket has a rate."""
        self.limited = any(bucket.rate for bucket in self.buckets)

    def ready_at(self, now: float) -> float:
        """Return when the next slice may pass."""
        at = now
        for bucket in self.buckets:
            at = max(at, bucket.ready_at(now))
        return at

    def draw(self, want: int) -> int:
        """Take a slice of at most ``want`` bytes out of every bucket."""
        size: float = min(want, LARGEST_SLICE)
        for bucket in self.buckets:
            size = min(size, bucket.slice())
        count = max(int(size), 1)
        for bucket in self.buckets:
            bucket.draw(count)
        return count

    async def take(self, want: int) -> int:
        """Wait for a turn; return how many bytes may pass now, 1 … ``want``."""
        return await self._arbiter.take(self, want)

    async def pay(self, count: int) -> None:
        """Wait until ``count`` bytes may have passed."""
        while count > 0:
            count -= await self.take(count)

    async def send(
        self, send_all: Callable[[memoryview], Awaitable[None]], data: bytes | bytearray | memoryview
    ) -> None:
        """Send all of ``data`` with ``send_all``, slice by slice."""
        view = memoryview(data)
        while view:
            count = await self.take(len(view))
            await send_all(view[:count])
            view = view[count:]

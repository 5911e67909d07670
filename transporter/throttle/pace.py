"""Token buckets that several senders share, in turn and in small slices.

A slice is let through when every bucket that applies to it has paid off its last one, and is taken from all of them at
that moment: so no bucket is charged for what another still holds up, and each keeps to its own rate exactly. In any
second at most rate × (1 + burst + slice) passes: 106 %. There is no least burst: 4 KiB would be half a second of the
lowest limit.

Senders that wait for the same bucket take turns. The more of them wait the smaller is a slice, so that everybody's turn
comes within about 20 ms, and a sender that a bucket of its own holds to small slices still gets its share of the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

# What a bucket saves up while nobody takes: it makes up for a loop that wakes late.
BURST_SECONDS = 0.04
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
        """Go on at another rate; what was saved, or is owed, counts for no longer than under the new one."""
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
        return min(max(whole / max(self.waiting, 1), min(whole, SHARED_SLICE)), LARGEST_SLICE)

    def draw(self, count: int) -> None:
        """Take ``count`` bytes out (or, negative, put them back)."""
        if self.rate:
            self._level -= count


class _Ticket:
    __slots__ = ("buckets", "granted", "want", "woken")

    def __init__(self, buckets: tuple[Bucket, ...], want: int) -> None:
        self.buckets = buckets
        self.want = want
        self.granted = 0
        self.woken = trio.Event()


class Arbiter:
    """Whose turn it is. All senders whose buckets may have any in common wait at the same one.

    There is no task of its own: one of those who wait keeps the time for all of them.
    """

    def __init__(self) -> None:
        self._waiting: dict[_Ticket, None] = {}
        self._keeper: _Ticket | None = None
        self._due = float("inf")

    async def take(self, buckets: tuple[Bucket, ...], want: int) -> int:
        """Wait for a turn; return how many bytes may pass now, 1 … ``want``."""
        ticket = _Ticket(buckets, want)
        self._waiting[ticket] = None
        for bucket in buckets:
            bucket.waiting += 1
        try:
            await self._turn(ticket)
        except BaseException:
            for bucket in buckets:
                bucket.draw(-ticket.granted)
            raise
        finally:
            self._waiting.pop(ticket, None)
            for bucket in buckets:
                bucket.waiting -= 1
            if self._keeper is ticket:
                self._keeper = None
                self.disturb()
        return ticket.granted

    async def _turn(self, ticket: _Ticket) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            due = self._hand_out()
            if ticket.granted:
                return
            if self._keeper is None:
                self._keeper = ticket
            ticket.woken = trio.Event()
            if self._keeper is not ticket:
                if due < self._due:
                    self._keeper.woken.set()
                await ticket.woken.wait()
            else:
                self._due = due
                with trio.move_on_at(due):
                    await ticket.woken.wait()
            if ticket.granted:
                return

    def _hand_out(self) -> float:
        """Let through whoever may, first come first served; return when the next one may."""
        now = trio.current_time()
        due = float("inf")
        for ticket in list(self._waiting):
            at = max((bucket.ready_at(now) for bucket in ticket.buckets), default=now)
            if at > now:
                due = min(due, at)
                continue
            size = min((bucket.slice() for bucket in ticket.buckets), default=LARGEST_SLICE)
            ticket.granted = min(ticket.want, max(int(size), 1))
            for bucket in ticket.buckets:
                bucket.draw(ticket.granted)
            del self._waiting[ticket]
            ticket.woken.set()
        return due

    def disturb(self) -> None:
        """Look again: a rate has changed, or nobody keeps the time any more."""
        first = self._keeper or next(iter(self._waiting), None)
        if first is not None:
            first.woken.set()


class Pace:
    """The buckets that one sender takes from. A fast path looks at ``limited`` and at nothing else."""

    __slots__ = ("_arbiter", "_buckets", "limited")

    def __init__(self, arbiter: Arbiter, buckets: Iterable[Bucket] = ()) -> None:
        self._arbiter = arbiter
        self._buckets = tuple(buckets)
        self.limited = False
        self.look()

    def look(self) -> None:
        """Note whether any bucket has a rate."""
        self.limited = any(bucket.rate for bucket in self._buckets)

    async def take(self, want: int) -> int:
        """Wait for a turn; return how many bytes may pass now, 1 … ``want``."""
        return await self._arbiter.take(self._buckets, want)

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

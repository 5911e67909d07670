"""One direction of an emulated line: pure arithmetic over packets and a clock that the caller reads.

What a packet meets, in this order: a hole that swallows large packets, a line that is down, a queue with a bound in
bytes (drop-tail), the bottleneck that sends one packet after the other, random loss behind it (a lost packet has taken
its time of the bottleneck), and a constant delay. Constant delay keeps the order, so one FIFO is all that is needed.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """How one direction behaves. Sizes are of IP packets."""

    rate_bit: float  # bit/s of the bottleneck
    delay: float  # seconds, one way
    queue_bytes: int  # that may wait before the bottleneck, the packet that is being sent included
    loss: float = 0.0  # probability of each packet
    seed: int = 1
    largest: int | None = None  # larger packets vanish without a word: an MTU black hole
    down: float = 0.0  # seconds that the line is down at the end of each `every`
    every: float = 0.0  # 0: never down

    def __post_init__(self) -> None:
        """Refuse what no line can be."""
        if not (self.rate_bit > 0 and self.delay >= 0 and self.queue_bytes > 0 and 0 <= self.loss <= 1):
            raise ValueError(f"no line is like this: {self}")
        if self.every and not 0 <= self.down <= self.every:
            raise ValueError("a line cannot be down for longer than its period")


@dataclasses.dataclass(slots=True)
class Counters:
    """What happened to the packets so far."""

    packets: int = 0
    bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    lost: int = 0
    overflowed: int = 0
    too_large: int = 0
    while_down: int = 0
    longest_wait: float = 0.0  # seconds before and in the bottleneck
    peak_second: int = 0  # bytes, the most that one second of the clock delivered


class Pipe:
    """Takes packets with `offer`, gives them back with `due` when their time has come."""

    def __init__(self, way: Way, start: float) -> None:
        """Begin at the time `start` (seconds of the caller's monotonic clock)."""
        self.counters = Counters()
        self._start = start
        self._random = random.Random(way.seed).random
        self._free_at = start  # when the bottleneck has sent everything that waits
        self._fifo: deque[tuple[float, bytes, int, int]] = deque()
        self._second = int(start)
        self._in_second = 0
        self.change(way)

    def change(self, way: Way) -> None:
        """Behave differently from now on. Packets under way keep their times, and nobody overtakes them in the FIFO."""
        self.way = way
        self._byte_seconds = 8 / way.rate_bit
        self._longest_wait = way.queue_bytes * self._byte_seconds

    def offer(self, now: float, packet: bytes) -> bool:
        """Take a packet that arrives; False when it is dropped."""
        due = self.admit(now, len(packet))
        if due is not None:
            self.put(due, packet, 1, len(packet))
        return due is not None

    def put(self, due: float, data: bytes, packets: int, size: int) -> None:
        """Have `data` come out at `due`, the time that `admit` gave to the last of its packets; `size` in all."""
        self._fifo.append((due, data, packets, size))

    def admit(self, now: float, size: int) -> float | None:
        """Return when a packet that arrives comes out; None when it is dropped (the bottleneck may have sent it)."""
        way, counters = self.way, self.counters
        counters.packets += 1
        counters.bytes += size
        if way.largest is not None and size > way.largest:
            counters.too_large += 1
            return None
        if way.every and (now - self._start) % way.every >= way.every - way.down:
            counters.while_down += 1
            return None
        begins = self._free_at if self._free_at > now else now
        ends = begins + size * self._byte_seconds
        if ends - now > self._longest_wait:
            counters.overflowed += 1
            return None
        self._free_at = ends
        counters.longest_wait = max(counters.longest_wait, ends - now)
        if way.loss and self._random() < way.loss:
            counters.lost += 1
            return None
        return ends + way.delay

    @property
    def next_due(self) -> float | None:
        """When the next packet comes out; None while there is none."""
        return self._fifo[0][0] if self._fifo else None

    def due(self, now: float) -> list[bytes]:
        """Return the packets that have come out by now, in their order."""
        fifo = self._fifo
        if not fifo or fifo[0][0] > now:
            return []
        counters = self.counters
        packets, size = [], 0
        while fifo and fifo[0][0] <= now:
            _, data, number, length = fifo.popleft()
            packets.append(data)
            counters.delivered += number
            size += length
        counters.delivered_bytes += size
        if int(now) != self._second:
            self._second, self._in_second = int(now), 0
        self._in_second += size
        counters.peak_second = max(counters.peak_second, self._in_second)
        return packets

    def restart_counters(self) -> Counters:
        """Return what was counted, and begin anew."""
        counted, self.counters = self.counters, Counters()
        self._in_second = 0
        return counted

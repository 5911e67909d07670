"""A backup in small steps of time: packing threads, a queue, a line. For the controller, without any waiting.

Packing and everything else share the processors; the queue is bounded in bytes that are not yet acknowledged, as in
transporter/link/resilient.py. Which rung the groups get is asked for one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.controller import Look
from pipeline.rungs import LADDER

GROUP = 3_000_000
BUDGET = 16 << 20
CHUNKS = 3
MBIT = 125_000.0


@dataclass
class Machine:
    """What the machine, the data and the line really are. ``line``: bytes/s at a time; ``packed``: exponent as there.

    ``overhead``: seconds of a processor for each plain byte beside packing. ``reading``: plain bytes/s at the most.
    """

    line: Callable[[float], float]
    processors: int = 2
    speed: float = 1.0
    exponent: Callable[[int], float] = lambda _group: 1.0
    overhead: float = 4e-9
    reading: float = 1e9
    round_trip: float = 0.05
    sockets: int = 1 << 20
    outside: float = 0.0

    def group(self, rung: int, number: int) -> tuple[int, float]:
        """Return (packed bytes, seconds of a processor) of a group."""
        return int(GROUP * LADDER[rung].packed ** self.exponent(number)), GROUP / (LADDER[rung].speed * self.speed)


@dataclass
class _Work:
    number: int
    rung: int
    packed: int
    packing: float
    left: float
    began: float
    done: bool = False


@dataclass
class Simulation:
    """One backup of ``groups`` groups; ``choose`` gives the rung, ``learn`` hears what became of a group."""

    machine: Machine
    groups: int
    choose: Callable[[Look], int]
    learn: Callable[[int, int, int, float, float], None] = lambda *_: None
    rungs: list[int] = field(default_factory=list)
    now: float = 0.0

    def run(self) -> float:
        """Return how many seconds the backup takes."""
        machine = self.machine
        work: deque[_Work] = deque()
        waiting: deque[int] = deque()  # chunks that were put and have not left the queue
        on_line: deque[int] = deque()
        coming: deque[tuple[float, int]] = deque()  # acknowledgements under way
        out = put = sent_of_first = 0
        read = started = 0.0
        waited, others = False, 0.0
        ready: deque[int] = deque()  # chunks that wait to be put, in order
        while True:
            step = 0.002
            self.now += step
            read = min(read + machine.reading * step, (started + 2) * GROUP)
            # new groups
            while (
                len(work) < machine.processors
                and started < self.groups
                and read >= (started + 1) * GROUP
                and len(ready) <= CHUNKS
            ):
                queued = sum(waiting)
                look = Look(self.now, put - queued, queued, waited or bool(ready), others)
                waited, others = False, 0.0
                rung = self.choose(look)
                self.rungs.append(rung)
                packed, seconds = machine.group(rung, int(started))
                left = seconds + GROUP * machine.overhead
                work.append(_Work(int(started), rung, packed, seconds, left, self.now))
                started += 1
            # processors are shared by whatever is at work
            busy = sum(not item.done for item in work)
            share = min(1.0, machine.processors / (busy + machine.outside)) if busy else 0.0
            others += min(machine.outside, max(machine.processors - busy * share, 0.0)) * step
            for item in work:
                if not item.done:
                    item.left -= step * share
                    others += step * share * (1 - item.packing / (item.packing + GROUP * machine.overhead))
                    if item.left <= 0:
                        item.done = True
                        self.learn(item.rung, GROUP, item.packed, item.packing, self.now - item.began)
            while work and work[0].done and not ready:
                item = work.popleft()
                ready.extend([max(item.packed // CHUNKS, 1)] * CHUNKS)
            while ready and (out == 0 or out + ready[0] <= BUDGET):
                size = ready.popleft()
                out += size
                put += size
                waiting.append(size)
            waited = waited or bool(ready)
            # the line
            while waiting and sum(on_line) - sent_of_first < machine.sockets:
                on_line.append(waiting.popleft())
            capacity = machine.line(self.now) * step
            while on_line and capacity > 0:
                moved = min(capacity, on_line[0] - sent_of_first)
                sent_of_first += moved
                capacity -= moved
                if sent_of_first >= on_line[0]:
                    coming.append((self.now + machine.round_trip, on_line.popleft()))
                    sent_of_first = 0
            while coming and coming[0][0] <= self.now:
                out -= coming.popleft()[1]
            if started == self.groups and not (work or ready or waiting or on_line or coming):
                return self.now

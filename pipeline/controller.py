"""Which rung of the ladder for the next group: lz4 while processors are scarce, zstd while the line is.

No threads, no clock, no I/O: it is told what was packed and what the queue to the line looks like, and answers with a
rung. It computes; it does not climb step by step. For each rung the plain bytes a second are the lesser of

    what the processors can do: all of them / (seconds to pack a byte + seconds that anything else takes for it)
    what the line can do:       goodput / (packed / plain)

and the rung with the most wins. The goodput is known only while the line is the bottleneck: then it is what leaves the
queue. While it is not, it is taken for larger from group to group, which ends at lz4.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.rungs import LADDER, Model, Rung

# Packed bytes that wait when the line is the bottleneck: more than two packing groups ever come to.
PRESSED: Final = 3 << 20
# Plain bytes of an ordinary group.
_GROUP: Final = 3 << 20
# The goodput is taken over this time and so many bytes, or the longest time.
_WINDOW_SECONDS: Final = 1.0
_WINDOW_BYTES: Final = 1 << 20
_LONGEST_WINDOW: Final = 10.0
# Plain bytes over which the work of others is counted: the kernel counts it in steps of 10 ms.
_OVERHEAD_BYTES: Final = 16 << 20
# Less says nothing: buffers of sockets fill in a moment.
_LEAST_SPAN: Final = 0.05
# Until that time is over: a rung for each time that PRESSED is waiting, up to this one. Costs a fast line milliseconds,
# and saves a slow one up to 40 % of what is queued meanwhile.
_FIRST_GUESS: Final = 3
# An idle line can do more than is known: so much more, but not more often than this.
_GROWTH: Final = 1.5
_GROWTH_SECONDS: Final = 0.05
# To change a rung must promise this much more; to leave lz4, more than noise on a machine that both ends share.
_HYSTERESIS: Final = 1.05
_LEAVE_FASTEST: Final = 1.15
# Rungs so close to the best are as good.
_AS_GOOD: Final = 0.98
# Processors are shared out fairly: whatever else runs, this share of them is had, unless packing was seen to get less.
_FAIR_SHARE: Final = 0.25
_NEW: Final = 0.2


@dataclass(frozen=True, slots=True)
class Look:
    """The way to the line at a moment.

    ``handed_over``: packed bytes that left the queue since the beginning (may fall: what a broken session had comes
    back). ``queued``: those in it. ``waited``: whether anybody had to wait for room since the last look. ``others``:
    seconds of processors since the last look that went into anything but packing; None where that is not known.
    """

    now: float
    handed_over: int
    queued: int
    waited: bool
    others: float | None = None


class Controller:
    """Chooses. ``processors``: how many may pack at a time."""

    def __init__(self, processors: int, ladder: Sequence[Rung] = LADDER) -> None:
        self._processors = processors
        self._model = Model(ladder)
        self._rungs = range(len(ladder))
        self._moments: deque[tuple[float, int]] = deque()
        self._goodput = math.inf
        # The rungs of the groups that are being packed.
        self._at_work: list[int] = []
        self._grown_at = -math.inf
        # Seconds that anything but packing takes for a plain byte.
        self._overhead = 0.0
        # How much longer packing takes than it would alone.
        self._stretch = 1.0
        self._plain = 0
        self._others = 0.0
        self.rung = 0

    @property
    def goodput(self) -> float:
        """Packed bytes a second that the line is taken for; infinite while it never was the bottleneck."""
        return self._goodput

    def packed(self, rung: int, plain: int, packed: int, cpu_seconds: float, seconds: float) -> None:
        """Take in what became of a group, once for each that was chosen for.

        ``cpu_seconds`` of one processor within ``seconds``: less where it had to be shared.
        """
        if cpu_seconds > 0:
            self._stretch += _NEW * (max(seconds / cpu_seconds, 1.0) - self._stretch)
        if rung in self._at_work:
            self._at_work.remove(rung)
        self._model.learn(rung, plain, packed, cpu_seconds)
        self._plain += plain

    def choose(self, look: Look) -> int:
        """Return the rung for the next group."""
        self._note_overhead(look)
        waiting = look.queued + (self._expected_soon() if math.isinf(self._goodput) else 0)
        pressed = look.waited or waiting >= PRESSED
        measured = self._measure(look, pressed=pressed)
        if not pressed:
            self._grow(look.now)
        elif measured is not None:
            # Never none at all, as between two sessions: then every rung would be as good as lz4.
            self._goodput = max(measured, 1.0)
        elif math.isinf(self._goodput):
            self.rung = min(max(waiting // PRESSED, 1), _FIRST_GUESS, self._rungs[-1])
            return self._begun()
        self.rung = self._best()
        return self._begun()

    def _begun(self) -> int:
        self._at_work.append(self.rung)
        return self.rung

    def _expected_soon(self) -> int:
        """Return the packed bytes that the groups at work will come to: with many processors they fill the queue."""
        return int(sum(_GROUP * self._model.expect(rung)[1] for rung in self._at_work))

    # --- the line -------------------------------------------------------------------------------------------------

    def _measure(self, look: Look, *, pressed: bool) -> float | None:
        moments = self._moments
        if moments and look.handed_over < moments[-1][1]:
            moments.clear()
        idle = not pressed and look.queued == 0
        if idle:
            # What was slow then was not the line.
            moments.clear()
        moments.append((look.now, look.handed_over))
        while len(moments) > 2 and self._enough(moments[1], moments[-1]):
            moments.popleft()
        span, moved = moments[-1][0] - moments[0][0], moments[-1][1] - moments[0][1]
        return moved / span if span >= _LEAST_SPAN else None

    @staticmethod
    def _enough(first: tuple[float, int], last: tuple[float, int]) -> bool:
        span, moved = last[0] - first[0], last[1] - first[1]
        return span >= _LONGEST_WINDOW or (span >= _WINDOW_SECONDS and moved >= _WINDOW_BYTES)

    def _grow(self, now: float) -> None:
        if now - self._grown_at >= _GROWTH_SECONDS:
            self._goodput *= _GROWTH
            self._grown_at = now

    # --- the processors -------------------------------------------------------------------------------------------

    def _note_overhead(self, look: Look) -> None:
        if look.others is None:
            return
        self._others += look.others
        if self._plain < _OVERHEAD_BYTES:
            return
        fresh = max(self._others, 0.0) / self._plain
        self._overhead += (0.5 if self._overhead else 1.0) * (fresh - self._overhead)
        self._plain, self._others = 0, 0.0

    def _capacity(self, speed: float) -> float:
        shared = self._processors / (1 / speed + self._overhead)
        return max(shared, min(_FAIR_SHARE, 1 / self._stretch) * self._processors * speed)

    # --- both -----------------------------------------------------------------------------------------------------

    def _best(self) -> int:
        promised = []
        for rung in self._rungs:
            speed, packed = self._model.expect(rung)
            promised.append(min(self._capacity(speed), self._goodput / packed))
        most = max(promised)
        # The lowest of those that are as good as the best: it leaves the most of the processors to others.
        best = next(rung for rung in self._rungs if promised[rung] >= most * _AS_GOOD)
        needed = _LEAVE_FASTEST if self.rung == 0 else _HYSTERESIS
        if best > self.rung and promised[best] < promised[self.rung] * needed:
            return self.rung
        return best

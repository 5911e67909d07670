"""The ladder of compression: its rungs, and what each of them is likely to do with the data of this run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Rung:
    """A codec and its level (0: lz4). What it did on a source tree: bytes/s on one processor, packed / plain."""

    name: str
    level: int
    speed: float
    packed: float


# Measured on the kernel's source tree in its chunks (docs/design.md). Only the relations between the rungs count: the
# first groups of a run tell how fast this machine is and how well this data packs. Level 9 is not among them: it makes
# chunks smaller by 3 % and takes 12 MiB of tables in each thread.
LADDER: Final = (
    Rung("lz4", 0, 342e6, 0.346),
    Rung("zstd 1", 1, 198e6, 0.236),
    Rung("zstd 3", 3, 121e6, 0.212),
    Rung("zstd 6", 6, 49e6, 0.190),
)

# How much the newest group counts for all rungs, and for the difference of its own.
_NEW: Final = 0.3
_NEW_OWN: Final = 0.1
# A difference between rungs shows where both were used among so many groups; else it is the data that changed.
_BESIDE: Final = 8


@dataclass(slots=True)
class _Estimate:
    """A number that all rungs share, because it is of the data and the machine, and what each differs by."""

    shared: float | None = None
    own: dict[int, float] = field(default_factory=dict)
    last: deque[int] = field(default_factory=lambda: deque(maxlen=_BESIDE))

    def learn(self, rung: int, value: float) -> None:
        own = self.own.setdefault(rung, 0.0)
        beside = any(other != rung for other in self.last)
        self.last.append(rung)
        if self.shared is None:
            self.shared = value
            return
        self.shared += _NEW * (value - own - self.shared)
        if beside:
            self.own[rung] += _NEW_OWN * (value - self.shared - own)

    def of(self, rung: int, unknown: float) -> float:
        return unknown if self.shared is None else self.shared + self.own.get(rung, 0.0)


@dataclass(slots=True)
class Model:
    """What to expect of each rung, learnt from the groups that were packed.

    Speed as the logarithm of a factor of the ladder's. What packing makes of the data as an exponent of the ladder's,
    not as a factor: 0 means that nothing shrinks, and then no other rung is expected to shrink it either.
    """

    ladder: Sequence[Rung] = LADDER
    _speed: _Estimate = field(default_factory=_Estimate)
    _exponent: _Estimate = field(default_factory=_Estimate)

    def learn(self, rung: int, plain: int, packed: int, cpu_seconds: float) -> None:
        """Take in a group of ``plain`` bytes that became ``packed`` ones in ``cpu_seconds`` of one processor."""
        if plain <= 0 or packed <= 0 or cpu_seconds <= 0:
            return
        one = self.ladder[rung]
        self._speed.learn(rung, math.log(plain / cpu_seconds / one.speed))
        self._exponent.learn(rung, max(math.log(packed / plain) / math.log(one.packed), 0.0))

    def expect(self, rung: int) -> tuple[float, float]:
        """Return (bytes/s of plain data on one processor, packed / plain) for ``rung``."""
        one = self.ladder[rung]
        exponent = max(self._exponent.of(rung, 1.0), 0.0)
        return one.speed * math.exp(self._speed.of(rung, 0.0)), one.packed**exponent

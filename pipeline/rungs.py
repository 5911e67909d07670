"""The ladder of compression: its rungs, and what each of them is likely to do with the data of this run."""

from __future__ import annotations

import math
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
# first groups of a run tell how fast this machine is and how well this data packs.
LADDER: Final = (
    Rung("lz4", 0, 500e6, 0.380),
    Rung("zstd 1", 1, 330e6, 0.290),
    Rung("zstd 3", 3, 220e6, 0.265),
    Rung("zstd 6", 6, 90e6, 0.240),
    Rung("zstd 9", 9, 55e6, 0.232),
    Rung("zstd 12", 12, 25e6, 0.228),
)

# How much the newest group counts.
_NEW: Final = 0.3
# Groups after which the memory of a rung that was not used again is no better than its neighbour's.
_FRESH: Final = 60


@dataclass(slots=True)
class _Seen:
    """What a rung did lately: its speed against the ladder's, and how well data packs as an exponent of the ladder's.

    An exponent, not a factor: 0 means that nothing shrinks, and then no other rung is expected to shrink it either.
    """

    speed: float
    exponent: float
    group: int


@dataclass(slots=True)
class Model:
    """What to expect of each rung, learnt from the groups that were packed."""

    ladder: Sequence[Rung] = LADDER
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _groups: int = 0

    def learn(self, rung: int, plain: int, packed: int, cpu_seconds: float) -> None:
        """Take in a group of ``plain`` bytes that became ``packed`` ones in ``cpu_seconds`` of one processor."""
        if plain <= 0 or packed <= 0 or cpu_seconds <= 0:
            return
        self._groups += 1
        one = self.ladder[rung]
        speed = plain / cpu_seconds / one.speed
        exponent = max(math.log(packed / plain) / math.log(one.packed), 0.0)
        old = self._seen.get(rung)
        if old is None or self._groups - old.group > _FRESH:
            self._seen[rung] = _Seen(speed, exponent, self._groups)
            return
        old.speed += _NEW * (speed - old.speed)
        old.exponent += _NEW * (exponent - old.exponent)
        old.group = self._groups

    def expect(self, rung: int) -> tuple[float, float]:
        """Return (bytes/s of plain data on one processor, packed / plain) for ``rung``."""
        one, seen = self.ladder[rung], self._nearest(rung)
        if seen is None:
            return one.speed, one.packed
        return one.speed * seen.speed, one.packed**seen.exponent

    def _nearest(self, rung: int) -> _Seen | None:
        fresh = {number: seen for number, seen in self._seen.items() if self._groups - seen.group <= _FRESH}
        if not fresh:
            return None
        return fresh[min(fresh, key=lambda number: abs(number - rung))]

"""What passed when, and whether that was smooth."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio


@dataclass
class Recorded:
    """A series of (seconds, bytes)."""

    series: list[tuple[float, int]] = field(default_factory=list)

    def note(self, count: int) -> None:
        """Note that so many bytes pass now."""
        self.series.append((trio.current_time(), count))

    def total(self, start: float = float("-inf"), end: float = float("inf")) -> int:
        """Bytes from ``start`` until before ``end``."""
        return sum(count for at, count in self.series if start <= at < end)

    def busiest_second(self, start: float = float("-inf"), end: float = float("inf")) -> int:
        """The most bytes in any second that lies within ``start`` … ``end``."""
        inside = [(at, count) for at, count in self.series if start <= at < end]
        most = moving = first = 0
        for at, count in inside:
            moving += count
            while inside[first][0] <= at - 1.0:
                moving -= inside[first][1]
                first += 1
            most = max(most, moving)
        return most

    def is_smooth(self, rate: float, seconds: float = 10.0, start: float = 0.0) -> None:
        """Fail unless no second holds more than 110 % of ``rate``, and 95 % of it were used."""
        end = start + seconds
        busiest, used = self.busiest_second(start, end) / rate, self.total(start, end) / rate / seconds
        assert busiest <= 1.1, f"{busiest:.1%} in one second"
        assert used >= 0.95, f"{used:.1%} used"


def together(*parts: Recorded) -> Recorded:
    """Several series as one."""
    return Recorded(sorted(each for part in parts for each in part.series))

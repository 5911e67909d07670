"""Time and randomness, in one place, so that tests can drive both."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Protocol


class Clock(Protocol):
    """What the rest of the transporter may know of time and chance."""

    def now_ns(self) -> int:
        """Return wall-clock time: nanoseconds since 1970-01-01 UTC."""

    def local_time(self) -> datetime:
        """Return what clocks on the wall show here, with the offset that holds now (so summer time counts)."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""

    def random_bytes(self, count: int) -> bytes:
        """Return ``count`` bytes fit for keys."""


class SystemClock:
    """The real one."""

    def now_ns(self) -> int:
        """Return wall-clock time in nanoseconds."""
        return time.time_ns()

    def local_time(self) -> datetime:
        """Return the time of this machine's zone."""
        return datetime.fromtimestamp(self.now_ns() / 1e9, UTC).astimezone()

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def random_bytes(self, count: int) -> bytes:
        """Return bytes from the operating system's generator."""
        return os.urandom(count)  # what `secrets` calls, without the tenth of a second its import can take


@dataclass
class ManualClock:
    """A clock that tests set; its random bytes are a counter, so they never repeat and never surprise."""

    wall_ns: int = 1_700_000_000_000_000_000
    elapsed: float = 0.0
    zone: tzinfo = UTC
    _drawn: int = field(default=0, repr=False)

    def now_ns(self) -> int:
        """Return the time that was set."""
        return self.wall_ns

    def local_time(self) -> datetime:
        """Return the time that was set, in ``zone``."""
        return datetime.fromtimestamp(self.wall_ns / 1e9, self.zone)

    def monotonic(self) -> float:
        """Return the seconds that were set."""
        return self.elapsed

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self.elapsed += seconds
        self.wall_ns += int(seconds * 1e9)

    def random_bytes(self, count: int) -> bytes:
        """Return a counter's bytes: distinct for each draw."""
        self._drawn += 1
        return self._drawn.to_bytes(max(count, 8), "big")[-count:]

"""How busy the machine is, whoever keeps it so: what the kernel counts, where it can be read."""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")
# Fields of the first line: user, nice, system, idle, iowait, irq, softirq, steal. Idle and iowait are free to be used;
# steal is not, although nobody here uses it.
_IDLE = (3, 4)
_FIELDS = 8


class ProcessorTime:
    """Seconds of processor time that were used on this machine; read anew each time, which takes some 30 µs."""

    def __init__(self, path: Path = STAT) -> None:
        self._path = path
        self._ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

    def busy(self) -> float | None:
        """Return the seconds since the machine started, over all processors; None where nobody counts them."""
        try:
            with self._path.open("rb") as file:
                words = file.readline().split()
            counts = [int(word) for word in words[1 : 1 + _FIELDS]]
        except (OSError, ValueError):
            return None
        if len(counts) < _FIELDS or words[0] != b"cpu":
            return None
        return (sum(counts) - sum(counts[at] for at in _IDLE)) / self._ticks

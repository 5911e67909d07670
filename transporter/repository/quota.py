"""Who may still store how much. Charged before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from transporter.errors import QuotaExceeded

# A point of nothing new takes as much: its head, its slot and a pack of one chunk of metadata.
LEAST_ROOM: Final = 4096


class QuotaBook:
    """Bytes used by each tenant that is writing now. Thread-safe.

    A tenant's use is measured when its first writer opens and forgotten when its last one closes,
    so the book does not grow with the number of tenants.
    """

    def __init__(self, limit: int | None, measure: Callable[[str], int]) -> None:
        self.limit = limit
        self._measure = measure
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}
        self._writers: dict[str, int] = {}

    def enter(self, tenant: str) -> None:
        """Count a writer of ``tenant``."""
        with self._lock:
            if tenant not in self._used:
                self._used[tenant] = self._measure(tenant)
            self._writers[tenant] = self._writers.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """Count one writer less."""
        with self._lock:
            self._writers[tenant] -= 1
            if not self._writers[tenant]:
                del self._writers[tenant], self._used[tenant]

    def charge(self, tenant: str, count: int) -> None:
        """Charge ``count`` bytes (or give them back, if negative); QuotaExceeded leaves the account as it was."""
        with self._lock:
            if self.limit is None and tenant not in self._used:
                return  # to measure is to look at every point of the tenant
            used = self._used[tenant] if tenant in self._used else self._measure(tenant)
            if self.limit is not None and count > 0 and used + count > self.limit:
                raise QuotaExceeded(
                    f"the quota of {self.limit} bytes is used up ({used} bytes are stored)",
                    "remove old restore points; the provider frees their room by `prune`, or gives more (`quota`)",
                )
            if tenant in self._used:
                self._used[tenant] = used + count

    def check_room(self, tenant: str) -> None:
        """Raise QuotaExceeded where not even a point would find room: before a run reads and sends anything."""
        if 0 <= self.left(tenant) < LEAST_ROOM:
            raise QuotaExceeded(
                f"the quota of {self.limit} bytes is used up: nothing more can be stored",
                "remove old restore points; the provider frees their room by `prune`, or gives more (`quota`)",
            )

    def left(self, tenant: str) -> int:
        """Return the bytes ``tenant`` may still store, −1 without a bound."""
        with self._lock:
            if self.limit is None:
                return -1
            used = self._used[tenant] if tenant in self._used else self._measure(tenant)
            return max(0, self.limit - used)

"""Keys that a service unwrapped, kept in memory for a while: bounded in number and in age, one for each process.

A daemon opens the key database for each request; without this every one of them would ask the service again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from transporter.errors import TransporterError
from transporter.keys.derive import bind
from transporter.keys.kms import Context, associated

MOST_KEYS: Final = 4096
"""Keys of 32 bytes: half a megabyte with what is around them. The one that was not used for longest goes first."""

FRESH_SECONDS: Final = 600.0
"""After ten minutes the service is asked again: a key that was switched off there closes here."""

STALE_SECONDS: Final = 12 * 3600.0
"""As long as the service cannot be *reached*, what it once unwrapped goes on being used for half a day: its outage at
night does not stop the night's jobs. A service that refuses is obeyed at once."""

QUIET_SECONDS: Final = 10.0
"""After a failure nobody asks again for so long: a thousand points must not wait for a thousand time-outs."""


@dataclass(slots=True)
class _Kept:
    key: bytes = field(repr=False)
    since: float


class KeyCache:
    """Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[bytes, _Kept] = OrderedDict()
        self._failed: dict[str, tuple[float, TransporterError]] = {}

    def get(self, place: bytes, now: float, seconds: float = FRESH_SECONDS) -> bytes | None:
        """Return the key of a place that is no older than ``seconds``."""
        with self._lock:
            kept = self._keys.get(place)
            if kept is None or not 0 <= now - kept.since <= seconds:
                if kept is not None and now - kept.since > STALE_SECONDS:
                    del self._keys[place]
                return None
            self._keys.move_to_end(place)
            return kept.key

    def put(self, place: bytes, key: bytes, now: float) -> None:
        """Keep a key."""
        with self._lock:
            self._keys[place] = _Kept(key, now)
            self._keys.move_to_end(place)
            while len(self._keys) > MOST_KEYS:
                self._keys.popitem(last=False)

    def drop(self, place: bytes) -> None:
        """Let go of a key."""
        with self._lock:
            self._keys.pop(place, None)

    def failed(self, service: str, error: TransporterError, now: float) -> None:
        """Remember that a service failed just now."""
        with self._lock:
            self._failed[service] = (now, error)

    def works(self, service: str) -> None:
        """Forget that it failed."""
        with self._lock:
            self._failed.pop(service, None)

    def failure(self, service: str, now: float) -> TransporterError | None:
        """Return what a service failed with a moment ago."""
        with self._lock:
            since, error = self._failed.get(service, (0.0, None))
            return error if error is not None and 0 <= now - since < QUIET_SECONDS else None

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._keys.clear()
            self._failed.clear()


def cache_place(service: bytes, wrapped: bytes, context: Context) -> bytes:
    """Return what a key is found by: whoever asks shows the wrapped bytes and the same service and context."""
    return blake3(bind(b"kms cache", service, wrapped, associated(context))).digest()

"""Limits change while jobs run: the file is looked at every second, and the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from transporter.clock import Clock
from transporter.config import ThrottleConfig, load_config
from transporter.errors import ConfigError
from transporter.throttle.limits import Throttle

LOOK_SECONDS = 1.0


async def watch_limits(throttle: Throttle, path: Path, clock: Clock, warn: Callable[[ConfigError], None]) -> None:
    """Keep ``throttle`` at what the file says for the time of day, until cancelled.

    While the file is wrong what it said before holds, and ``warn`` is told once for each state of the file.
    """
    known: object = None
    config: ThrottleConfig | None = None
    while True:
        state = _state(path)
        if state != known:
            known = state
            try:
                config = load_config(path).throttle
            except ConfigError as error:
                # At the very start there is nothing to keep to, and whoever began this has met the error, too.
                if config is not None:
                    warn(error)
        if config is not None:
            throttle.apply(config, clock.local_time())
        await trio.sleep(LOOK_SECONDS)
        throttle.measure()


def _state(path: Path) -> tuple[int, int, int]:
    """Return what changes when the file does. Replaced in one step, it has another number at once."""
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return (seen.st_mtime_ns, seen.st_ino, seen.st_size)

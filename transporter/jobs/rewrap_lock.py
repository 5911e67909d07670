"""Only one command at a time goes through all points to change their slots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import trio

from transporter.errors import JobBusy
from transporter.home import Home
from transporter.jobs.context import held_lock

# A process that helped one which was killed holds the lock until it has ended its batch: tenths of a second.
PATIENCE_SECONDS = 5.0
_AGAIN_SECONDS = 0.05


@asynccontextmanager
async def rewrap_lock(home: Home) -> AsyncIterator[int]:
    """Hold the lock of whoever goes through all points to change their slots; the lock's descriptor. Raises JobBusy."""
    with ExitStack() as held:
        yield await _patiently(home, held)


async def _patiently(home: Home, held: ExitStack) -> int:
    until = trio.current_time() + PATIENCE_SECONDS
    while True:
        try:
            return held.enter_context(held_lock(home.rewrap_lock, "slots are being changed by another command"))
        except JobBusy:
            if trio.current_time() >= until:
                raise
        await trio.sleep(_AGAIN_SECONDS)

"""Frees what connections that have ended leave in cycles of references.

The collector runs by counting objects (`tuning.py`: rarely), but what matters here are a few objects with MiBs in them:
a session that has ended leaves some four, and after a hundred of them a daemon would be half a GiB.
"""

from __future__ import annotations

import trio

from transporter.daemon.tuning import give_back_memory

# However often connections come and go: a look costs some milliseconds with the interpreter's lock held.
PAUSE_SECONDS = 5.0


class Tidier:
    """``ended`` says that a connection has ended; ``run`` frees memory a moment later, until cancelled."""

    def __init__(self) -> None:
        self._something = trio.Event()

    def ended(self) -> None:
        """Note that there is something to free."""
        self._something.set()

    async def run(self) -> None:
        """Free memory at once after a quiet time, else every few seconds."""
        while True:
            await self._something.wait()
            self._something = trio.Event()
            await trio.to_thread.run_sync(give_back_memory)
            await trio.sleep(PAUSE_SECONDS)

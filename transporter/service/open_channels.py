"""How many data channels of a session are still open: it ends in order once each direction has said its FIN."""

from __future__ import annotations

import trio

# An initiator that stops sends its FINs before Stop; they may be on their way over a slow line.
FIN_SECONDS = 20.0


class OpenChannels:
    """Counts channels from their arrival to their FIN."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = trio.lowlevel.ParkingLot()

    def opened(self) -> None:
        """Count one more."""
        self.count += 1

    def finished(self) -> None:
        """Count one less: its FIN came, and was answered."""
        self.count -= 1
        self._changed.unpark_all()

    async def all_finished(self) -> None:
        """Wait for the FINs that are on their way; not for ever."""
        with trio.move_on_after(FIN_SECONDS):
            while self.count:
                await self._changed.park()

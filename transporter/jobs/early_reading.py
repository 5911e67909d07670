"""The reader of a run: begun before the peer has said anything, begun anew where that turns out to have been wrong.

What a run reads with depends on what the target says (its newest point, whose keys name the chunks). Most often that is
what this home remembers: so the reader begins on that, while the link is still being opened, and what it finds waits
here. Nothing of it leaves before the target has been heard and the guess compared with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import trio

from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import Open
from transporter.jobs.reading import Reading, open_reading
from transporter.jobs.spare_worker import SpareWorker


class EarlyReader:
    """One task calls ``begin`` and another ``open``; ``reading`` and ``needs`` are good after ``open``."""

    def __init__(self, stack: AsyncExitStack, folder: Path, *, from_stdin: bool, spare: SpareWorker | None) -> None:
        self._stack = stack
        self._folder = folder
        self._from_stdin = from_stdin
        self._spare = spare
        self._guess: Open | None = None
        self._begun = trio.Event()
        self._at_rest = trio.Event()
        self._ahead = trio.CancelScope()
        self.starts = 0
        self.needs: Needs
        self.reading: Reading

    async def begin(self, guess: Open | None) -> None:
        """Start a reader, and have it read by ``guess`` until ``open`` is called. Raises what ``Reading`` raises."""
        await self._start()
        if guess is not None:
            await self.reading.open(guess)
        self._guess = guess
        self._begun.set()
        with self._ahead:
            if guess is not None:
                await self.reading.run_ahead()
        self._at_rest.set()

    async def open(self, order: Open) -> Reading:
        """Return a reading by ``order``: the one that was begun if it was by this very order, else a new one."""
        await self._begun.wait()
        self._ahead.cancel()
        await self._at_rest.wait()
        if self._guess is not None and self._guess != order:
            # Ended, and waited for: it may hold the file of the manifest that the next one writes.
            await self._stack.aclose()
            await self._start()
            self._guess = None
        if self._guess is None:
            await self.reading.open(order)
        return self.reading

    async def _start(self) -> None:
        self.starts += 1
        self.needs = self._stack.enter_context(closing(Needs(self._folder)))
        self.reading = await self._stack.enter_async_context(
            open_reading(self.needs, from_stdin=self._from_stdin, spare=self._spare)
        )


@asynccontextmanager
async def open_early_reader(
    folder: Path, *, from_stdin: bool, spare: SpareWorker | None = None
) -> AsyncIterator[EarlyReader]:
    """Yield a reader to begin with; ``folder`` takes the list of needed chunks. On leaving its process is ended."""
    async with AsyncExitStack() as stack:
        yield EarlyReader(stack, folder, from_stdin=from_stdin, spare=spare)

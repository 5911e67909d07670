"""How long who reads from a mount waits for its target: all points of a mount have one, so its silence is one, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import trio

from transporter.errors import CannotConnect

ANSWER_SECONDS = 30.0
"""How long a reader waits while nothing arrives: a program that reads a file must learn that it cannot. A slow line is
no reason: whatever arrives begins the time anew."""
AGAIN_SECONDS = 1.0
"""How long the next reader waits while still nothing has come. The kernel answers a read that failed with a smaller one
of its own before it tells the program, and a program goes on to the next file: none of them should wait anew."""
ALIVE_BYTES = 64 << 10
"""So much in that time is a sign of life; heartbeats alone, of as many sessions as a mount has, are less than half."""
SILENT_SECONDS = 5.0
"""An attempt to connect that fails after so long has met silence. One that is refused at once has not: where a daemon
is just started anew, the next attempt is worth waiting for."""


class Away(CannotConnect):
    """The target did not answer in time."""


def away() -> Away:
    """Return the error that something did not come in time."""
    return Away("the target does not answer", "it is dialled again; try later")


class Heard(Protocol):
    """A link, and how much came over it."""

    @property
    def bytes_received(self) -> int:
        """Bytes to here."""


class Silence:
    """Whether the target of a mount was silent for so long that nobody should wait for it as long again."""

    def __init__(self) -> None:
        self._links: list[Heard] = []
        self._came_before = 0  # over links that have ended
        self._since: int | None = None  # what had come when somebody gave up; None: the target answers
        self._turn = trio.Lock()

    def answered(self) -> None:
        """Note that the target answers."""
        self._since = None

    def failed(self, error: Exception, began: float) -> None:
        """Note that an attempt to reach the target failed, which began at ``began`` (trio's time)."""
        if isinstance(error, CannotConnect) and trio.current_time() - began >= SILENT_SECONDS:
            self._begin(self._received())

    @contextmanager
    def over(self, link: Heard) -> Iterator[None]:
        """Count what comes over a link that has been opened, for as long as the context lasts."""
        self.answered()
        self._links.append(link)
        try:
            yield
        finally:
            self._links = [other for other in self._links if other is not link]
            self._came_before += link.bytes_received

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one may dial: a target that is silent is dialled for one point at a time."""
        if not self._is_silent():
            yield
            return
        async with self._turn:
            yield

    async def wait(self, came: trio.Event) -> None:
        """Wait for something, for as long as the target answers. Raises Away."""
        while not came.is_set():
            before = self._received()
            with trio.move_on_after(AGAIN_SECONDS if self._is_silent() else ANSWER_SECONDS):
                await came.wait()
            if not came.is_set() and self._received() - before < ALIVE_BYTES:
                self._begin(before)
                raise away()

    def _begin(self, received: int) -> None:
        if self._since is None:
            self._since = received

    def _is_silent(self) -> bool:
        if self._since is not None and self._received() - self._since >= ALIVE_BYTES:
            self._since = None
        return self._since is not None

    def _received(self) -> int:
        return self._came_before + sum(link.bytes_received for link in self._links)

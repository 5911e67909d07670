"""The process between two TUN devices: reads packets from one, writes them to the other, and the other way round.

``python -m loadtest.wan.pump FD FD SETTINGS`` (two open TUN devices, two `Way` as JSON). Each line on stdin is a JSON
object: fields of `Way` to change (both directions), or nothing. Each is answered by one line, what was counted since
the one before. End of input ends the process, with a last such line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import sys
import time
from typing import Any

from .pipe import Pipe, Way

BATCH = 256  # packets that are read from one device before the other one has its turn
# While packets flow the process sleeps this long between two looks, and so handles several at once: it costs less, and
# shifts a packet by less than a hundredth of any delay that matters here.
TICK = 0.0002
_PACKET = 65_536
_PRIORITY = -15  # a line does not wait for a processor that the programs at its ends use


class Pump:
    """Two devices, two pipes, and the controlling end of stdin and stdout."""

    def __init__(self, devices: tuple[int, int], ways: tuple[Way, Way]) -> None:
        """The devices are non-blocking file descriptors; ways[0] leads from the first to the second."""
        now = time.monotonic()
        self._pipes = tuple(Pipe(way, now) for way in ways)
        self._routes = tuple(zip(devices, self._pipes, reversed(devices), strict=True))
        self._watched = [*devices, sys.stdin.fileno()]
        self._commands = b""
        self._refused = 0  # packets that the other device did not take
        self._ended = False

    def run(self) -> None:
        """Pump until stdin ends."""
        monotonic, sleep = time.monotonic, time.sleep
        looked_at_stdin = monotonic()
        while not self._ended:
            now = monotonic()
            took = self._read(now)
            self._deliver(now)
            if took and now - looked_at_stdin < 0.1:
                rest = TICK - (monotonic() - now)
                if rest > 0:
                    sleep(rest)
                continue
            looked_at_stdin = now
            self._wait(0.0 if took else self._pause())

    def _read(self, now: float) -> int:
        """Take what the devices hold; return how many packets."""
        read, took = os.read, 0
        for source, pipe, _ in self._routes:
            offer = pipe.offer
            try:
                for _ in range(BATCH):
                    offer(now, read(source, _PACKET))
                    took += 1
            except BlockingIOError:
                continue
        return took

    def _deliver(self, now: float) -> None:
        write = os.write
        for _, pipe, sink in self._routes:
            for packet in pipe.due(now):
                try:
                    write(sink, packet)
                except OSError:  # the device is down: the end goes away
                    self._refused += 1

    def _pause(self) -> float | None:
        times = [time for pipe in self._pipes if (time := pipe.next_due) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _wait(self, seconds: float | None) -> None:
        # select() takes fractions of a millisecond; epoll's timeout is in whole ones.
        ready, _, _ = select.select(self._watched, [], [], seconds)
        if self._watched[2] in ready:
            self._obey(os.read(self._watched[2], 4096))

    def _obey(self, data: bytes) -> None:
        if not data:
            self._ended = True
            self._answer()
            return
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            changes = json.loads(line)
            for pipe in self._pipes:
                pipe.change(dataclasses.replace(pipe.way, **changes))
            self._answer()

    def _answer(self) -> None:
        counted: dict[str, Any] = {"refused": self._refused}
        for name, pipe in zip(("up", "down"), self._pipes, strict=True):
            counted[name] = dataclasses.asdict(pipe.restart_counters())
        self._refused = 0
        with contextlib.suppress(BrokenPipeError):  # whoever asked has gone; the end of input follows
            os.write(sys.stdout.fileno(), json.dumps(counted).encode() + b"\n")


def main(arguments: list[str]) -> int:
    """Pump until stdin ends."""
    first, second = int(arguments[0]), int(arguments[1])
    up, down = (Way(**fields) for fields in json.loads(arguments[2]))
    for device in (first, second):
        os.set_blocking(device, False)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    gc.disable()  # nothing here makes cycles, and a collection delays packets
    Pump((first, second), (up, down)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

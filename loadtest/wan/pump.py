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
from .segments import HEADER_SIZE, Train, is_train

BATCH = 256  # packets that are read from one device before the other one has its turn
# While packets flow the process sleeps this long between two looks, and so handles several at once: it costs less, and
# shifts a packet by less than a hundredth of any delay that matters here.
TICK = 0.0002
# Segments of one sender that come out within this time come out together, as from a card that joins them.
TOGETHER = 0.0005
_PACKET = HEADER_SIZE + 65_536
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
            try:
                for _ in range(BATCH):
                    packet = read(source, _PACKET)
                    took += 1
                    if is_train(packet):
                        admit_train(pipe, now, Train(packet))
                        continue
                    size = len(packet) - HEADER_SIZE
                    due = pipe.admit(now, size)
                    if due is not None:
                        pipe.put(due, packet, 1, size)
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
        times = [due for pipe in self._pipes if (due := pipe.next_due) is not None]
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


def admit_train(pipe: Pipe, now: float, train: Train) -> None:
    """Send each segment of a train through the pipe; runs of those that are left come out as one packet each."""
    first = size = 0
    began = due = None
    for number in range(train.count):
        length = train.size(number)
        arrives = pipe.admit(now, length)
        if began is not None and due is not None and (arrives is None or arrives - began > TOGETHER):
            pipe.put(due, train.piece(first, number), number - first, size)
            began = None
        if arrives is None:
            continue
        if began is None:
            began, first, size = arrives, number, 0
        due = arrives
        size += length
    if began is not None and due is not None:
        pipe.put(due, train.piece(first, train.count), train.count - first, size)


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

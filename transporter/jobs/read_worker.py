"""The reader process of a backup: reads, cuts, names the chunks, and makes the manifest.

It holds plaintext and the key that names chunks, and no key that opens anything. One thread reads, one cuts: they share
nothing but units. What it may fill is bounded by the buffers that the job has given back.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

import msgspec

from pipeline.chunk import Buffer, Unit
from pipeline.chunker import CONTENT_SIZES
from transporter.jobs.feed import Feed, open_feed
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import (
    BUFFER,
    BUFFERS,
    NO_BUFFER,
    Cut,
    Finished,
    Free,
    Kept,
    Open,
    Opened,
    Order,
    Report,
)
from transporter.workloads.worker import Channel, failure, run_worker

# A read that hangs (a dead network file system) does not keep the process from ending.
JOIN_SECONDS = 5.0


class ReadWorker:
    """Reads for one backup."""

    def __init__(self, connection: socket.socket, memory: memoryview, needs: Needs) -> None:
        self._channel: Channel[Order] = Channel(connection, msgspec.msgpack.Decoder(Order))
        self._buffers = [
            Buffer(memory[number * BUFFER : (number + 1) * BUFFER], CONTENT_SIZES.maximum) for number in range(BUFFERS)
        ]
        self._needs = needs
        self._free: SimpleQueue[int | None] = SimpleQueue()
        self._units: SimpleQueue[tuple[int, Unit] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._feed: Feed | None = None
        for number in range(BUFFERS):
            self._free.put(number)

    def run(self) -> None:
        """Serve until the stream ends; a manifest that is not to be kept is removed."""
        try:
            for order in self._channel.receive():
                self._guarded(self._carry_out, order)
        finally:
            self._free.put(None)
            self._units.put(None)
            for thread in self._threads:
                thread.join(JOIN_SECONDS)
            if self._feed is not None:
                self._feed.close()

    def _guarded(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self._channel.send(failure(error))

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Free):
            self._free.put(order.buffer)
        elif isinstance(order, Open):
            feed = self._feed = open_feed(order, self._needs)
            self._channel.send(Opened(_report(feed)))
            for work in (self._read, self._cut):
                thread = threading.Thread(target=self._guarded, args=(work, feed), daemon=True)
                self._threads.append(thread)
                thread.start()
        elif self._feed is not None:
            self._feed.keep_manifest()
            self._channel.send(Kept())

    def _read(self, feed: Feed) -> None:
        last = False
        while not last:
            number = self._free.get()
            if number is None:
                return
            buffer = self._buffers[number]
            length, pending, last = feed.fill(buffer.block)
            self._units.put((number, Unit(buffer, length, pending, last)))

    def _cut(self, feed: Feed) -> None:
        last = False
        while not last:
            item = self._units.get()
            if item is None:
                return
            number, unit = item
            last = unit.last
            content, metadata = feed.cut(unit)
            if not content:
                self._free.put(number)
            buffer = number if content else NO_BUFFER
            self._channel.send(Cut(buffer, unit.length, content, metadata, _report(feed)))
        self._needs.flush()
        self._channel.send(Finished(feed.manifest_chunks, feed.fsi_chunks, self._needs.count, self._needs.digest()))


def _report(feed: Feed) -> Report:
    return Report(feed.files, feed.files_unchanged, feed.bytes_total, feed.bytes_expected, feed.take_notes())


def _serve(connection: socket.socket, memory: memoryview) -> None:
    needs = Needs.in_file(int(sys.argv[3]))
    try:
        ReadWorker(connection, memory, needs).run()
    finally:
        # What cannot be flushed any more (the disk is full) has been told where it was written, or nobody waits for it.
        with suppress(OSError):
            needs.close()


def main() -> None:
    """Be the process."""
    run_worker(_serve)


if __name__ == "__main__":
    main()

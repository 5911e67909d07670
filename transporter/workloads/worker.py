"""A worker process: does for a job what needs an interpreter lock of its own.

Writing (and reading) small files is nothing but short system calls. After each of them a thread waits for the
interpreter lock, which the event loop and the threads that open chunks hold; a process does not (measured: a restore
of 79,000 files wrote for 6.5 s and waited for 5). The daemon starts one for each job and ends it by closing the socket
between them, be it by dying.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from transporter.errors import TransporterError
from transporter.workloads.worker_channel import Failed, FrameSplitter, encode_frame

READ = 256 << 10
# What a worker makes is freed by counting references; the collector would only look at it again and again.
COLLECT_AFTER = 50_000
T = TypeVar("T")


class Channel(Generic[T]):
    """The worker's end. ``send`` may be called from several threads; the daemon may be gone at any time."""

    def __init__(self, connection: socket.socket, orders: msgspec.msgpack.Decoder[T]) -> None:
        self._connection = connection
        self._orders = orders
        self._lock = threading.Lock()

    def receive(self) -> Iterator[T]:
        """Yield orders until the daemon closes the socket or is gone."""
        splitter = FrameSplitter()
        while data := self._read():
            for body in splitter.feed(data):
                yield self._orders.decode(body)

    def _read(self) -> bytes:
        try:
            return self._connection.recv(READ)
        except ConnectionError:
            return b""

    def send(self, message: msgspec.Struct) -> None:
        """Answer. Nobody misses an answer that a daemon that is gone does not get."""
        with self._lock:
            try:
                self._connection.sendall(encode_frame(message))
            except OSError:
                pass


def failure(error: Exception) -> Failed:
    """Return what the job has to know of an error. What is a bug leaves its trace in the daemon's error output."""
    if isinstance(error, TransporterError):
        return Failed(error.code, error.what, error.remedy)
    if isinstance(error, OSError) and error.errno is not None:
        return Failed("os", error.strerror or "", number=error.errno)
    traceback.print_exception(error)
    return Failed("internal", f"internal error: {type(error).__name__}", "this is a bug: report what the log says")


def ignore_signals() -> None:
    """A terminal signals the whole group: the daemon alone decides, and its end is the end of the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def run_worker(serve: Callable[[socket.socket, memoryview], None]) -> None:
    """Call ``serve`` with the socket and the shared memory whose descriptors are the process' two arguments."""
    ignore_signals()
    gc.set_threshold(COLLECT_AFTER, 20, 20)
    gc.freeze()
    connection = socket.socket(fileno=int(sys.argv[1]))
    descriptor = int(sys.argv[2])
    # Never inherited further, should anything here ever start a program.
    connection.set_inheritable(False)
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    os.close(descriptor)
    serve(connection, memoryview(memory))
    # The memory is let go with the process: views of it may still be in tracebacks.
    sys.stdout.flush()
    os._exit(0)

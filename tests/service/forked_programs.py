"""The program ``transporter`` in a process of its own, but forked from one that has loaded every module of it.

To import them is most of what a short command, or the start of a daemon, would do; and passwords are cheap to stretch.
That commands and daemons start by themselves is what the demos and tests/cli/test_main.py are about.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fork_kinds import PROGRAM
from forked_workers import fork, forking

Stream = int | IO[bytes] | None


class Program:
    """As ``subprocess.Popen``, of which it has what tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._said: dict[Any, list[bytes]] = {}
        given: list[int] = []
        self.stdin, self.stdout, self.stderr = (
            _stream(number, stream, given) for number, stream in enumerate((stdin, stdout, stderr))
        )
        order = os.memfd_create("order")
        how = {"arguments": self.args, "folder": str(folder or Path.cwd()), "environment": dict(os.environ)}
        try:
            os.pwrite(order, json.dumps(how).encode(), 0)
            self.pid, self._life = fork(PROGRAM, [forking().fileno(), order, *given])
        finally:
            for descriptor in (order, *given):
                os.close(descriptor)
        try:
            self._process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._process = -1  # has ended, and is nobody's any more

    def poll(self) -> int | None:
        """Return how it ended, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            # 0 is "do not wait" to a socket, as it is here.
            self._life.settimeout(timeout)
            try:
                status = self._life.recv(4, socket.MSG_WAITALL)
            except (TimeoutError, BlockingIOError):
                return None
            (self.returncode,) = struct.unpack("<i", status)
            self._life.close()
            if self._process >= 0:
                os.close(self._process)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None and self._process >= 0:
            try:
                signal.pidfd_send_signal(self._process, number)
            except ProcessLookupError:
                return

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[bytes | None, bytes | None]:
        """Read what it says until it ends."""
        until = None if timeout is None else time.monotonic() + timeout
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.close()
        with selectors.DefaultSelector() as waiting:
            for stream in (self.stdout, self.stderr):
                if stream is not None and not stream.closed:
                    self._said.setdefault(stream, [])
                    waiting.register(stream, selectors.EVENT_READ)
            while waiting.get_map():
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _events in waiting.select(left):
                    block = os.read(key.fd, 1 << 16)
                    self._said[key.fileobj].append(block)
                    if not block:
                        waiting.unregister(key.fileobj)
        self.wait(None if until is None else max(0.0, until - time.monotonic()) or 0.001)
        out, err = (b"".join(self._said[each]) if each in self._said else None for each in (self.stdout, self.stderr))
        for stream in self._said:
            stream.close()
        return out, err

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_error: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def _stream(number: int, stream: Stream, given: list[int]) -> IO[bytes] | None:
    """Put what the program gets as its descriptor ``number`` behind ``given``; return our end, if it is a pipe."""
    if stream == subprocess.PIPE:
        read, write = os.pipe()
        given.append(read if number == 0 else write)
        return os.fdopen(write, "wb") if number == 0 else os.fdopen(read, "rb", buffering=0)
    if stream == subprocess.DEVNULL:
        given.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    else:
        given.append(os.dup(number if stream is None else stream if isinstance(stream, int) else stream.fileno()))
    return None


def start(command: Sequence[str | Path], before: Sequence[str] = (), **how: Any) -> Program | subprocess.Popen[bytes]:
    """Start ``python -m transporter …``: by a fork where that makes no difference.

    Words before it, or anything but streams and a ``folder`` in ``how``, need a process that really begins.
    """
    words = list(map(str, command))
    if before or set(how) - {"folder", "stdin", "stdout", "stderr"}:
        return subprocess.Popen([*before, *words], **how)
    assert words[1:3] == ["-m", "transporter"], words
    return Program(words[3:], **how)

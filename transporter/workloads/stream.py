"""A stream (standard input, a command's output) as the one file of a restore point."""

from __future__ import annotations

import os
import select
import time

from transporter.errors import JobFailed
from transporter.workloads.entry import UNTRUSTED, Entry
from transporter.workloads.notes import Note
from transporter.workloads.pending import OPEN_END, Pending


class StreamReader:
    """Reads a descriptor to its end. Same shape as ``TreeScanner``: fill, take_entries, take_notes.

    ``name`` is the path under which the content is stored and restored. The entry comes out with the first byte,
    its length is known at the end: the last record's ``size`` counts. When nothing comes for ``wait_seconds``,
    ``fill`` returns what it has, possibly nothing: ask ``finished``, so that a silent stream can be given up.
    """

    def __init__(self, fd: int, name: bytes | str, *, wait_seconds: float = 0.25) -> None:
        path = os.fsencode(name).strip(b"/")
        self.roots = [path]
        self.finished = False
        self.files = 1
        self.files_unchanged = 0
        self.folders = 0
        self.others = 0
        self.bytes_read = 0
        self._fd = fd
        self._wait_ms = int(wait_seconds * 1000)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        now = time.time_ns()
        entry = Entry(path, "f", UNTRUSTED, 0, now, now, mode=0o600, uid=os.geteuid(), gid=os.getegid())
        self._pending = Pending(entry, 0, OPEN_END)
        self._entries = [self._pending]

    @property
    def bytes_total(self) -> int:
        """Bytes known of so far."""
        return self.bytes_read

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from the stream; fewer bytes than it holds at the end, or when the stream is silent.

        Raises ``JobFailed`` when reading fails: half a stream is no backup of it.
        """
        filled = 0
        while filled < len(buffer) and not self.finished:
            try:
                if not self._poll.poll(self._wait_ms):
                    break
                got = os.readv(self._fd, (buffer[filled:],))
            except OSError as error:
                raise JobFailed(
                    f"Reading the stream failed after {self.bytes_read + filled} bytes: {error.strerror}."
                ) from error
            if not got:
                self.finished = True
                self._pending.size = self.bytes_read + filled
                self._pending.end = self.bytes_read + filled
            filled += got
        self.bytes_read += filled
        return filled

    def take_entries(self) -> list[Pending]:
        """Return the one entry, once."""
        taken, self._entries = self._entries, []
        return taken

    def take_notes(self) -> list[Note]:
        """Return no notes: a stream that cannot be read fails the job."""
        return []

    def close(self) -> None:
        """Close the descriptor, unless it is standard input."""
        if self._fd > 2:
            os.close(self._fd)
            self._fd = -1
        self.finished = True

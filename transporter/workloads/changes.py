"""What a restore in place will do besides moving things, put off until it publishes; on disk, for there may be many.

A record is msgpack with its length (u32 BE) before it, in a file without a name in the staging folder: it goes with the
process, and nobody else ever reads it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

from transporter.workloads.entry import Entry
from transporter.workloads.staging import scratch_name

LENGTH = struct.Struct(">I")


class Change(msgspec.Struct, array_like=True, gc=False):
    """One thing to do at ``path`` below the output, which the point calls ``stored``.

    ``dev`` and ``inode``: of what was found there.
    """

    what: Literal["remove", "repair"]
    path: bytes
    stored: bytes
    dev: int
    inode: int
    entry: Entry | None = None


class ChangeLog:
    """Records in, the same records out once. Not thread-safe."""

    def __init__(self, folder_fd: int) -> None:
        name = scratch_name(folder_fd, b"changes")
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
        self._file = os.fdopen(fd, "w+b")
        os.unlink(name, dir_fd=folder_fd)
        self._encode = msgspec.msgpack.Encoder().encode
        self.count = 0

    def add(self, change: Change) -> None:
        """Add a record. Raises ``OSError``."""
        record = self._encode(change)
        self._file.write(LENGTH.pack(len(record)) + record)
        self.count += 1

    def read(self) -> Iterator[Change]:
        """Yield all records. Raises ``OSError``."""
        decode = msgspec.msgpack.Decoder(Change).decode
        self._file.seek(0)
        while head := self._file.read(LENGTH.size):
            yield decode(self._file.read(LENGTH.unpack(head)[0]))

    def close(self) -> None:
        """Let go of the records."""
        # What is buffered still has nowhere to go, and no reader.
        try:
            self._file.close()
        except OSError:
            pass

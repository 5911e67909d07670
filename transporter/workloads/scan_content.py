"""Reading the contents of files that are not plain: one that fits the buffer in one go, any other over several."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from transporter.workloads import xattrs
from transporter.workloads.pending import Pending
from transporter.workloads.scan_file import FileReading, data_ranges, holes_between
from transporter.workloads.scan_output import ScanOutput

O_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
O_NOATIME: Final = getattr(os, "O_NOATIME", 0)
Hook = Callable[[str, bytes], None]


class ContentScan(ScanOutput):
    """The content-reading part of ``TreeScanner``; ``hook`` is described there."""

    def __init__(self, hook: Hook | None) -> None:
        super().__init__()
        self._hook = hook
        self._reading: FileReading | None = None
        self._euid = os.geteuid()

    def _open(self, fd: int, name: bytes, state: os.stat_result) -> int:
        if self._euid in {0, state.st_uid}:
            try:
                return os.open(name, O_READ | O_NOATIME, dir_fd=fd)
            except PermissionError:
                pass  # O_NOATIME is the owner's privilege: a root without it, or another owner by now
        return os.open(name, O_READ, dir_fd=fd)

    def _read_small(
        self, fd: int, name: bytes, path: bytes, state: os.stat_result, seen_ns: int, buffer: memoryview, filled: int
    ) -> int:
        """Read a file that fits the buffer in one go. Should it change meanwhile, read it again the careful way."""
        size = state.st_size
        if self._hook is not None:
            self._hook("open", path)
        try:
            file = self._open(fd, name, state)
            try:
                if self._hook is not None:
                    self._hook("read", path)
                got = os.readv(file, (buffer[filled : filled + size],))
                after = os.fstat(file)
                names = xattrs.listed(file)
                attributes = self._attributes(file, path, names) if names else xattrs.NONE
            finally:
                os.close(file)
        except OSError as error:
            self._lost(path, error)
            return filled
        if (
            got != size
            or after.st_ctime_ns != state.st_ctime_ns
            or after.st_mtime_ns != state.st_mtime_ns
            or after.st_ino != state.st_ino
        ):
            self._open_large(fd, name, path, after, seen_ns, filled)
            return filled
        self.files += 1
        self.bytes_total += size
        start = self.bytes_read + filled
        self._emit(self._entry(path, "f", state, seen_ns, attributes), state, start, start + size)
        return filled + size

    def _open_large(self, fd: int, name: bytes, path: bytes, state: os.stat_result, seen_ns: int, filled: int) -> None:
        """Put out the entry of a file that ``_read_on`` will read, over several buffers if need be."""
        if self._hook is not None:
            self._hook("open", path)
        try:
            file = self._open(fd, name, state)
        except OSError as error:
            self._lost(path, error)
            return
        try:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode):
                raise FileNotFoundError(errno.ENOENT, "replaced by something else while being read")
            size = state.st_size
            ranges = data_ranges(file, size) if state.st_blocks * 512 < size else None
            attributes = self._attributes(file, path)
        except OSError as error:
            os.close(file)
            self._lost(path, error)
            return
        start = self.bytes_read + filled
        data = size if ranges is None else sum(ranges[1::2])
        pending = Pending(
            self._entry(path, "f", state, seen_ns, attributes),
            start,
            start + data,
            None if ranges is None else holes_between(ranges, size),
        )
        self.files += 1
        self.bytes_total += size
        self._entries.append(pending)
        if state.st_nlink > 1:
            self._remember_link(path, state)
        self._reading = FileReading(file, state, pending, ranges)

    def _read_on(self, view: memoryview) -> int:
        reading = self._reading
        assert reading is not None
        path = reading.pending.entry.path
        if self._hook is not None:
            self._hook("read", path)
        count = reading.fill(view)
        if reading.done:
            self._reading = None
            reading.close()
            if reading.error is not None:
                self._note("unreadable", path, f"reading stopped: {reading.error.strerror}", gap=True)
            elif reading.pending.flags:
                self._note("changed", path, "changed while it was read", gap=False)
        return count

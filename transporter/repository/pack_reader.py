"""Reading records out of packs: one pread each, over a bounded set of open files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from transporter.repository import limits
from transporter.repository.errors import PackGone
from transporter.repository.index import Location
from transporter.repository.layout import Layout
from transporter.repository.record import HEADER_LENGTH


@dataclass(slots=True)
class _OpenPack:
    fd: int
    users: int = 0
    stale: bool = False


class PackReader:
    """Open packs, the least recently used closed first. Thread-safe."""

    def __init__(self, layout: Layout, capacity: int = limits.OPEN_PACKS) -> None:
        self._layout = layout
        self._capacity = capacity
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, _OpenPack] = OrderedDict()

    def read_raw(self, place: Location) -> bytes:
        """Return header and stored bytes of a record, not yet proven. PackGone if its pack is."""
        with self._borrow(place) as fd:
            return os.pread(fd, HEADER_LENGTH + place.entry.stored_length, place.entry.offset)

    @contextmanager
    def _borrow(self, place: Location) -> Iterator[int]:
        with self._lock:
            pack = self._open.get(place.pack)
            if pack is None:
                pack = self._open[place.pack] = _OpenPack(self._open_pack(place))
            self._open.move_to_end(place.pack)
            pack.users += 1
            self._evict()
        try:
            yield pack.fd
        finally:
            with self._lock:
                pack.users -= 1
                if pack.stale and not pack.users:
                    os.close(pack.fd)
                self._evict()

    def _open_pack(self, place: Location) -> int:
        try:
            fd = os.open(self._layout.pack(place.pack), os.O_RDONLY | os.O_CLOEXEC)
            # Most restores read a pack from end to end, and packs are not in the page cache after they were written.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return fd
        except FileNotFoundError:
            raise PackGone(
                f"the pack of chunk {place.entry.chunk_id.hex()} is gone",
                "run `scrub --heal`; the next run of a job that still has the data sends it again",
            ) from None

    def _evict(self) -> None:
        surplus = len(self._open) - self._capacity
        if surplus <= 0:
            return
        for name in [name for name, pack in self._open.items() if not pack.users][:surplus]:
            os.close(self._open.pop(name).fd)

    def forget(self, name: bytes) -> None:
        """Read a pack anew from now on: it was removed, or another file has its name. Whoever reads it finishes."""
        with self._lock:
            self._put_away([name])

    def forget_removed(self) -> None:
        """Let go of the packs without a name: another process has removed them, and their room is free once closed."""
        with self._lock:
            self._put_away([name for name, pack in self._open.items() if not os.fstat(pack.fd).st_nlink])

    def _put_away(self, names: list[bytes]) -> None:
        for name in names:
            pack = self._open.pop(name, None)
            if pack is None:
                continue
            pack.stale = True
            if not pack.users:
                os.close(pack.fd)

    def close(self) -> None:
        """Close all."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1].fd)

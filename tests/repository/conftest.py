from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.repository import ChunkRecord, Repository
from transporter.repository.connections import Connections

DOMAIN = b"D" * 16
KEY = b"K" * 32


@pytest.fixture(autouse=True)
def databases_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what tests leave open that let a process die: the kernel would. (Python 3.13 and later tell of it.)"""
    opened: list[sqlite3.Connection] = []
    connect = Connections._connect

    def remember(self: Connections, cache: int) -> sqlite3.Connection:
        opened.append(connect(self, cache))
        return opened[-1]

    monkeypatch.setattr(Connections, "_connect", remember)
    yield
    for connection in opened:
        connection.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Thousands of fsyncs: in memory, if there is such a file system. (tests/crash works on the disk.)"""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path / "repository"
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "repository"


@pytest.fixture
def repository(place: Path, clock: ManualClock) -> Iterator[Repository]:
    with Repository.create(place, clock=clock) as made:
        yield made


@pytest.fixture
def record() -> Callable[..., ChunkRecord]:
    def make(number: int, key: bytes = KEY, size: int = 100) -> ChunkRecord:
        stored = number.to_bytes(4, "big") * (size // 4)
        return ChunkRecord(number.to_bytes(32, "big"), key, 1, 1000 + number % 1000, stored)

    return make


@pytest.fixture
def bad_sector(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Make one byte of a file unreadable: whatever touches it meets EIO."""
    really_pread = os.pread

    def hit(path: Path, at: int) -> None:
        def pread(fd: int, length: int, offset: int) -> bytes:
            if offset <= at < offset + length and os.path.realpath(f"/proc/self/fd/{fd}") == str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return really_pread(fd, length, offset)

        monkeypatch.setattr(os, "pread", pread)

    return hit


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of about five small records, so that a test meets every step of their lives."""
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 1000)

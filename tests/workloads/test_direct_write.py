"""Direct writes: the same bytes as any other way, past the page cache where the file system lets them."""

from __future__ import annotations

import errno
import itertools
import os
import random

import pytest

from transporter.workloads import direct_write
from transporter.workloads.direct_write import BUFFER, DirectWriter

PAGE = 4096


@pytest.fixture
def target(tmp_path):
    """A file, its folder's descriptor, and its own."""
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT, 0o600)
    yield tmp_path / "f", folder, fd
    os.close(fd)
    os.close(folder)


def pieces(rng: random.Random, total: int) -> list[tuple[int, int]]:
    """Cut ``total`` bytes into (offset, length), some aligned, in random order."""
    cuts = sorted(
        {0, total, *(rng.randrange(total) for _ in range(6)), *(rng.randrange(total // PAGE) * PAGE for _ in range(6))}
    )
    parts = [(a, b - a) for a, b in itertools.pairwise(cuts)]
    rng.shuffle(parts)
    return parts


@pytest.mark.parametrize("seed", range(12))
def test_any_pieces_in_any_order(target, seed):
    path, folder, fd = target
    rng = random.Random(seed)
    data = rng.randbytes(3 * BUFFER + rng.randrange(PAGE))
    writer = DirectWriter(b"f", folder, fd)
    for offset, length in pieces(rng, len(data)):
        writer.write(memoryview(data)[offset : offset + length], offset)
    writer.close()
    assert path.read_bytes() == data


@pytest.mark.parametrize("failure", ["no direct descriptor", "refused by every write", "cut short"])
def test_where_direct_writes_do_not_work_the_plain_way_does(target, monkeypatch, failure):
    path, folder, fd = target
    real_open, real_write = os.open, os.pwrite
    direct: list[int] = []

    def opening(name, flags, *more, **options):
        if flags & os.O_DIRECT and failure == "no direct descriptor":
            raise OSError(errno.EINVAL, "no")
        opened = real_open(name, flags, *more, **options)
        direct.extend([opened] if flags & os.O_DIRECT else [])
        return opened

    def writing(descriptor, data, offset):
        if descriptor in direct and failure == "refused by every write":
            raise OSError(errno.EINVAL, "no")
        if descriptor in direct and failure == "cut short":
            return real_write(descriptor, data[:PAGE], offset)
        return real_write(descriptor, data, offset)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "pwrite", writing)
    data = random.Random(1).randbytes(2 * BUFFER + 17)
    writer = DirectWriter(b"f", folder, fd)
    writer.write(memoryview(data), 0)
    writer.close()
    assert path.read_bytes() == data


def test_a_full_disk_is_not_hidden(target, monkeypatch):
    _, folder, fd = target

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    writer = DirectWriter(b"f", folder, fd)
    monkeypatch.setattr(direct_write.os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        writer.write(memoryview(bytes(PAGE)), 0)
    writer.close()

"""Streams: read to their end, however they trickle."""

from __future__ import annotations

import os
import threading

import pytest

from transporter.errors import JobFailed
from transporter.workloads.stream import StreamReader


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.mark.parametrize("size", [0, 1, 30_000, 90_000, 100_001])
def test_round_trip(pipe, tmp_path, restore, drain_source, size):
    reader, writer = pipe
    data = os.urandom(size)

    def feed():
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view[:7777]) :]
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    stream = StreamReader(reader, "dump.sql")
    copy = drain_source(stream, 10_000, 30_000)
    thread.join()
    stream.close()
    assert copy.read == size == stream.bytes_total
    assert restore(copy, tmp_path / "out") == []
    assert (tmp_path / "out" / "dump.sql").read_bytes() == data


def test_a_silent_stream_lets_go(pipe):
    reader, writer = pipe
    stream = StreamReader(reader, "s", wait_seconds=0)
    buffer = memoryview(bytearray(100))
    assert (stream.fill(buffer), stream.finished) == (0, False)
    os.write(writer, b"abc")
    assert (stream.fill(buffer), stream.finished) == (3, False)
    os.close(writer)
    assert (stream.fill(buffer), stream.finished) == (0, True)
    (pending,) = stream.take_entries()
    assert (pending.size, pending.end) == (3, 3)


def test_a_stream_that_fails_fails_the_job(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    stream = StreamReader(fd, "s")
    with pytest.raises(JobFailed):
        stream.fill(memoryview(bytearray(10)))
    stream.close()

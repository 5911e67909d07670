"""Writing without zero pages: whatever the data and the offset, the file reads the same and holds less."""

from __future__ import annotations

import os
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transporter.workloads import sparse_write
from transporter.workloads.sparse_write import write_at, write_pages

PAGE = 16


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 40), st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0, 0, 1])), max_size=8))
def test_reads_the_same_and_writes_no_zero_page(tmp_path, offset, runs):
    data = b"".join(bytes([value]) * length for length, value in runs)
    written = []

    def write(part, at):
        written.append((at, bytes(part)))
        os.pwrite(fd, part, at)

    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    saved = sparse_write.PAGE, sparse_write.ZERO_PAGE
    sparse_write.PAGE, sparse_write.ZERO_PAGE = PAGE, bytes(PAGE)
    try:
        write_pages(write, memoryview(data), offset)
        os.ftruncate(fd, offset + len(data))
        assert os.pread(fd, 10_000, 0) == bytes(offset) + data
    finally:
        sparse_write.PAGE, sparse_write.ZERO_PAGE = saved
        os.close(fd)
    for at, part in written:
        assert part
        first_whole = -at % PAGE
        pages = [part[i : i + PAGE] for i in range(first_whole, len(part), PAGE)]
        assert all(any(page) for page in pages)


def test_a_real_block(tmp_path):
    block = bytearray(os.urandom(1 << 20))
    block[4096:40960] = bytes(36864)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    write_pages(partial(write_at, fd), memoryview(block), 0)
    assert os.pread(fd, 1 << 20, 0) == block
    assert os.fstat(fd).st_blocks * 512 == (1 << 20) - 36864
    os.close(fd)

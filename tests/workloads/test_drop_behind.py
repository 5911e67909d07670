"""Advice to the page cache behind a long write: which ranges, how often, and that content is untouched."""

from __future__ import annotations

import os

from transporter.workloads.drop_behind import LAG, STEP, DropBehind


def test_every_range_is_advised_twice_and_the_second_time_well_behind(monkeypatch) -> None:
    advised: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: advised.append(call[1:]))
    behind = DropBehind()
    for end in range(1 << 20, LAG + 4 * STEP + 1, 1 << 20):
        behind.wrote(7, end)
    starts = [start for start, length, advice in advised if (length, advice) == (STEP, os.POSIX_FADV_DONTNEED)]
    assert len(starts) == len(advised)
    assert [start for start in starts if starts.count(start) == 2] == [start for start in starts if start < 4 * STEP]
    assert max(starts) == LAG + 3 * STEP


def test_a_file_written_with_it_is_what_was_written(tmp_path) -> None:
    path = tmp_path / "image"
    block = os.urandom(1 << 20)
    behind = DropBehind()
    with open(path, "wb") as file:
        for number in range(64):
            os.pwrite(file.fileno(), block, number << 20)
            behind.wrote(file.fileno(), (number + 1) << 20)
    assert path.read_bytes() == block * 64

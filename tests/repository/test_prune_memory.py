"""What a prune and a new index hold in memory does not grow with the repository."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest import made_up
from tests.repository.prune_world import EVERYTHING
from transporter.clock import ManualClock
from transporter.repository import Repository


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("READ_SIZE", 16 << 10),
        ("PACK_RECORDS", 200),
        ("PRUNE_BATCH", 200),
        ("SORTED_AT_ONCE", 500),
        ("SEEN_SEGMENTS", 20),
        ("MERGED_RUNS", 4),
        ("PACKS_AT_ONCE", 4),
    ):
        monkeypatch.setattr(f"transporter.repository.limits.{name}", value)
    # Of each run that is merged a block is in memory: few runs of few records would show nothing but these.
    monkeypatch.setattr("transporter.repository.sorted_records._BLOCK", 20)
    monkeypatch.setattr("transporter.repository.live_ids._BLOCK", 20)


def peak(place: Path, chunks: int, work: Callable[[Repository], object]) -> int:
    points = made_up.make(place, made_up.Shape(chunks, 6), ManualClock())
    made_up.remove_points(place, points[::2])
    with Repository.open(place, ManualClock()) as repository:
        tracemalloc.start()
        try:
            work(repository)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("work", [lambda opened: opened.prune(EVERYTHING), lambda opened: opened.rebuild_index()])
def test_memory_is_the_same_for_ten_times_as_many_chunks(place, work):
    # Of three each: what the interpreter does for the first time, or now and then, is not of the repository's size.
    small = min(peak(place.with_name(f"small-{number}"), 1_000, work) for number in range(3))
    large = min(peak(place.with_name(f"large-{number}"), 10_000, work) for number in range(3))
    assert large < 1.3 * small + 100_000

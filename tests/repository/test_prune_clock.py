"""Grace goes by the repository's time: a clock that was set ahead ends none of it until somebody confirms."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.repository.prune_world import DAY, NOW, backup, check_sound, known, remove_point
from transporter.clock import ManualClock
from transporter.repository import ClockDoubtful, PruneHooks, PruneOptions, Repository, files, prune_beside

KEEP = PruneOptions()  # a day
DRY = PruneOptions(dry_run=True)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def doomed(tmp_path, clock):
    """A repository in which chunks 10 to 19 are doomed as of now."""
    with Repository.create(tmp_path / "r", clock=clock) as repository:
        backup(repository, 1, range(10))
        backup(repository, 2, range(20))
        remove_point(repository.path, 2)
        assert repository.prune(KEEP).waiting_chunks == 10
        yield repository


def left(repository):
    return known(repository, range(10, 20))


def test_a_clock_far_ahead_deletes_nothing_until_it_is_confirmed(doomed, clock):
    clock.advance(365 * DAY)
    for _ in range(2):
        with pytest.raises(ClockDoubtful, match="nothing is deleted") as caught:
            doomed.prune(KEEP)
        assert "accept-clock" in caught.value.remedy
        with pytest.raises(ClockDoubtful):
            prune_beside(doomed.path, clock, KEEP, PruneHooks())
        # Whatever grace is asked for: it is the clock that is in doubt, and what follows is dated by it.
        with pytest.raises(ClockDoubtful):
            doomed.prune(NOW)
    assert len(left(doomed)) == 10
    doomed.keeping.clock.accept()
    assert doomed.prune(KEEP).deleted_chunks == 10
    check_sound(doomed)


def test_days_within_the_bound_are_believed_and_remembered(doomed, clock):
    for _ in range(3):
        clock.advance(6 * DAY)
        doomed.prune(KEEP)
    assert left(doomed) == set()
    assert doomed.keeping.clock.believed_ns() == clock.now_ns()


@pytest.mark.parametrize(("bound", "deleted"), [(2 * DAY, None), (4 * DAY, 10)])
def test_the_bound_is_the_configured_one(doomed, clock, bound, deleted):
    clock.advance(3 * DAY)
    if deleted is None:
        with pytest.raises(ClockDoubtful):
            prune_beside(doomed.path, clock, KEEP, PruneHooks(), bound)
        assert len(left(doomed)) == 10
    else:
        assert prune_beside(doomed.path, clock, KEEP, PruneHooks(), bound).deleted_chunks == deleted


def test_a_clock_that_jumps_while_a_prune_goes_on_deletes_nothing(doomed, clock):
    jumped = []

    def jump(progress):
        if progress.step == "chunks" and not jumped:
            jumped.append(clock.advance(365 * DAY))

    with pytest.raises(ClockDoubtful):
        doomed.prune(KEEP, PruneHooks(progress=jump))
    assert jumped and len(left(doomed)) == 10
    clock.advance(-365 * DAY)
    doomed.prune(KEEP)
    assert len(left(doomed)) == 10
    clock.advance(DAY + 1)
    assert doomed.prune(KEEP).deleted_chunks == 10


def test_a_clock_set_back_ends_no_grace_earlier_nor_never(doomed, clock):
    clock.advance(0.5 * DAY)
    doomed.keeping.clock.note()
    clock.advance(-3 * DAY)
    assert doomed.prune(KEEP).waiting_chunks == 10
    with pytest.raises(ClockDoubtful, match="far behind"):
        clock.advance(-30 * DAY)
        doomed.prune(KEEP)
    clock.advance(33 * DAY + 0.5 * DAY + 1)
    assert doomed.prune(KEEP).deleted_chunks == 10


def test_what_was_dated_by_a_clock_that_was_ahead_begins_its_grace_when_it_is_set_right(doomed, clock):
    remove_point(doomed.path, 1)
    clock.advance(3650 * DAY)
    doomed.keeping.clock.accept()  # somebody was wrong
    doomed.prune(KEEP)
    assert known(doomed, range(10)) == set(range(10)) and left(doomed) == set()
    clock.advance(-3650 * DAY)
    doomed.keeping.clock.accept()
    doomed.prune(KEEP)
    clock.advance(DAY - 1)
    assert doomed.prune(KEEP).waiting_chunks == 10
    clock.advance(2)
    doomed.prune(KEEP)
    assert known(doomed, range(10)) == set()


def test_a_dry_run_tells_what_the_believed_time_would_free(doomed, clock):
    clock.advance(365 * DAY)
    report = doomed.prune(DRY)
    assert (report.waiting_chunks, report.freed_bytes) == (10, 0)


def test_a_full_disk_keeps_the_time_from_being_noted_and_no_prune_from_freeing_room(doomed, clock, monkeypatch):
    clock.advance(2 * DAY)
    really = files.create

    def full(path, flags=0):
        if Path(path).suffix == ".tmp" and Path(path).parent.name == "journal":
            raise OSError(errno.ENOSPC, "no room")
        return really(path, flags)

    monkeypatch.setattr(files, "create", full)
    before = doomed.keeping.clock.believed_ns()
    # Whole packs alone: to rewrite others takes room.
    assert doomed.prune(PruneOptions(compact_below=0)).deleted_chunks == 10
    assert before == clock.now_ns() and left(doomed) == set()

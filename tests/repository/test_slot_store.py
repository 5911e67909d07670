from __future__ import annotations

import errno
import os

import pytest

from transporter.errors import DamagedData, DiskFull, JobFailed, UsageError
from transporter.repository import PointExists, PointMissing, Repository, SlotChange, files, limits, slot_store
from transporter.repository.slot_store import Replaced

DOMAIN = b"D" * 16
WEEK = 7 * 86400.0
POINTS = [bytes([number]) * 16 for number in range(1, 5)]


@pytest.fixture
def filled(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.close()
    for point in POINTS:
        slots = [(b"a" * 16, b"old of " + point), (b"b" * 16, b"other of " + point)]
        repository.commit_point("t", "job", point, b"head", record(1).chunk_id, domain=DOMAIN, slots=slots)
    return repository


def change_of(point, slot_id=b"n", replaces=(b"a",)):
    return SlotChange(point, slot_id * 16, b"new of " + point, tuple(name * 16 for name in replaces))


CHANGES = [change_of(point) for point in POINTS]


def new_only(repository):
    return all(
        repository.slots(point) == {b"n" * 16: b"new of " + point, b"b" * 16: b"other of " + point} for point in POINTS
    )


def test_new_slots_take_the_place_of_old_ones(filled, clock):
    done = filled.replace_slots("t", "job", CHANGES, WEEK)
    until = done.kept_until_ns
    assert new_only(filled)
    assert (done.points, until) == (len(POINTS), clock.now_ns() + int(WEEK * 1e9))
    assert filled.replaced_slots(POINTS[0]) == {b"a" * 16: until}
    assert filled.scrub().clean


def test_replaced_slots_stay_until_their_time_is_over(filled, clock, place):
    filled.replace_slots("t", "job", CHANGES, WEEK)
    clock.advance(WEEK - 1)
    assert filled.purge_replaced_slots(filled.slot_folders()) == 0
    filled.keeping.clock.note()
    clock.advance(2)
    assert filled.purge_replaced_slots(filled.slot_folders()[:1]) == 1
    assert filled.purge_replaced_slots(filled.slot_folders()) == len(POINTS) - 1
    assert filled.replaced_slots(POINTS[0]) == {} and new_only(filled)
    assert len(list((place / "slots" / POINTS[0].hex()).iterdir())) == 2


def test_a_clock_that_was_set_ahead_ends_no_time(filled, clock):
    filled.replace_slots("t", "job", CHANGES, WEEK)
    clock.advance(10 * WEEK)
    assert filled.purge_replaced_slots(filled.slot_folders()) == 0
    filled.keeping.clock.accept()
    assert filled.purge_replaced_slots(filled.slot_folders()) == len(POINTS)


def test_a_clock_that_is_behind_makes_their_time_no_shorter(filled, clock):
    filled.keeping.clock.accept()
    seen = clock.now_ns()
    clock.advance(-3 * 86_400)
    done = filled.replace_slots("t", "job", CHANGES, WEEK)
    assert done.kept_until_ns == seen + int(WEEK * 1e9)


def test_without_keeping_they_are_gone_at_once(filled):
    assert filled.replace_slots("t", "job", CHANGES, 0) == Replaced(len(POINTS), 0)
    assert new_only(filled) and filled.replaced_slots(POINTS[0]) == {}


def test_the_same_change_again_changes_nothing(filled, monkeypatch):
    filled.replace_slots("t", "job", CHANGES, WEEK)
    monkeypatch.setattr(slot_store, "sync_all", lambda _fd: pytest.fail("a flush"))
    assert filled.replace_slots("t", "job", CHANGES, WEEK) == Replaced(0, 0)
    assert filled.replace_slots("t", "job", [], WEEK) == Replaced(0, 0)
    assert new_only(filled)


def test_an_id_is_not_used_twice(filled):
    """Else two kept slots would have one name, and nobody could tell which to bring back."""
    filled.replace_slots("t", "job", CHANGES, WEEK)
    again = SlotChange(POINTS[0], b"a" * 16, b"another", (b"n" * 16,))
    with pytest.raises(UsageError, match="id"):
        filled.replace_slots("t", "job", [again], WEEK)


def test_another_slot_under_the_same_id_is_refused(filled):
    filled.replace_slots("t", "job", CHANGES, WEEK)
    with pytest.raises(PointExists, match="differs"):
        filled.replace_slots("t", "job", [SlotChange(POINTS[0], b"n" * 16, b"another")], WEEK)
    assert new_only(filled)


def test_a_point_keeps_its_last_slot(filled):
    for change in (
        SlotChange(POINTS[0], bytes(16), b"", (b"a" * 16, b"b" * 16)),
        SlotChange(POINTS[0], b"a" * 16, b"old of " + POINTS[0], (b"a" * 16, b"b" * 16)),
    ):
        with pytest.raises(UsageError):
            filled.replace_slots("t", "job", [*CHANGES[1:], change], WEEK)
    # Nothing of such a request is done, not even its sound parts.
    assert all(set(filled.slots(point)) == {b"a" * 16, b"b" * 16} for point in POINTS)
    filled.replace_slots("t", "job", [SlotChange(POINTS[0], bytes(16), b"", (b"a" * 16,))], WEEK)
    assert set(filled.slots(POINTS[0])) == {b"b" * 16}


def test_only_points_of_that_job_and_tenant(filled):
    for tenant, job in (("u", "job"), ("t", "other")):
        with pytest.raises(PointMissing):
            filled.replace_slots(tenant, job, CHANGES, WEEK)
    with pytest.raises(PointMissing):
        filled.replace_slots("t", "job", [change_of(b"z" * 16)], WEEK)
    assert set(filled.slots(POINTS[0])) == {b"a" * 16, b"b" * 16}


def test_replaced_slots_are_bounded(filled):
    current = b"a"
    with pytest.raises(UsageError, match="replaced"):
        for number in range(50):
            change = SlotChange(POINTS[0], bytes([number]) * 16, b"x", (current * 16,))
            filled.replace_slots("t", "job", [change], WEEK)
            current = bytes([number])
    assert number == limits.REPLACED_PER_POINT and len(filled.slots(POINTS[0])) == 2


def test_slots_in_use_are_bounded_by_whoever_asks(filled):
    with pytest.raises(UsageError, match="at most 2"):
        filled.replace_slots("t", "job", [change_of(POINTS[0], replaces=())], WEEK, 2)
    filled.replace_slots("t", "job", [change_of(POINTS[0])], WEEK, 2)


def test_a_slot_that_goes_while_it_is_looked_at_is_no_damage(filled, monkeypatch):
    done = []
    real = slot_store._read

    def read(path):
        if not done and path.endswith((b"a" * 16).hex()):
            done.append(filled.replace_slots("t", "job", CHANGES, WEEK))
        return real(path)

    monkeypatch.setattr(slot_store, "_read", read)
    assert set(filled.slots(POINTS[0])) == {b"n" * 16, b"b" * 16}
    assert done


def test_an_exchange_does_not_read_the_folder_again(filled, monkeypatch):
    slots, names = filled.slots_and_names(POINTS[0])
    assert set(names) == {slot_id.hex() for slot_id in slots}
    looked = []
    real = files.names_in
    monkeypatch.setattr(files, "names_in", lambda folder: looked.append(folder) or real(folder))
    exchange = SlotChange(POINTS[0], b"n" * 16, b"new of " + POINTS[0], tuple(slots), names)
    assert filled.replace_slots("t", "job", [exchange], WEEK).points == 1
    assert [folder for folder in looked if "locks" not in str(folder)] == []
    # Its own bound is kept all the same: what it replaces is kept, too.
    many = (*names, *(f"{number:032x}.{number}" for number in range(limits.REPLACED_PER_POINT - 1)))
    with pytest.raises(UsageError, match="replaced"):
        filled.replace_slots("t", "job", [SlotChange(POINTS[0], b"m" * 16, b"x", (b"a" * 16, b"b" * 16), many)], WEEK)
    # What is no exchange is looked at, whatever the caller has seen.
    for change in (
        SlotChange(POINTS[0], bytes(16), b"", (b"n" * 16,), ("f" * 32,)),
        SlotChange(POINTS[0], b"n" * 16, b"another", (), ()),
    ):
        with pytest.raises((UsageError, PointExists)):
            filled.replace_slots("t", "job", [change], WEEK)
    assert set(filled.slots(POINTS[0])) == {b"n" * 16}


def test_beside_a_writer_and_without_its_lock(filled, place, clock):
    with Repository.open(place, clock, writable=False) as beside:
        beside.replace_slots("t", "job", CHANGES, WEEK)
    assert new_only(filled)


def opens(repository, point):
    """Every point has a slot that opens it, by the old password or by the new one."""
    return {b"old of " + point, b"new of " + point} & set(repository.slots(point).values())


@pytest.mark.parametrize("step", ["create", "write", "replace", "sync_all"])
@pytest.mark.parametrize("at", range(4))
def test_a_disk_that_fails_at_any_step_costs_no_point(filled, monkeypatch, step, at):
    module = slot_store if step == "sync_all" else files
    real, calls = getattr(module, step), []

    def fails(*arguments):
        calls.append(1)
        if len(calls) == at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(module, step, fails)
    if len(POINTS) > at and not (step == "sync_all" and at > 2):
        with pytest.raises(DiskFull):
            filled.replace_slots("t", "job", CHANGES, WEEK)
    monkeypatch.undo()
    assert all(opens(filled, point) for point in POINTS)
    filled.replace_slots("t", "job", CHANGES, WEEK)
    assert new_only(filled) and filled.scrub().clean


def test_names_are_durable_before_any_old_slot_goes(filled, monkeypatch):
    seen = []
    monkeypatch.setattr(slot_store, "sync_all", lambda _fd: seen.append("sync"))
    real = files.replace

    def renamed(source, target):
        seen.append("shown" if source.endswith(".tmp") else "put away")
        real(source, target)

    monkeypatch.setattr(files, "replace", renamed)
    filled.replace_slots("t", "job", CHANGES[:2], WEEK)
    assert seen == ["sync", "shown", "shown", "sync", "put away", "put away", "sync"]


def test_a_disk_that_forgets_is_told_of(filled, monkeypatch):
    def fails(_fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(slot_store, "sync_all", fails)
    with pytest.raises((DamagedData, JobFailed)):
        filled.replace_slots("t", "job", CHANGES, WEEK)
    assert all(b"old of " + point in filled.slots(point).values() for point in POINTS)

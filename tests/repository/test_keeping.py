from __future__ import annotations

import fcntl
import os
from dataclasses import replace

import pytest
from blake3 import blake3
from msgspec import structs

from transporter.clock import ManualClock
from transporter.errors import DamagedData, UnsupportedFormat, UsageError
from transporter.points.point_rows import point_rows
from transporter.repository import (
    PROVIDER,
    ClockDoubtful,
    Origin,
    PointExists,
    PointKept,
    PointMissing,
    Repository,
    RepositoryBusy,
    Rules,
    SlotChange,
    Waived,
    format_file,
)
from transporter.repository.limits import SLOTS_PER_POINT
from transporter.repository.point_head import PointHead, encode_head
from transporter.repository.point_store import PointStore
from transporter.retention import KeepPolicy, Minimum

DOMAIN = b"D" * 16
DAY = 86_400.0
NS = 10**9
IDS = [bytes([number]) * 16 for number in range(1, 6)]


def commit(repository, record, point, *, tenant="t", job="job", **how):
    slots = [(b"a" * 16, b"slot of " + point)]
    return repository.commit_point(tenant, job, point, b"head", record(1).chunk_id, domain=DOMAIN, slots=slots, **how)


@pytest.fixture
def filled(repository, record, clock):
    """Five points, a day apart; the clock stands at the last one's time."""
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.close()
    for point in IDS:
        clock.advance(DAY)
        commit(repository, record, point)
    return repository


def ids(repository, job="job", tenant="t"):
    return [ref.point_id for ref in repository.points(tenant, job)]


def left_of(repository, point):
    """The names of files that are about a point, anywhere."""
    return sorted(
        str(path.relative_to(repository.path))
        for path in repository.path.rglob("*")
        if point.hex() in str(path.relative_to(repository.path)) and path.is_file()
    )


# --- removing ---------------------------------------------------------------------------------------------------


def test_a_removed_point_leaves_nothing_behind_and_its_keys_are_told(filled):
    gone = []
    filled.keeping.pin("t", "job", IDS[1], "audit", "t")
    (outcome,) = filled.keeping.remove("t", "job", [IDS[0]], "t", on_gone=gone.extend)
    assert (outcome.refused, outcome.until_ns) == ("", 0)
    assert ids(filled) == IDS[1:]
    assert left_of(filled, IDS[0]) == []
    assert not (filled.path / "slots" / IDS[0].hex()).exists()
    assert gone == [IDS[0]]
    assert filled.scrub().clean


def test_what_is_not_there_counts_as_gone(filled):
    (outcome,) = filled.keeping.remove("t", "job", [b"x" * 16], "t")
    assert outcome.refused == ""
    assert filled.keeping.remove("t", "none", [IDS[0]], "t")[0].refused == ""
    assert ids(filled) == IDS


def test_the_recycle_bin_keeps_a_point_whole_until_its_time_is_over(filled, record, clock):
    filled.keeping.rules = Rules(recycle=7 * DAY)
    gone = []
    (outcome,) = filled.keeping.remove("t", "job", [IDS[2]], "t", on_gone=gone.extend)
    assert outcome.until_ns == clock.now_ns() + int(7 * DAY * NS)
    assert ids(filled) == [*IDS[:2], *IDS[3:]]
    (in_bin,) = filled.keeping.recycled("t")
    assert (in_bin.ref.point_id, in_bin.until_ns, in_bin.by) == (IDS[2], outcome.until_ns, "t")
    assert filled.slots(IDS[2])
    assert list(filled._points.read_recycled_needs("t", "job", IDS[2], outcome.until_ns)) == [record(1).chunk_id]
    clock.advance(7 * DAY - 1)
    assert filled.keeping.purge(gone.extend) == 0
    assert gone == []
    assert filled.scrub().clean
    clock.advance(2)
    assert filled.keeping.purge(gone.extend) == 1
    assert gone == [IDS[2]]
    assert left_of(filled, IDS[2]) == []
    assert filled.keeping.recycled("t") == []


def test_a_point_comes_back_from_the_recycle_bin_as_it_was(filled):
    before = filled.point("t", "job", IDS[2])
    filled.keeping.rules = Rules(recycle=DAY)
    filled.keeping.remove("t", "job", IDS[1:4], "t")
    assert filled.keeping.undelete("t", "job", IDS[2]) == before
    assert filled.point("t", "job", IDS[2]) == before
    assert ids(filled) == [IDS[0], IDS[2], IDS[4]]
    assert filled.slots(IDS[2]) == {b"a" * 16: b"slot of " + IDS[2]}
    filled.keeping.purge()
    assert ids(filled) == [IDS[0], IDS[2], IDS[4]]
    with pytest.raises(PointMissing, match="recycle bin"):
        filled.keeping.undelete("t", "job", IDS[2])


def test_nothing_is_brought_back_while_a_prune_looks_for_what_is_needed(filled):
    filled.keeping.rules = Rules(recycle=DAY)
    filled.keeping.remove("t", "job", IDS[:1], "t")
    fd = os.open(filled.path / "leases" / "prune", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(RepositoryBusy, match="prune"):
            filled.keeping.undelete("t", "job", IDS[0])
    finally:
        os.close(fd)
    filled.keeping.undelete("t", "job", IDS[0])


def test_a_point_of_that_id_elsewhere_keeps_its_slots_pin_and_lock(filled, record):
    """Ids name slots for all tenants: removing one's own point must not take another's keys away."""
    filled.keeping.pin("t", "job", IDS[0], "mine", "t")
    commit(filled, record, IDS[0], tenant="thief")
    gone = []
    filled.keeping.remove("thief", "job", [IDS[0]], "thief", waived=Waived(pins=True), on_gone=gone.extend)
    assert ids(filled, tenant="thief") == []
    assert filled.slots_of("t", "job", IDS[0])
    assert filled.keeping.pin_of(IDS[0]).by == "t"
    assert gone == []
    assert filled.read_head("t", "job", IDS[0]) == b"head"


def test_older_programs_refuse_a_repository_with_own_names(filled, record, clock, monkeypatch):
    """They would take what lies under an own name for an orphan."""
    before = format_file.decode((filled.path / "format").read_bytes())
    commit(filled, record, b"n" * 16, tenant="other")
    assert format_file.decode((filled.path / "format").read_bytes()) == before
    for tenant in ("other", "third"):
        commit(filled, record, IDS[0], tenant=tenant)
    after = format_file.decode((filled.path / "format").read_bytes())
    assert after == structs.replace(before, features=["own-names"])
    Repository.open(filled.path, clock, writable=False).close()
    monkeypatch.setattr(format_file, "KNOWN_FEATURES", frozenset())
    with pytest.raises(UnsupportedFormat, match="own-names"):
        Repository.open(filled.path, clock, writable=False)


def test_a_point_of_that_id_elsewhere_has_its_own_slots_pin_and_lock(filled, record, clock):
    """Whoever holds the backups of a tenant knows their ids, and may be a tenant here as well."""
    filled.keeping.rules = Rules(immutable=2 * DAY, recycle=5 * DAY)
    used = filled._points.size_of("t")
    commit(filled, record, IDS[1], tenant="thief", job="another")
    clock.advance(60)
    commit(filled, record, IDS[0], tenant="thief")
    mine, theirs = (filled.slots_of(tenant, "job", IDS[0]) for tenant in ("t", "thief"))
    rob = SlotChange(IDS[0], b"n" * 16, b"rubbish", tuple({*mine, *theirs}))
    filled.replace_slots("thief", "job", [rob], keep_seconds=0)
    assert filled.slots_of("t", "job", IDS[0]) == mine
    assert filled.slots_of("thief", "job", IDS[0]) == {b"n" * 16: b"rubbish"}
    filled.keeping.pin("thief", "job", IDS[0], "not yours", "thief")
    pins = {tenant: filled.keeping.candidates(tenant, "job")[0].pinned for tenant in ("t", "thief")}
    assert pins == {"t": None, "thief": "not yours"}
    listed = point_rows(filled, filled.points("thief"))
    assert [(row["job"], row["pinned"], row["pinned_by"]) for row in listed if row["pinned"]] == [
        ("job", "not yours", "thief")
    ]
    assert filled._points.size_of("t") == used
    # It was not locked anew: by the configuration it is locked from when it came, and that was long ago.
    assert filled.keeping.locked_until(filled.belongings("t", "job", IDS[0])) == 0
    clock.advance(3 * DAY)
    (gone,) = filled.keeping.remove("t", "job", [IDS[0]], "t")
    assert not gone.refused
    filled.keeping.unpin("thief", "job", IDS[0], "thief")
    filled.keeping.remove("thief", "job", [IDS[0]], "thief")
    filled.keeping.remove("thief", "another", [IDS[1]], "thief")
    assert [each.by for each in filled.keeping.recycled("t")] == ["t"]
    filled.keeping.undelete("t", "job", IDS[0])
    assert filled.slots_of("t", "job", IDS[0]) == mine
    clock.advance(6 * DAY)
    filled.keeping.purge()
    assert filled.slots_of("t", "job", IDS[0]) == mine and ids(filled, tenant="thief") == []
    left = {path.name for folder in ("slots", "pins", "tombstones") for path in (filled.path / folder).iterdir()}
    assert left == {point.hex() for point in IDS}
    assert filled.scrub().clean


def test_what_was_there_under_its_id_before_a_point_came_is_not_among_its_slots(filled):
    """Slots lie there before their point. Somebody who knew the id may have stored some, and no point."""
    new = b"n" * 16
    for number in range(SLOTS_PER_POINT):
        filled.put_slot(new, bytes([number]) * 16, b"rubbish")
    filled.commit_point("t", "job", new, b"head", b"", domain=DOMAIN, slots=[(b"a" * 16, b"slot")])
    assert filled.slots_of("t", "job", new) == {b"a" * 16: b"slot"}
    filled.keeping.remove("t", "job", [new], "t")
    assert not [path for path in (filled.path / "slots").iterdir() if path.name not in {i.hex() for i in IDS}]


def test_a_point_that_was_removed_may_be_committed_again(filled, record, clock):
    """As a copy does. The removal of the first must not take the second away."""
    filled.keeping.rules = Rules(recycle=DAY)
    filled.keeping.remove("t", "job", [IDS[0]], "t")
    commit(filled, record, IDS[0])
    with pytest.raises(PointExists):
        filled.keeping.undelete("t", "job", IDS[0])
    clock.advance(2 * DAY)
    filled.keeping.purge()
    assert IDS[0] in ids(filled)
    assert filled.slots_of("t", "job", IDS[0])
    assert filled.keeping.recycled("t") == []


def test_what_is_removed_beside_a_running_writer_is_gone_for_it_too(filled, clock):
    with Repository.open(filled.path, clock, writable=False) as beside:
        beside.keeping.remove("t", "job", IDS[:2], PROVIDER)
    assert ids(filled) == IDS[2:]


def test_the_recycle_bin_counts_for_the_quota(filled):
    used = filled._points.size_of("t")
    filled.keeping.rules = Rules(recycle=DAY)
    filled.keeping.remove("t", "job", IDS[:2], "t")
    assert filled._points.size_of("t") == used
    filled.keeping.remove("t", "job", IDS[2:3], "t", waived=Waived(recycle_bin=True))
    assert filled._points.size_of("t") < used


def test_a_damaged_point_can_be_removed(filled):
    path = filled.path / "points" / "t" / "job" / IDS[0].hex()
    path.write_bytes(path.read_bytes()[:-1])
    filled.keeping.remove("t", "job", [IDS[0]], "t")
    assert left_of(filled, IDS[0]) == []


# --- pins -------------------------------------------------------------------------------------------------------


def test_a_pin_keeps_a_point_until_it_is_unpinned(filled):
    filled.keeping.pin("t", "job", IDS[0], "before the migration", "t")
    (outcome,) = filled.keeping.remove("t", "job", [IDS[0]], "t")
    assert "pinned: before the migration" in outcome.refused
    assert [each.pinned for each in filled.keeping.candidates("t", "job")] == ["before the migration", *[None] * 4]
    assert filled.keeping.unpin("t", "job", IDS[0], "t")
    assert not filled.keeping.unpin("t", "job", IDS[0], "t")
    assert filled.keeping.remove("t", "job", [IDS[0]], "t")[0].refused == ""


def test_a_pin_on_a_missing_point_is_refused(filled):
    with pytest.raises(PointMissing):
        filled.keeping.pin("t", "job", b"x" * 16, "why", "t")
    assert list((filled.path / "pins").iterdir()) == []


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "a\x1b[2Jb"])
def test_a_pin_needs_a_reason_that_can_be_shown(filled, reason):
    with pytest.raises(UsageError):
        filled.keeping.pin("t", "job", IDS[0], reason, "t")


def test_only_whoever_set_a_pin_and_the_provider_take_it_away(filled):
    filled.keeping.pin("t", "job", IDS[0], "court order", PROVIDER)
    for attempt in (
        lambda: filled.keeping.unpin("t", "job", IDS[0], "t"),
        lambda: filled.keeping.pin("t", "job", IDS[0], "mine now", "t"),
    ):
        with pytest.raises(PointKept, match="provider"):
            attempt()
    waived = Waived(pins=True, minimum=True, recycle_bin=True)
    assert "court order" in filled.keeping.remove("t", "job", [IDS[0]], "t", waived=waived)[0].refused
    assert filled.keeping.remove("t", "job", [IDS[0]], PROVIDER, waived=waived)[0].refused == ""


def test_a_damaged_pin_keeps(filled):
    filled.keeping.pin("t", "job", IDS[0], "why", "t")
    path = filled.path / "pins" / IDS[0].hex()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "damaged" in filled.keeping.remove("t", "job", [IDS[0]], "t")[0].refused
    assert next(each.pinned for each in filled.keeping.candidates("t", "job")) == "its pin is damaged"
    assert any("pins/" in finding.where for finding in filled.scrub().damage)


# --- locks ------------------------------------------------------------------------------------------------------

EVERYTHING = Waived(pins=True, minimum=True, recycle_bin=True)


def test_an_immutable_repository_locks_each_point_before_it_is_there(filled, record, clock):
    filled.keeping.rules = Rules(immutable=14 * DAY)
    commit(filled, record, b"n" * 16)
    until = clock.now_ns() + int(14 * DAY * NS)
    assert filled.keeping.locked_until(b"n" * 16) == until
    filled.keeping.rules = Rules()  # taken out of the configuration: the lock is in the repository
    for by in ("t", PROVIDER):
        (outcome,) = filled.keeping.remove("t", "job", [b"n" * 16], by, waived=EVERYTHING)
        assert "locked until" in outcome.refused
    clock.advance(6.9 * DAY)
    filled.keeping.purge()
    clock.advance(6.9 * DAY)
    assert filled.keeping.remove("t", "job", [b"n" * 16], PROVIDER, waived=EVERYTHING)[0].refused
    clock.advance(0.3 * DAY)
    assert filled.keeping.remove("t", "job", [b"n" * 16], "t")[0].refused == ""
    assert left_of(filled, b"n" * 16) == []


def test_points_from_before_the_repository_became_immutable_are_locked_by_their_age(filled, clock):
    filled.keeping.rules = Rules(immutable=3 * DAY)
    outcomes = filled.keeping.remove("t", "job", IDS, PROVIDER, waived=EVERYTHING)
    assert [bool(outcome.refused) for outcome in outcomes] == [False, False, True, True, True]


def test_a_lock_is_never_shortened(filled, clock):
    far = clock.now_ns() + int(30 * DAY * NS)
    assert filled.keeping.lock("t", "job", IDS[0], far) == far
    assert filled.keeping.lock("t", "job", IDS[0], clock.now_ns()) == far
    assert filled.keeping.locked_until(IDS[0]) == far
    assert filled.keeping.lock("t", "job", IDS[0], far + NS) == far + NS


def test_a_damaged_lock_has_no_end(filled, clock):
    filled.keeping.lock("t", "job", IDS[0], clock.now_ns() + NS)
    path = filled.path / "locks" / IDS[0].hex()
    path.write_bytes(b"")
    clock.advance(DAY)
    assert "locked" in filled.keeping.remove("t", "job", [IDS[0]], PROVIDER, waived=EVERYTHING)[0].refused
    filled.keeping.purge()
    assert path.exists()


def test_expired_locks_do_not_gather(filled, clock):
    filled.keeping.lock("t", "job", IDS[0], clock.now_ns() + NS)
    clock.advance(2)
    filled.keeping.purge()
    assert list((filled.path / "locks").iterdir()) == []


def test_a_locked_points_old_slots_are_kept_until_its_lock_ends(filled, clock):
    """Else a thief of a tenant's identity replaces them, waits, and a point that cannot be removed is useless."""
    until = clock.now_ns() + int(6 * DAY * NS)
    filled.keeping.lock("t", "job", IDS[0], until)
    for point in IDS[:2]:
        filled.replace_slots("t", "job", [SlotChange(point, b"n" * 16, b"new", (b"a" * 16,))], keep_seconds=0)
    assert filled.replaced_slots(IDS[0]) == {b"a" * 16: until}
    assert filled.replaced_slots(IDS[1]) == {}
    clock.advance(5 * DAY)
    filled.purge_replaced_slots(filled.slot_folders())
    assert filled.replaced_slots(IDS[0])


@pytest.mark.parametrize("rules", [Rules(minimum=Minimum(age=6 * DAY)), Rules(immutable=6 * DAY)])
def test_old_slots_are_kept_as_long_as_no_tenant_may_remove_their_point(filled, clock, rules):
    """The point has no lock of its own: the rules came later. It is four days old, its time ends in two."""
    filled.keeping.rules = rules
    change = [SlotChange(IDS[0], b"n" * 16, b"new", (b"a" * 16,))]
    done = filled.replace_slots("t", "job", change, keep_seconds=DAY)
    until = filled.points("t", "job")[0].committed_ns + int(6 * DAY * NS)
    assert filled.replaced_slots(IDS[0]) == {b"a" * 16: until}
    assert done.kept_until_ns == until
    clock.advance(1.9 * DAY)
    filled.purge_replaced_slots(filled.slot_folders())
    assert filled.replaced_slots(IDS[0])
    clock.advance(0.2 * DAY)
    filled.purge_replaced_slots(filled.slot_folders())
    assert filled.replaced_slots(IDS[0]) == {}


def test_old_slots_are_kept_as_long_as_a_removed_point_and_go_with_it(filled, clock):
    """Who replaces a point's slots and then removes it must not make useless what is brought back."""
    filled.keeping.rules = Rules(recycle=6 * DAY)
    change = [SlotChange(IDS[0], b"n" * 16, b"rubbish", (b"a" * 16,))]
    until = filled.replace_slots("t", "job", change, keep_seconds=DAY).kept_until_ns
    assert until == clock.now_ns() + int(6 * DAY * NS)
    clock.advance(5 * DAY)
    filled.keeping.remove("t", "job", [IDS[0]], "t")
    clock.advance(5 * DAY)
    filled.purge_replaced_slots(filled.slot_folders())
    assert filled.replaced_slots(IDS[0]) == {b"a" * 16: until}
    clock.advance(2 * DAY)
    filled.keeping.purge()
    assert left_of(filled, IDS[0]) == []


def test_old_slots_stay_with_a_recycled_point_when_another_of_its_id_is_committed(filled, record, clock):
    """Anybody who knows the id can do that; it says who removed it all the same."""
    filled.keeping.rules = Rules(recycle=6 * DAY)
    change = [SlotChange(IDS[0], b"n" * 16, b"rubbish", (b"a" * 16,))]
    filled.replace_slots("t", "job", change, keep_seconds=DAY)
    clock.advance(5 * DAY)
    filled.keeping.remove("t", "job", [IDS[0]], "t")
    commit(filled, record, IDS[0], tenant="other")
    assert [each.by for each in filled.keeping.recycled("t")] == ["t"]
    clock.advance(2 * DAY)
    filled.purge_replaced_slots(filled.slot_folders())
    assert filled.replaced_slots(IDS[0])


def test_old_slots_of_a_copy_are_kept_from_when_it_came(filled, clock):
    filled.keeping.rules = Rules(minimum=Minimum(age=6 * DAY))
    origin = Origin(b"R" * 16, "there", clock.now_ns() - int(90 * DAY * NS), b"h" * 32, resealed=True)
    slots = [(b"a" * 16, b"slot")]
    copy = b"c" * 16
    filled.commit_point("t", "copies", copy, b"head", b"", domain=DOMAIN, slots=slots, origin=origin)
    filled.replace_slots("t", "copies", [SlotChange(copy, b"n" * 16, b"new", (b"a" * 16,))], keep_seconds=0)
    assert filled.replaced_slots(copy) == {b"a" * 16: clock.now_ns() + int(6 * DAY * NS)}


def test_a_copy_is_committed_without_a_look_at_the_points_that_are_there(filled, clock, monkeypatch):
    """Else a copy of a whole repository would take a time that grows with the square of its points."""

    def look(*_args, **_more):
        raise AssertionError("looked at other points")

    monkeypatch.setattr(PointStore, "listed", look)
    monkeypatch.setattr(PointStore, "size_of", look)
    origin = Origin(b"R" * 16, "there", clock.now_ns() - int(90 * DAY * NS), b"h" * 32, resealed=True)
    filled.commit_point("t", "job", b"c" * 16, b"head", b"", domain=DOMAIN, origin=origin)
    monkeypatch.undo()
    assert filled.points("t", "job")[0].point_id == b"c" * 16


def test_a_damaged_points_old_slots_are_kept_as_if_it_had_come_just_now(filled, clock):
    filled.keeping.rules = Rules(minimum=Minimum(age=6 * DAY))
    (filled.path / "points" / "t" / "job" / IDS[0].hex()).write_bytes(b"rubbish")
    filled.replace_slots("t", "job", [SlotChange(IDS[0], b"n" * 16, b"new", (b"a" * 16,))], keep_seconds=0)
    assert filled.replaced_slots(IDS[0]) == {b"a" * 16: clock.now_ns() + int(6 * DAY * NS)}


# --- the provider's minimum -------------------------------------------------------------------------------------


def test_the_providers_minimum_cannot_be_undercut_by_a_tenant(filled):
    filled.keeping.rules = Rules(minimum=Minimum(age=3.5 * DAY))
    outcomes = filled.keeping.remove("t", "job", IDS, "t", waived=Waived(pins=True))
    assert ["3.5" in outcome.refused or "84h" in outcome.refused for outcome in outcomes] == [False, *[True] * 4]
    filled.keeping.rules = Rules(minimum=Minimum(policy=KeepPolicy(last=2)))
    outcomes = filled.keeping.remove("t", "job", IDS, "t")
    assert [bool(outcome.refused) for outcome in outcomes] == [False, False, False, True, True]
    assert filled.keeping.remove("t", "job", IDS, PROVIDER, waived=Waived(minimum=True))[4].refused == ""


# --- clocks -----------------------------------------------------------------------------------------------------


def test_a_clock_that_was_set_back_opens_nothing_and_loses_nothing(filled, record, clock):
    filled.keeping.rules = Rules(immutable=3 * DAY, recycle=DAY)
    filled.keeping.purge()
    before = clock.wall_ns
    clock.wall_ns -= int(5 * DAY * NS)
    assert filled.keeping.clock.now_ns() >= before - 3600 * NS
    assert "locked" in filled.keeping.remove("t", "job", [IDS[4]], PROVIDER, waived=EVERYTHING)[0].refused
    commit(filled, record, b"n" * 16)
    assert ids(filled)[-1] == b"n" * 16
    assert filled.keeping.locked_until(b"n" * 16) >= before + int(3 * DAY * NS) - 3600 * NS


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumps_years_deletes_nothing_until_somebody_confirms(filled, clock, years):
    filled.keeping.rules = Rules(immutable=14 * DAY, recycle=DAY)
    filled.keeping.lock("t", "job", IDS[0], clock.now_ns() + int(100 * DAY * NS))
    filled.keeping.purge()
    clock.wall_ns += int(years * 365 * DAY * NS)
    with Repository.open(filled.path, clock, writable=False) as again:  # also in a process that begins then
        for keeping in (filled.keeping, again.keeping):
            for attempt in (
                lambda keeping=keeping: keeping.remove("t", "job", [IDS[0]], PROVIDER, waived=EVERYTHING),
                keeping.purge,
            ):
                with pytest.raises(ClockDoubtful, match="accept-clock"):
                    attempt()
    assert ids(filled) == IDS
    filled.keeping.clock.accept()
    (outcome,) = filled.keeping.remove("t", "job", [IDS[0]], PROVIDER, waived=EVERYTHING)
    assert bool(outcome.refused) == (years < 0)


def test_a_commit_under_a_forged_clock_does_not_make_it_believed(filled, record, clock):
    filled.keeping.rules = Rules(immutable=14 * DAY)
    filled.keeping.purge()
    honest = clock.wall_ns
    clock.wall_ns += int(365 * DAY * NS)
    commit(filled, record, b"n" * 16)
    with pytest.raises(ClockDoubtful):
        filled.keeping.remove("t", "job", [IDS[4]], PROVIDER, waived=EVERYTHING)
    clock.wall_ns = honest
    assert "locked" in filled.keeping.remove("t", "job", [IDS[4]], PROVIDER, waived=EVERYTHING)[0].refused


def said(made_ns):
    """A head that says when its point was made."""
    names = {"point_id": b"p" * 16, "tenant": "t", "job": "job", "kind": "full", "zone": "none", "workload": "tree"}
    head = PointHead(
        **names, created_ns=made_ns, encrypted=False, domain=DOMAIN, manifest=[], needs_hash=blake3().digest()
    )
    return encode_head(head)


@pytest.mark.parametrize("years", [0.01, 10])
def test_a_point_of_a_clock_that_was_ahead_is_dated_by_who_made_it_and_so_is_the_next_one(filled, clock, years):
    """Else no rule would count it, nor any later one of its job, until that time comes."""
    filled.keeping.purge()
    true = clock.wall_ns + int(DAY * NS)
    for number, wall in ((1, true + int(years * 365 * DAY * NS)), (2, true + 60 * NS)):
        clock.wall_ns = wall
        filled.commit_point("t", "job", bytes([100 + number]) * 16, said(true + number), b"", domain=DOMAIN)
    first, second = filled.points("t", "job")[-2:]
    believed = years < 1  # within what the repository believes
    assert first.committed_ns == (true + int(years * 365 * DAY * NS) if believed else true + 1)
    assert second.committed_ns == (first.committed_ns + 1 if believed else true + 60 * NS)


@pytest.mark.parametrize("off", [-400, -1, 0.5])
def test_nobody_dates_a_point_before_what_the_repository_has_seen_nor_after_its_clock(filled, clock, off):
    filled.keeping.purge()
    seen = clock.wall_ns
    clock.wall_ns += int(365 * DAY * NS)
    made = seen + int(off * 365 * DAY * NS)
    filled.commit_point("t", "job", b"n" * 16, said(max(0, made)), b"", domain=DOMAIN)
    assert filled.points("t", "job")[-1].committed_ns == (made if off > 0 else seen + 1)


def test_a_machine_that_was_off_for_long_dates_points_by_its_clock_as_those_who_make_them_do(filled, clock):
    filled.keeping.purge()
    clock.wall_ns += int(100 * DAY * NS)
    filled.commit_point("t", "job", b"n" * 16, said(clock.wall_ns - 3600 * NS), b"", domain=DOMAIN)
    assert filled.points("t", "job")[-1].committed_ns == clock.wall_ns


def test_a_damaged_mark_counts_as_none(filled, clock):
    filled.keeping.purge()
    (filled.path / "leases" / "clock").write_bytes(b"nonsense")
    clock.wall_ns += int(365 * DAY * NS)
    with pytest.raises(ClockDoubtful):
        filled.keeping.purge()


# --- a point that takes another's place -------------------------------------------------------------------------


def test_a_point_that_replaces_another_takes_its_time_and_place(filled, record):
    old = filled.point("t", "job", IDS[1])
    commit(filled, record, b"n" * 16, replaces=IDS[1])
    assert ids(filled) == [IDS[0], b"n" * 16, *IDS[2:]]
    assert filled.point("t", "job", b"n" * 16).committed_ns == old.committed_ns
    assert left_of(filled, IDS[1]) == []


def test_a_locked_pinned_or_missing_point_is_not_replaced(filled, record, clock):
    filled.keeping.lock("t", "job", IDS[1], clock.now_ns() + NS)
    filled.keeping.pin("t", "job", IDS[2], "why", "t")
    for old, error in ((IDS[1], PointKept), (IDS[2], PointKept), (b"x" * 16, PointMissing)):
        with pytest.raises(error):
            commit(filled, record, b"n" * 16, replaces=old)
    assert ids(filled) == IDS
    assert left_of(filled, b"n" * 16) == []


def test_a_replacement_that_was_cut_short_between_the_two_is_finished_by_another_try(filled, record, monkeypatch):
    really = filled.keeping.remove
    monkeypatch.setattr(filled.keeping, "remove", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        commit(filled, record, b"n" * 16, replaces=IDS[1])
    assert {IDS[1], b"n" * 16} <= set(ids(filled))
    monkeypatch.setattr(filled.keeping, "remove", really)
    with pytest.raises(PointExists):
        commit(filled, record, b"n" * 16, replaces=IDS[1])
    assert ids(filled) == [IDS[0], b"n" * 16, *IDS[2:]]


# --- orphans ----------------------------------------------------------------------------------------------------


def test_slots_that_never_got_their_point_go_after_a_day_and_not_before(filled, clock):
    filled.put_slot(b"o" * 16, b"a" * 16, b"slot")
    folder = filled.path / "slots" / (b"o" * 16).hex()
    os.utime(folder, ns=(clock.now_ns(), clock.now_ns()))
    clock.advance(DAY - 10)
    filled.keeping.purge()
    assert folder.exists()
    clock.advance(20)
    filled.keeping.purge()
    assert not folder.exists()
    assert all(filled.slots(point) for point in IDS)


def test_small_files_of_another_point_are_not_believed(filled, clock):
    filled.keeping.lock("t", "job", IDS[0], clock.now_ns() + NS)
    (filled.path / "locks" / IDS[0].hex()).rename(filled.path / "locks" / IDS[1].hex())
    assert filled.keeping.locked_until(IDS[1]) > clock.now_ns() + int(DAY * NS)
    filled.keeping.pin("t", "job", IDS[2], "why", "t")
    (filled.path / "pins" / IDS[2].hex()).rename(filled.path / "pins" / IDS[3].hex())
    with pytest.raises(DamagedData):
        filled.keeping.pin_of(IDS[3])


def test_rules_do_not_lie_in_the_repository(filled, clock):
    filled.keeping.rules = replace(Rules(), recycle=DAY)
    with Repository.open(filled.path, ManualClock(clock.wall_ns), writable=False) as again:
        assert again.keeping.rules == Rules()

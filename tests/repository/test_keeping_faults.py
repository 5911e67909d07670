"""Every step of what becomes of points is cut short by a kill, and meets a full disk: a test for each row of the table.

A point is wholly there, wholly in the recycle bin, or gone with everything that was its own; and its key is told.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.errors import DiskFull, TransporterError
from transporter.repository import PROVIDER, PointExists, Repository, Rules, Waived, files

DOMAIN, KEY = b"D" * 16, b"K" * 32
DAY = 86_400.0
NS = 10**9
IDS = [bytes([number]) * 16 for number in range(1, 5)]
MANY = [bytes([0x40 + number]) * 16 for number in range(20)]
NEW = b"n" * 16
PINS = Waived(pins=True)
STEPS = ("create", "write", "sync", "sync_folder", "link", "replace", "make_folders", "unlink")


class Killed(BaseException):
    """The process died here."""


class Steps:
    """Counts what is done to the disk; dies, or finds it full, at a chosen step."""

    def __init__(self, patch, die_at=-1, fail_at=-1):
        self.count, self.die_at, self.fail_at = 0, die_at, fail_at
        for name in STEPS:
            patch.setattr(files, name, self.wrap(name, getattr(files, name)))

    def wrap(self, name, real):
        def step(*args, **kwargs):
            self.count += 1
            if 0 <= self.die_at < self.count:
                if name == "write" and self.count == self.die_at + 1:
                    os.write(args[0], b"".join(args[1:])[:7])
                raise Killed
            if self.count == self.fail_at:
                raise OSError(errno.ENOSPC, "no space")
            return real(*args, **kwargs)

        return step


class World:
    """A repository with points, one in the recycle bin, a pin and a lock that is over; what was told of keys."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.prove = False
        self.clock = ManualClock(1_700_000_000 * NS + int(10 * DAY * NS))
        self.gone: list[bytes] = []

    def open(self, rules=Rules()):  # noqa: B008 - frozen
        repository = Repository.open(self.place, self.clock, writable=False)
        repository.keeping.rules = rules
        return repository

    def check(self):
        """What the next daemon does at its start; then nothing is half there."""
        with Repository.open(self.place, self.clock) as repository:
            repository.keeping.rules = Rules(recycle=3 * DAY)
            repository.keeping.purge(self.gone.extend)
            live = {ref.point_id for ref in repository.points("t", "job")}
            binned = {each.ref.point_id for each in repository.keeping.recycled("t", "job")}
            assert not live & binned
            for point in live | binned:
                assert repository.slots_of("t", "job", point) == {b"a" * 16: b"slot of " + point}
            for point in live:
                assert repository.read_head("t", "job", point) == b"head"
            names = {
                path.parent.name if path.parent.parent.name == "slots" else path.name.partition(".")[0]
                for folder in ("points", "slots", "pins", "locks", "recycled", "tombstones")
                for path in (self.place / folder).rglob("*")
                if path.is_file()
            }
            assert {bytes.fromhex(name) for name in names} <= live | binned
            assert {p.name for p in (self.place / "tombstones").iterdir()} <= {point.hex() for point in binned}
            assert list((self.place / "journal").iterdir()) == []
            if self.prove:
                report = repository.scrub()
                assert report.clean and not report.notes, report
        everything = {*IDS, *MANY} & self.made
        assert set(self.gone) == everything - live - binned
        return live, binned


@pytest.fixture
def made(place, clock):
    clock.wall_ns = 1_700_000_000 * NS
    with Repository.create(place, clock=clock) as repository:
        writer = repository.writer(DOMAIN, "t")
        from transporter.repository import ChunkRecord

        writer.append(ChunkRecord(b"c" * 32, KEY, 1, 1000, b"x" * 100))
        writer.close()
        for point in (*IDS, *MANY):
            clock.advance(3600)
            slots = [(b"a" * 16, b"slot of " + point)]
            repository.commit_point("t", "job", point, b"head", b"c" * 32, domain=DOMAIN, slots=slots)
        repository.keeping.purge()
        clock.wall_ns += int(5 * DAY * NS)
        repository.keeping.purge()
        clock.wall_ns = 1_700_000_000 * NS + int(10 * DAY * NS)
        repository.keeping.rules = Rules(recycle=3 * DAY)
        repository.keeping.remove("t", "job", IDS[3:], "t")
        repository.keeping.lock("t", "job", IDS[0], clock.now_ns() - NS)
        repository.keeping.pin("t", "job", IDS[0], "goes with its point", PROVIDER)
    return place


def remove(world):
    with world.open() as repository:
        repository.keeping.remove("t", "job", IDS[:2], PROVIDER, waived=PINS, on_gone=world.gone.extend)


def recycle(world):
    with world.open(Rules(recycle=3 * DAY)) as repository:
        repository.keeping.remove("t", "job", IDS[:2], PROVIDER, waived=PINS, on_gone=world.gone.extend)


def retention(world):
    with world.open() as repository:
        repository.keeping.remove("t", "job", MANY, PROVIDER, on_gone=world.gone.extend)


def undelete(world):
    with world.open() as repository:
        repository.keeping.undelete("t", "job", IDS[3])


def purge(world):
    world.clock.wall_ns += int(4 * DAY * NS)
    with world.open() as repository:
        repository.keeping.purge(world.gone.extend)


def pin(world):
    with world.open() as repository:
        repository.keeping.pin("t", "job", IDS[1], "why", "t")
        repository.keeping.unpin("t", "job", IDS[1], "t")


def lock(world):
    with world.open() as repository:
        repository.keeping.lock("t", "job", IDS[1], world.clock.now_ns() + NS)


def commit(world, **how):
    repository = Repository.open(world.place, world.clock)
    repository.keeping.rules = Rules(immutable=DAY)
    try:
        slots = [(b"a" * 16, b"slot of " + NEW)]
        repository.commit_point("t", "job", NEW, b"head", b"c" * 32, domain=DOMAIN, slots=slots, **how)
    finally:
        repository._index.close()
        repository._chunks.close()
        repository._lease.release()


def accept_clock(world):
    world.clock.wall_ns += int(90 * DAY * NS)
    with world.open() as repository:
        repository.keeping.clock.accept()
    world.clock.wall_ns -= int(90 * DAY * NS)


# (what is done, how many points are in the bin when it is done)
DEEDS = {
    "remove": remove,
    "recycle": recycle,
    "retention of many": retention,
    "undelete": undelete,
    "purge": purge,
    "pin": pin,
    "lock": lock,
}


def fresh(made, number):
    world = World(Path(shutil.copytree(made, made.parent / f"copy-{number}")))
    world.made = {*IDS, *MANY}
    return world


def steps_of(made, deed):
    world = fresh(made, "count")
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        deed(world)
    world.prove = True
    live, binned = world.check()
    return steps.count, live, binned


@pytest.mark.parametrize("name", DEEDS)
def test_a_kill_at_any_step_leaves_points_whole_or_gone_and_the_deed_can_be_done_again(made, name):
    deed = DEEDS[name]
    count, live, binned = steps_of(made, deed)
    assert count
    # Of many points, every few steps: they are all alike.
    for step in range(0, count, 1 + count // 25):
        world = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, die_at=step)
            with pytest.raises(Killed):
                deed(world)
        world.check()
        try:
            deed(world)
        except TransporterError:
            assert name == "undelete"  # it was there already
        assert world.check() == (live, binned), step
        shutil.rmtree(world.place)


@pytest.mark.parametrize("name", DEEDS)
def test_a_full_disk_at_any_step_is_told_and_leaves_points_whole_or_gone(made, name):
    """And once there is room, another try does what was to be done."""
    deed = DEEDS[name]
    count, live, binned = steps_of(made, deed)
    for step in range(1, count + 1, 2 + count // 12):
        world = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, fail_at=step)
            try:
                deed(world)
            except DiskFull as error:
                assert error.exit_status == 1
        world.check()
        try:
            deed(world)
        except TransporterError:
            assert name == "undelete"  # it was there already
        assert world.check() == (live, binned), step
        shutil.rmtree(world.place)


@pytest.mark.parametrize("how", [{}, {"replaces": IDS[1]}])
def test_a_commit_to_an_immutable_repository_is_locked_whenever_it_is_there(made, how):
    """And one that takes another's place: the old one goes only once the new one is there."""
    count, _, _ = steps_of_commit(made, how)
    for step in range(0, count, 1 + count // 16):
        world = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, die_at=step)
            with pytest.raises(Killed):
                commit(world, **how)
        with world.open() as repository:
            there = {ref.point_id for ref in repository.points("t", "job")}
            assert NEW in there or IDS[1] in there
            if NEW in there:
                assert repository.keeping.locked_until(repository.belongings("t", "job", NEW)) > world.clock.now_ns()
        try:
            commit(world, **how)
        except PointExists:
            pass
        with Repository.open(world.place, world.clock) as repository:
            repository.keeping.purge()
            there = {ref.point_id for ref in repository.points("t", "job")}
            assert NEW in there and (IDS[1] in there) == (not how)
            assert repository.slots_of("t", "job", NEW)
        shutil.rmtree(world.place)


def steps_of_commit(made, how):
    world = fresh(made, "count")
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        commit(world, **how)
    return steps.count, None, None


def test_a_kill_while_the_clock_is_confirmed_leaves_the_old_or_the_new_time(made):
    count = 6
    for step in range(count):
        world = fresh(made, step)
        with world.open() as repository:
            before = repository.keeping.clock._mark()
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, die_at=step)
            try:
                accept_clock(world)
            except Killed:
                pass
        with world.open() as repository:
            mark = repository.keeping.clock._mark()
            assert mark in (before, 1_700_000_000 * NS + int(100 * DAY * NS))
        shutil.rmtree(world.place)


@pytest.mark.parametrize("name", ["remove", "recycle"])
def test_the_point_goes_before_what_opens_it_and_the_tombstone_comes_before_all(made, name):
    """The order itself, since a power cut keeps what was synced and loses the rest."""
    order = []
    world = fresh(made, "order")

    def note(what, real):
        def step(*args):
            paths = [Path(str(arg)) for arg in args if isinstance(arg, str | Path)]
            order.append((what, *(path.relative_to(world.place).parts[0] for path in paths if path != world.place)))
            return real(*args)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for what in ("unlink", "replace", "sync_folder"):
            patch.setattr(files, what, note(what, getattr(files, what)))
        DEEDS[name](world)
    first = order.index(("replace", "journal", "tombstones"))
    assert ("sync_folder", "tombstones") in order[first:]
    moved = ("unlink", "points") if name == "remove" else ("replace", "points", "recycled")
    at = order.index(moved)
    assert order.index(("sync_folder", "tombstones"), first) < at
    if name == "remove":
        synced = order.index(("sync_folder", "points"), at)
        assert synced < order.index(("unlink", "slots"), at)
        assert order.index(("sync_folder", "slots"), synced) < order.index(("unlink", "tombstones"), synced)
    else:
        assert order.index(("sync_folder", "recycled"), at) < order.index(("sync_folder", "points"), at)
        assert ("unlink", "slots") not in order[at:]

"""Processes that help where a repository of this node has many points to take over to a new password."""

from __future__ import annotations

import fcntl
import os
import signal
import threading

import pytest
import trio

from transporter.errors import JobBusy, JobFailed
from transporter.jobs import point_walk, rewrap_helpers
from transporter.jobs.context import held_lock
from transporter.jobs.point_walk import PlaceHere
from transporter.jobs.points_here import PointsHere, Visited
from transporter.jobs.rewrap import rewrap
from transporter.jobs.rewrap_helpers import open_helpers
from transporter.jobs.rewrap_lock import PATIENCE_SECONDS, rewrap_lock
from transporter.jobs.rewrap_messages import Change, Hash
from transporter.keys.slot import read_slot_public
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.repository import SlotChange

NEW = b"a new and better one"
COUNT = 5


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Every point is a batch, and there is a further core."""
    monkeypatch.setattr(point_walk, "LOCAL_BATCH", 1)
    monkeypatch.setattr(rewrap_helpers.os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.fixture
async def sealed_here(world):
    """Points that the target has sealed."""
    for number in range(COUNT):
        (world.source.tree / "more").write_bytes(bytes([number]) * 1000)
        await world.source.backup("target")
    return world


def salts(world):
    store = world.store()
    found = [store.slots(ref.point_id) for ref in world.store().points(world.tenant(world.source), "target")]
    return [{read_slot_public(slot).salt for slot in slots.values()} for slots in found]


def own_hand_waits(monkeypatch):
    """Have this process's own hand stay with its first batch until a helper has answered; return what helpers did."""
    answered, done = threading.Event(), []
    really_own, really_helped = PointsHere.batch, rewrap_helpers._visit

    def own(here, some):
        assert answered.wait(60)
        return really_own(here, some)

    async def helped(worker, own, some):
        visited = await really_helped(worker, own, some)
        done.append(some)
        if len(done) == COUNT - 1:
            answered.set()
        return visited

    monkeypatch.setattr(PointsHere, "batch", own)
    monkeypatch.setattr(rewrap_helpers, "_visit", helped)
    return done


async def test_a_helper_takes_what_this_process_does_not_come_to(sealed_here, monkeypatch):
    world = sealed_here
    done = own_hand_waits(monkeypatch)
    new = world.target.keys.change_password("vault", NEW)
    with trio.fail_after(120):
        report = await rewrap(world.target.context)
    assert (report.replaced, report.points, report.failed) == (COUNT, COUNT, [])
    assert report.kept_until_ns > world.target.clock.now_ns()
    assert len(done) == COUNT - 1
    assert salts(world) == [{new.salt}] * COUNT
    assert world.target.keys.unfinished_changes() == []


def begun(world, lock, own):
    """A helper of the change that is under way, and the points, as names."""
    (change,) = world.target.keys.unfinished_changes()
    new = world.target.keys.user_key("vault")
    told = [Change(Hash.of(change.old), "vault", Hash.of(new.hash))]
    return open_helpers(told, lock, PlaceHere(world.store().path, "main", "nobody", 0.0), own)


def names(world):
    tenant = world.tenant(world.source)
    return [(tenant, job, point) for job, point in world.store().point_ids(tenant)]


async def nobody(_some):
    raise AssertionError("the helper can do that itself")


def give_a_wrong_slot(world, point):
    """Replace the slot of a point by one of the same password that belongs to another point."""
    store, key = world.store(), world.target.keys.user_key("vault")
    bad = make_password_slot(StorageKey.generate(), key, key.salt, key.params, b"another place")
    change = SlotChange(point, b"B" * 16, bad, tuple(store.slots(point)))
    store.replace_slots(world.tenant(world.source), "target", [change], 0)


async def test_what_a_helper_cannot_open_comes_back_to_who_has_more_keys(sealed_here):
    world = sealed_here
    point = names(world)[2][2]
    give_a_wrong_slot(world, point)
    new = world.target.keys.change_password("vault", NEW)
    asked = []

    async def own(some):
        asked.append(some)
        return Visited(points=1, unreadable=[b"seen"])

    async with rewrap_lock(world.target.home) as lock, begun(world, lock, own) as (hand,):
        with trio.fail_after(60):
            visited = await hand(names(world))
    assert asked == [[name for name in names(world) if name[2] == point]]
    assert (visited.points, visited.replaced, visited.unreadable) == (COUNT, COUNT - 1, [b"seen"])
    assert sum(each == {new.salt} for each in salts(world)) == COUNT - 1


async def test_the_lock_is_held_until_the_last_helper_has_ended(sealed_here, monkeypatch):
    world, home = sealed_here, sealed_here.target.home
    monkeypatch.setattr("transporter.jobs.rewrap_lock.PATIENCE_SECONDS", 0.0)
    world.target.keys.change_password("vault", NEW)
    lock = os.open(home.rewrap_lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    async with begun(world, lock, nobody) as (hand,):
        with trio.fail_after(60):
            await hand(names(world))
        os.close(lock)  # as by a kill of the process that began it
        with pytest.raises(JobBusy):
            async with rewrap_lock(home):
                pass
    async with rewrap_lock(home):
        pass


async def test_who_comes_while_a_helper_of_one_that_was_killed_ends_its_batch_waits(world, autojump_clock):
    home = world.target.home
    with held_lock(home.rewrap_lock, "-"):
        with pytest.raises(JobBusy):
            async with rewrap_lock(home):
                pass
        assert trio.current_time() >= PATIENCE_SECONDS


async def test_what_a_helper_that_is_killed_leaves_is_done_by_the_last_look(sealed_here, monkeypatch):
    world = sealed_here
    gone, helped, really = threading.Event(), rewrap_helpers._visit, PointsHere.batch

    async def killed(worker, own, some):
        if not gone.is_set():
            os.kill(worker._process.pid, signal.SIGKILL)
            gone.set()
        return await helped(worker, own, some)

    def waits(here, some):
        assert gone.wait(60)
        return really(here, some)

    monkeypatch.setattr(rewrap_helpers, "_visit", killed)
    monkeypatch.setattr(PointsHere, "batch", waits)
    new = world.target.keys.change_password("vault", NEW)
    with trio.fail_after(120):
        report = await rewrap(world.target.context)
    assert (report.replaced, report.points, report.unreached) == (COUNT, COUNT, {})
    assert salts(world) == [{new.salt}] * COUNT
    assert world.target.keys.unfinished_changes() == []


async def test_a_helper_that_is_killed_is_told_of_by_the_signal(sealed_here):
    world = sealed_here
    world.target.keys.change_password("vault", NEW)
    async with rewrap_lock(world.target.home) as lock, begun(world, lock, nobody) as (hand,):
        (worker, _own) = hand.args
        os.kill(worker._process.pid, signal.SIGKILL)
        with trio.fail_after(60), pytest.raises(JobFailed, match="SIGKILL"):
            await hand(names(world))

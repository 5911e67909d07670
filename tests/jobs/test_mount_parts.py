"""The parts of a mount that need no kernel: chunks that are kept, files that are read anywhere, whom to ask when."""

from __future__ import annotations

import contextlib
import os
import socket
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import CannotConnect, DamagedData
from transporter.events import EventBus
from transporter.jobs import kept_point
from transporter.jobs.chunk_cache import ChunkCache
from transporter.jobs.kept_point import KeptPoint
from transporter.jobs.mount import _descriptors, _socket_below_device
from transporter.jobs.mount_branches import (
    OPEN_AT_MOST,
    REFRESH_SECONDS,
    AllPoints,
    Branch,
    Branches,
    point_name,
    split_inode,
)
from transporter.jobs.mount_read_ahead import raise_read_ahead
from transporter.jobs.mount_silence import AGAIN_SECONDS, ALIVE_BYTES, ANSWER_SECONDS, SILENT_SECONDS, Away, Silence
from transporter.jobs.mounted_file import AHEAD_BYTES, STEP, MountedFile, Sweep
from transporter.jobs.point_order import PointOrder
from transporter.jobs.points import PointRow
from transporter.workloads.entry import Entry, pack_extents, pack_holes
from transporter.workloads.tree_index import TreeIndexBuilder

MIB = 1 << 20


def chunk_id(number):
    return number.to_bytes(32, "big")


class Store:
    """Chunks of 1 MiB, and what was asked for."""

    def __init__(self):
        self.cache = {}
        self.asked, self.asked_ahead = [], []

    def here(self, wanted):
        return self.cache.get(wanted)

    async def chunk(self, wanted, reach):
        assert 0 < reach <= MIB
        self.asked.append(wanted)
        self.cache[wanted] = memoryview(wanted * (MIB // 32))
        return self.cache[wanted]

    def ahead(self, wanted, reach):
        assert 0 < reach <= MIB
        self.asked_ahead.append(int.from_bytes(wanted, "big"))


def tree(tmp_path, *entries):
    builder = TreeIndexBuilder(tmp_path, [b"r"])
    builder.add([Entry(b"r", "d"), *entries])
    return builder.finish()


def long_file(path, chunks, hole_at=None):
    extents = [(chunk_id(n), 0, MIB) for n in range(chunks)]
    holes = [(hole_at * MIB, MIB)] if hole_at is not None else []
    size = (chunks + len(holes)) * MIB
    return Entry(path, "f", size=size, packed_extents=pack_extents(extents), packed_holes=pack_holes(holes))


# --- files ------------------------------------------------------------------------------------------------------------


async def test_any_part_is_read_and_holes_are_zeros(tmp_path):
    with tree(tmp_path, long_file(b"r/f", 5, hole_at=2)) as index:
        content = b"".join(chunk_id(n) * (MIB // 32) if n >= 0 else bytes(MIB) for n in (0, 1, -1, 2, 3, 4))
        file = MountedFile(Store(), index, 1)
        for offset, length in (
            (0, 10),
            (MIB - 5, 10),
            (2 * MIB - 7, MIB + 14),
            (6 * MIB - 3, 10),
            (6 * MIB, 5),
            (10**9, 1),
        ):
            assert bytes(await file.read(offset, length)) == content[offset : offset + length]


async def test_who_reads_in_order_has_the_next_chunks_asked_for_once(tmp_path):
    with tree(tmp_path, long_file(b"r/f", 64)) as index:
        store = Store()
        file = MountedFile(store, index, 1)
        for at in range(0, 20 * MIB, 128 << 10):
            await file.read(at, 128 << 10)
            ahead = at + (128 << 10) + AHEAD_BYTES
            assert max(store.asked_ahead) * MIB <= ahead
            assert max(store.asked_ahead) * MIB >= ahead - 2 * STEP
        # A chunk of which a part is asked for twice is one that lies across the end of what was asked for before.
        assert len(store.asked_ahead) <= 2 * len(set(store.asked_ahead))


async def test_who_jumps_about_has_nothing_asked_for_until_he_reads_on(tmp_path):
    with tree(tmp_path, long_file(b"r/f", 64)) as index:
        store = Store()
        file = MountedFile(store, index, 1)
        for at in (40, 10, 50, 20):
            await file.read(at * MIB, 1000)
        assert store.asked_ahead == []
        await file.read(20 * MIB + 1000, 1000)
        assert store.asked_ahead[0] == 20


async def test_the_end_of_a_file_is_asked_for_and_nothing_behind(tmp_path):
    with tree(tmp_path, long_file(b"r/f", 3)) as index:
        store = Store()
        file = MountedFile(store, index, 1)
        for at in range(0, 3 * MIB, 128 << 10):
            await file.read(at, 128 << 10)
        assert set(store.asked_ahead) <= {0, 1, 2}


def test_small_files_read_one_after_the_other_have_their_chunks_asked_for(tmp_path):
    extents = [pack_extents([(chunk_id(n // 10), 0, 8)]) for n in range(900)]
    entries = [Entry(b"r/%04d" % n, "f", size=8, packed_extents=extents[n]) for n in range(900)]
    with tree(tmp_path, *entries) as index:
        store = Store()
        sweep = Sweep(store, index)
        for number in range(1, 500):
            sweep.opened(number)
        assert store.asked_ahead == sorted(store.asked_ahead)
        assert set(range(1, 50)) <= set(store.asked_ahead)
        store.asked_ahead.clear()
        for number in (7, 800, 3, 600):
            sweep.opened(number)
        assert store.asked_ahead == []


# --- the cache --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_what_is_kept_is_bounded_and_the_least_used_goes_first(steps):
    cache, used = ChunkCache(100), []
    for number, length in steps:
        slot, new = cache.slot(chunk_id(number), 1)
        if new:
            cache.fill(slot, memoryview(bytes(length)))
        if number in used:
            used.remove(number)
        used.append(number)
        assert slot.ready.is_set()
        kept = [n for n in used if cache.here(chunk_id(n)) is not None]
        for n in used:  # looking is using: bring the order back
            cache.here(chunk_id(n))
        assert cache.bytes_kept == sum(len(cache.here(chunk_id(n))) for n in kept) <= max(100, length)
        assert kept == used[len(used) - len(kept) :]
        used = kept


def test_what_failed_is_asked_for_anew():
    cache = ChunkCache()
    slot, new = cache.slot(b"x", 1)
    assert new and cache.slot(b"x", 1) == (slot, False)
    cache.fail(slot, DamagedData("gone"))
    assert slot.ready.is_set() and cache.here(b"x") is None
    again, new = cache.slot(b"x", 1)
    assert new and again is not slot
    cache.fill(again, memoryview(b"abc"))
    assert cache.here(b"x") == b"abc" and cache.bytes_kept == 3


async def test_loading_goes_on_when_whoever_asked_has_given_up():
    cache = ChunkCache()
    slot, _ = cache.slot(b"x", 1)
    with trio.move_on_after(0):
        await slot.ready.wait()
    cache.fill(slot, memoryview(b"abc"))
    assert cache.here(b"x") == b"abc"


async def seconds_until(error, ask):
    began = trio.current_time()
    with pytest.raises(error):
        await ask()
    return trio.current_time() - began


class Silent:
    """Points of one mount whose target is silent, and how long readers wait for them."""

    def __init__(self):
        self.link = SimpleNamespace(bytes_received=0)
        self.silence = Silence()
        self.silence._links.append(self.link)
        self.point, self.other = (KeptPoint(None, PointOrder("docs"), ChunkCache(), self.silence) for _ in range(2))

    async def chunk(self):
        return await seconds_until(Away, lambda: self.point.chunk(b"x", 1))

    async def tree(self):
        return await seconds_until(Away, self.point.tree)

    async def of_other(self):
        return await seconds_until(Away, self.other.tree)


async def test_once_a_target_was_silent_for_long_the_next_readers_wait_briefly(autojump_clock):
    silent = Silent()
    assert await silent.chunk() == ANSWER_SECONDS
    assert await silent.chunk() == await silent.tree() == await silent.of_other() == AGAIN_SECONDS
    silent.link.bytes_received = ALIVE_BYTES - 1
    assert await silent.chunk() == await silent.of_other() == AGAIN_SECONDS, "a heartbeat is no answer"
    silent.link.bytes_received = ALIVE_BYTES
    assert await silent.of_other() == ANSWER_SECONDS, "it answered meanwhile"


async def test_what_came_over_links_that_have_ended_is_still_a_sign_of_life(autojump_clock):
    silence, link = Silence(), SimpleNamespace(bytes_received=0)
    with silence.over(link):
        await seconds_until(Away, lambda: silence.wait(trio.Event()))
        link.bytes_received = ALIVE_BYTES
    assert await seconds_until(Away, lambda: silence.wait(trio.Event())) == ANSWER_SECONDS


async def test_a_link_that_opens_ends_the_silence(autojump_clock):
    silent = Silent()
    await silent.chunk()
    with silent.silence.over(SimpleNamespace(bytes_received=0)):
        assert await silent.of_other() == ANSWER_SECONDS


class Mount:
    """A mount of all points of a job, whose target takes ``seconds`` to fail."""

    def __init__(self, monkeypatch, nursery, seconds, points=2):
        self.seconds = seconds
        self.dialled, self.dials, self.most = [], 0, 0
        self.rows = [PointRow(bytes([n]) * 16, "docs", "full", n) for n in range(points)]
        context = SimpleNamespace(bus=EventBus())
        self.branches = Branches(context, PointOrder("docs"), nursery)
        self.every = AllPoints(context, PointOrder("docs"), self.branches, self.list, nursery)
        monkeypatch.setattr(kept_point, "open_ordered", self.open)

    async def list(self):
        if self.seconds is not None:
            await self._fail()
        return self.rows

    @contextlib.asynccontextmanager
    async def open(self, _context, order):
        self.dialled.append(order.point)
        await self._fail()
        yield

    async def _fail(self):
        self.dials += 1
        self.most = max(self.most, self.dials)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.dials -= 1
        raise CannotConnect("it does not answer")

    async def look_into(self, number):
        slot = self.every.names[point_name(self.rows[number])]
        return await seconds_until(CannotConnect, lambda: self.branches.tree(self.branches.branch(slot)))

    async def look_around(self):
        began = trio.current_time()
        await self.every.refresh_or_keep()
        return trio.current_time() - began


@contextlib.asynccontextmanager
async def mount(monkeypatch, seconds, points=2):
    async with trio.open_nursery() as nursery:
        mounted = Mount(monkeypatch, nursery, None, points)
        await mounted.every.refresh()
        mounted.seconds = seconds
        yield mounted
        nursery.cancel_scope.cancel()


async def test_a_dial_that_met_silence_for_one_point_counts_for_all_and_for_the_list(autojump_clock, monkeypatch):
    async with mount(monkeypatch, 20.0) as mounted:
        await trio.sleep(REFRESH_SECONDS)
        assert await mounted.look_into(0) == 20
        assert await mounted.look_into(1) == await mounted.look_around() == AGAIN_SECONDS
        assert await mounted.look_around() == 0, "the list was asked for just now"


async def test_a_list_that_met_silence_counts_for_the_points_and_its_answer_ends_it(autojump_clock, monkeypatch):
    async with mount(monkeypatch, 20.0) as mounted:
        await trio.sleep(REFRESH_SECONDS)
        assert await mounted.look_around() == 20
        assert await mounted.look_into(0) == AGAIN_SECONDS
        await trio.sleep(REFRESH_SECONDS)
        mounted.seconds = None
        assert await mounted.look_around() == 0
        mounted.seconds = 20.0
        assert await mounted.look_into(1) == 20


async def test_a_target_that_refuses_connections_is_not_silent(autojump_clock, monkeypatch):
    async with mount(monkeypatch, SILENT_SECONDS / 2) as mounted:
        await mounted.look_into(0)
        assert await mounted.look_into(1) == SILENT_SECONDS / 2


async def test_a_silent_target_is_dialled_for_one_point_at_a_time_and_for_those_looked_into_last(
    autojump_clock, monkeypatch
):
    async with mount(monkeypatch, 20.0, points=40) as mounted:
        for number in range(40):
            await mounted.look_into(number)
        mounted.dialled.clear()
        mounted.most = 0
        await trio.sleep(1000)
        assert mounted.most == 1
        assert set(mounted.dialled) <= {mounted.rows[number].point.hex() for number in range(40 - OPEN_AT_MOST - 1, 40)}
        mounted.dialled.clear()
        await mounted.look_into(7)
        await trio.sleep(200)
        assert mounted.rows[7].point.hex() in mounted.dialled, "whoever is looked into anew is dialled for anew"


async def test_a_point_that_was_let_go_of_is_dialled_for_whoever_waits_for_it_all_the_same(autojump_clock, monkeypatch):
    async with mount(monkeypatch, 2.0) as mounted:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mounted.look_into, 0)
            await trio.sleep(1)
            mounted.branches.branch(mounted.every.names[point_name(mounted.rows[0])]).point.let_go()
        # Now it pauses; nobody would dial for it after that.
        assert await mounted.look_into(0) < ANSWER_SECONDS
        assert len(mounted.dialled) == 2


@pytest.mark.parametrize("what", ["chunk", "tree"])
async def test_whatever_arrives_begins_the_time_of_a_reader_anew(autojump_clock, what):
    silent = Silent()

    async def arrive():
        await trio.sleep(ANSWER_SECONDS - 1)
        silent.link.bytes_received += ALIVE_BYTES

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        assert await getattr(silent, what)() == 2 * ANSWER_SECONDS


# --- the rest ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**20), st.integers(0, 2**32 - 2))
def test_inodes_mean_one_entry_of_one_point(slot, number):
    assert split_inode(Branch(slot, None).inode(number)) == (slot, number)


@pytest.mark.parametrize(("time_ns", "name"), [(0, b"1970-01-01_000000Z_"), (2**63 - 1, b"2262-04-11_234716Z_")])
def test_the_name_of_a_points_folder(time_ns, name):
    assert point_name(PointRow(b"\xab" * 16, "docs", "full", time_ns)) == name + b"abababab"


def test_the_read_ahead_of_what_is_not_mounted_cannot_be_raised(tmp_path):
    assert raise_read_ahead(os.fsencode(tmp_path)) is False
    mounts = tmp_path / "mountinfo"
    mounts.write_text(r"36 25 99999:7 / /with\040space rw - fuse.transporter transporter ro" + "\n")
    assert raise_read_ahead(b"/with space", mounts) is False  # there is no such device
    assert raise_read_ahead(b"/with", tmp_path / "nothing") is False


def test_what_unmounts_for_a_killed_process_is_let_go_of_after_the_device():
    """Linux closes the descriptors of a process that is killed from the highest number down."""
    with contextlib.ExitStack() as stack:
        with _socket_below_device():
            device = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, device)
            opened = socket.socket(socket.AF_UNIX).detach()
            inode = os.fstat(opened).st_ino
        (moved,) = [fd for fd, what in _descriptors() if what == f"socket:[{inode}]"]
        stack.callback(os.close, moved)
        assert moved < device < opened and not os.get_inheritable(moved)


def test_a_mount_that_fails_leaves_no_descriptor():
    before = _descriptors()
    with pytest.raises(RuntimeError), _socket_below_device():
        raise RuntimeError
    assert _descriptors() == before

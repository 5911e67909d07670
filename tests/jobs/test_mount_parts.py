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

from transporter.errors import DamagedData
from transporter.jobs.chunk_cache import ChunkCache
from transporter.jobs.kept_point import AGAIN_SECONDS, ALIVE_BYTES, ANSWER_SECONDS, Away, KeptPoint
from transporter.jobs.mount import _descriptors, _socket_below_device
from transporter.jobs.mount_branches import Branch, point_name, split_inode
from transporter.jobs.mount_read_ahead import raise_read_ahead
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


class Silent:
    """A point whose target is silent, and how long readers wait for it."""

    def __init__(self):
        self.link = SimpleNamespace(bytes_received=0)
        self.point = KeptPoint(None, PointOrder("docs"), ChunkCache())
        self.point._link = self.link

    async def waited(self, ask):
        began = trio.current_time()
        with pytest.raises(Away):
            await ask()
        return trio.current_time() - began

    async def chunk(self):
        return await self.waited(lambda: self.point.chunk(b"x", 1))

    async def tree(self):
        return await self.waited(self.point.tree)


async def test_once_a_target_was_silent_for_long_the_next_readers_wait_briefly(autojump_clock):
    silent = Silent()
    assert await silent.chunk() == ANSWER_SECONDS
    assert await silent.chunk() == await silent.tree() == AGAIN_SECONDS
    silent.link.bytes_received = ALIVE_BYTES - 1
    assert await silent.chunk() == AGAIN_SECONDS, "a heartbeat is no answer"
    silent.link.bytes_received = ALIVE_BYTES
    assert await silent.chunk() == ANSWER_SECONDS, "it answered meanwhile"


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

"""Scrubs as jobs: all cores, paced, gone on with where they stopped; healed from a copy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from transporter.clock import ManualClock
from transporter.errors import DamagedData
from transporter.events import DamageFound, EventBus, Note, ScrubProgress
from transporter.jobs.in_order import InOrder
from transporter.jobs.scrub import Scrub, ScrubOrder, ScrubOutcome
from transporter.repository import ChunkRecord, Repository, RepositoryBusy
from transporter.repository.lease import prune_lease

DOMAIN, KEY, OTHER = b"D" * 16, b"K" * 32, b"k" * 32
CHUNKS = 40


def record(number: int, key: bytes = KEY) -> ChunkRecord:
    return ChunkRecord(number.to_bytes(32, "big"), key, 1, 1000, number.to_bytes(4, "big") * 25)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def store(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """Some ten packs, and two points that need what is in them."""
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 1000)
    with Repository.create(place / "store", clock=ManualClock()) as made:
        writer = made.writer(DOMAIN, "t")
        for number in range(CHUNKS):
            writer.append(record(number))
        writer.close()
        for point in (b"p" * 16, b"q" * 16):
            needs = b"".join(record(number).chunk_id for number in range(CHUNKS))
            made.commit_point("t", "j", point, b"head", needs, domain=DOMAIN)
        yield made


@pytest.fixture
def copy(store: Repository, place: Path) -> Iterator[Repository]:
    """The same chunks, in other packs of another repository."""
    with Repository.create(place / "copy", clock=ManualClock()) as made:
        writer = made.writer(DOMAIN, "elsewhere")
        for number in reversed(range(CHUNKS)):
            writer.append(record(number))
        writer.close()
        yield made


def packs(store: Repository) -> list[Path]:
    return sorted((store.path / "packs").glob("*/*"))


def hurt(store: Repository, number: int) -> Path:
    """Flip a bit of a stored chunk."""
    (place,) = store._index.locate(DOMAIN, [record(number).chunk_id])
    path = store.path / "packs" / place.pack.hex()[:2] / place.pack.hex()
    raw = bytearray(path.read_bytes())
    raw[place.entry.offset + 160] ^= 4
    path.write_bytes(raw)
    return path


class Watched:
    """A scrub, and what it told."""

    def __init__(self, store: Repository, copy: Repository | None = None, **order: object) -> None:
        self.events: list[object] = []
        bus = EventBus()
        bus.subscribe(self.events.append)
        self.scrub = Scrub(ScrubOrder("main", **order), store, ManualClock(), bus, copy)  # type: ignore[arg-type]

    async def run(self) -> ScrubOutcome:
        return await self.scrub.run()

    def seen(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


async def test_a_sound_repository_is_sound_and_everything_was_looked_at(store):
    watched = Watched(store)
    outcome = await watched.run()
    assert (outcome.left, outcome.report.records, outcome.report.points) == (0, CHUNKS, 2)
    assert outcome.report.clean
    last = watched.seen(ScrubProgress)[-1]
    assert last.packs == last.packs_total == len(packs(store))
    assert last.bytes_checked == last.bytes_total == sum(path.stat().st_size for path in packs(store))


async def test_damage_is_told_at_once_and_healed_only_where_that_is_asked_for(store):
    path = hurt(store, 3)
    watched = Watched(store)
    assert (await watched.run()).left == 3, "a pack, and two points"
    assert next(event.where for event in watched.seen(DamageFound)).endswith(path.name)
    assert path.exists()
    outcome = await Watched(store, heal=True).run()
    assert (outcome.healed_packs, outcome.healed.lost, outcome.left) == (1, 1, 2)
    assert [(tenant, chunk.chunk_id) for tenant, chunk in store.lost_chunks()] == [("t", record(3).chunk_id)]


async def test_a_copy_supplies_the_very_same_records_and_older_points_are_whole(store, copy):
    was = {number: bytes(store.read(DOMAIN, record(number).chunk_id, [KEY]).stored) for number in range(CHUNKS)}
    for number in (3, 30):
        hurt(store, number)
    outcome = await Watched(store, copy, heal=True).run()
    assert (outcome.left, outcome.healed.supplied, outcome.healed.lost) == (0, 2, 0)
    assert was == {number: bytes(store.read(DOMAIN, record(number).chunk_id, [KEY]).stored) for number in range(CHUNKS)}
    assert store.scrub().clean
    store.rebuild_index()
    assert store.scrub().clean
    assert list(store.lost_chunks()) == []


async def test_what_was_lost_long_ago_is_supplied_by_a_copy_that_came_later(store, copy):
    hurt(store, 3)
    await Watched(store, heal=True).run()
    # A run has sent it again since, under another key: the older points stay without it, and no scrub can tell.
    writer = store.writer(DOMAIN, "t")
    writer.append(record(3, OTHER))
    writer.close()
    assert store.scrub().clean
    assert len(list(store.lost_chunks())) == 1
    outcome = await Watched(store, copy, heal=True).run()
    assert (outcome.left, outcome.supplied.chunks) == (0, 1)
    assert store.read(DOMAIN, record(3).chunk_id, [KEY]).key_id == KEY
    assert list(store.lost_chunks()) == []
    assert list((store.path / "quarantine").glob("*.lost")) == []


async def test_a_pack_that_is_gone_comes_back_from_a_copy(store, copy):
    victims = packs(store)[:2]
    for path in victims:
        path.unlink()
    outcome = await Watched(store, copy, heal=True).run()
    assert (outcome.healed_packs, outcome.left, outcome.healed.lost) == (2, 0, 0)
    assert store.scrub().clean


async def test_what_nobody_knows_any_more_is_found_by_what_points_need(store, copy):
    packs(store)[0].unlink()
    store.rebuild_index()
    outcome = await Watched(store, copy, heal=True).run()
    assert outcome.left == 0 and outcome.supplied.chunks > 0
    assert store.scrub().clean


async def test_a_copy_that_is_damaged_at_the_same_place_supplies_nothing(store, copy):
    hurt(store, 3)
    hurt(copy, 3)
    outcome = await Watched(store, copy, heal=True).run()
    assert (outcome.healed.lost, outcome.healed.supplied, outcome.left) == (1, 0, 2)
    with pytest.raises(DamagedData):
        store.read(DOMAIN, record(3).chunk_id)


async def test_a_scrub_that_was_stopped_goes_on_where_it_was_and_names_what_it_had_found(store, monkeypatch):
    names = sorted(bytes.fromhex(path.name) for path in packs(store))
    damaged = packs(store)[0]
    raw = bytearray(damaged.read_bytes())
    raw[-5] ^= 1
    damaged.write_bytes(raw)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    first = Watched(store)
    check, looked = first.scrub._scrubber.packs.check_pack, []
    with trio.CancelScope() as scope:

        def until(name: bytes, before: Callable[[int], None]) -> object:
            looked.append(name)
            if len(looked) == 4:
                trio.from_thread.run_sync(scope.cancel)
                trio.from_thread.check_cancelled()
            return check(name, before)

        first.scrub._scrubber.packs.check_pack = until
        await first.run()
    assert scope.cancelled_caught
    second = Watched(store)
    outcome = await second.run()
    assert outcome.resumed and "3 packs" in second.seen(Note)[0].text
    assert outcome.report.packs == len(names) - 3 + 1, "what was found damaged is looked at again"
    assert damaged.name in [event.where.rpartition("/")[2] for event in second.seen(DamageFound)]
    third = await Watched(store).run()
    assert not third.resumed and third.report.packs == len(names)


async def test_samples_take_what_was_not_proved_for_longest_until_all_were(store):
    seen: list[int] = []
    state = store.scrub_state()
    for _ in range(2):
        outcome = await Watched(store, share=0.5).run()
        seen.append(outcome.report.packs)
        assert state.read().cursor != bytes(32)
    assert sum(seen) >= len(packs(store))
    assert max(seen) < len(packs(store))


async def test_a_limit_holds(store, autojump_clock):
    total = sum(path.stat().st_size for path in packs(store))
    before = trio.current_time()
    await Watched(store, limit=total // 10).run()
    assert 9 < trio.current_time() - before < 12, "by the mock clock"


async def test_two_scrubs_at_once_heal_what_is_damaged_once(store, copy):
    for number in (3, 30):
        hurt(store, number)
    one, two = Watched(store, copy, heal=True), Watched(store, copy, heal=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
    assert store.scrub().clean
    assert one.scrub.outcome.left == two.scrub.outcome.left == 0
    for number in range(CHUNKS):
        store.read(DOMAIN, record(number).chunk_id, [KEY])


async def test_a_scrub_waits_with_healing_until_a_prune_has_ended(store, copy, monkeypatch):
    monkeypatch.setattr("transporter.jobs.scrub.TURN_AGAIN_SECONDS", 0.01)
    really, refused = Repository.heal, []

    def heal(repository, *arguments):
        if len(refused) < 3:
            with prune_lease(store.path / "leases" / "prune"), pytest.raises(RepositoryBusy) as busy:
                really(repository, *arguments)
            refused.append(busy.value)
            raise busy.value
        return really(repository, *arguments)

    hurt(store, 3)
    monkeypatch.setattr(Repository, "heal", heal)
    watched = Watched(store, copy, heal=True)
    outcome = await watched.run()
    assert len(refused) == 3 and outcome.left == 0 and store.scrub().clean
    told = [event.text for event in watched.events if isinstance(event, Note) and "healing waits" in event.text]
    assert len(told) == 1
    refused.clear()
    hurt(store, 30)
    monkeypatch.setattr("transporter.jobs.scrub.TURN_SECONDS", -1)
    with pytest.raises(RepositoryBusy):
        await Watched(store, copy, heal=True).run()


async def test_a_backup_beside_a_healing_scrub_loses_nothing(store, copy):
    hurt(store, 3)

    def write() -> None:
        writer = store.writer(DOMAIN, "t")
        for number in range(100, 160):
            writer.append(record(number))
            if number % 7 == 0:
                writer.sync()
        writer.close()
        needs = b"".join(record(number).chunk_id for number in (*range(CHUNKS), *range(100, 160)))
        store.commit_point("t", "j", b"r" * 16, b"head", needs, domain=DOMAIN)

    watched = Watched(store, copy, heal=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        nursery.start_soon(trio.to_thread.run_sync, write)
    assert watched.scrub.outcome.left == 0
    report = await Watched(store).run()
    assert report.report.clean and report.report.points == 3


async def test_a_state_that_is_damaged_only_means_to_begin_anew(store):
    await Watched(store, share=0.3).run()
    path = store.path / "index" / "scrub"
    for at in range(0, path.stat().st_size, 7):
        raw = bytearray(path.read_bytes())
        raw[at] ^= 8
        path.write_bytes(raw)
        assert store.scrub_state().read().cursor == bytes(32)
        raw[at] ^= 8
        path.write_bytes(raw)
    assert store.scrub_state().read().cursor != bytes(32)
    shutil.copyfile("/dev/null", path)
    assert not (await Watched(store).run()).resumed


async def test_results_are_taken_in_order_however_long_each_takes():
    taken: list[int] = []
    running = most = 0
    four = trio.Event()

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 4:
            four.set()
        await four.wait()
        for _ in range((number * 7) % 5 * 10):
            await trio.lowlevel.checkpoint()
        running -= 1
        return number * number

    async def take(number: int, square: int) -> None:
        assert square == number * number
        taken.append(number)

    with trio.fail_after(60):
        await InOrder(iter(range(50)), work, take).run(4)
    assert taken == list(range(50))
    assert most == 4

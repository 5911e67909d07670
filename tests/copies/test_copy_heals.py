"""A damaged repository is healed from a copy, at a peer or here, whichever of the two was the original."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from copy_world import contents, local_repository

from transporter.clock import SystemClock
from transporter.daemon.execute import execute
from transporter.daemon.execute_scrub import needs_peer
from transporter.daemon.requests import ScrubRequest
from transporter.errors import CannotConnect, UsageError
from transporter.events import EventBus, Note
from transporter.jobs import scrub_peer
from transporter.jobs.copy_plan import End
from transporter.jobs.scrub import Scrub, ScrubOrder
from transporter.jobs.scrub_copy import copy_here
from transporter.jobs.scrub_peer import open_copy_there
from transporter.link.broken import LinkBroken
from transporter.repository import Repository
from transporter.repository.record import HEADER_LENGTH
from transporter.service.copying_out import CopyOutService


def packs(store):
    return sorted((store.path / "packs").glob("*/*"))


def hurt(store, *, headers=False):
    """Flip a bit of every record of every pack, in its content or in its header; return what was stored."""
    was = {}
    for path in packs(store):
        entries = store._index.entries_of_pack(bytes.fromhex(path.name))
        raw = bytearray(path.read_bytes())
        for entry in entries:
            was[entry.domain, entry.chunk_id, entry.key_id] = bytes(
                raw[entry.offset : entry.offset + HEADER_LENGTH + entry.stored_length]
            )
            raw[entry.offset + (4 if headers else HEADER_LENGTH + entry.stored_length // 2)] ^= 1
        path.write_bytes(raw)
    assert was
    return was


def is_again(store, was):
    """Whether the very same records are there."""
    for (domain, chunk_id, key_id), record in was.items():
        assert store.hash_of(domain, chunk_id, key_id) == record[HEADER_LENGTH - 32 : HEADER_LENGTH]
        assert bytes(store.read(domain, chunk_id, [key_id]).stored) == record[HEADER_LENGTH:]
    assert store.scrub().clean
    assert list(store.lost_chunks()) == []


async def heal(node, store, source):
    """Heal as the node does."""
    bus, notes = EventBus(), []
    bus.subscribe(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    async with open_copy_there(node.context, End.of(source), store) as copy:
        order = ScrubOrder("main", heal=True)
        return await Scrub(order, store, SystemClock(), bus, copy, far=True).run(), notes


@pytest.mark.parametrize("job", ["docs", "none", "target"])
async def test_a_provider_heals_its_repository_from_its_copy_at_a_peer(world, job):
    await world.source.backup(job)
    await world.source.backup("docs")
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store)
    outcome, notes = await heal(world.target, store, "second/main")
    assert (outcome.left, outcome.healed.lost, outcome.supplied.chunks) == (0, 0, len(was))
    assert outcome.supplied.unproved == 0 and not [note for note in notes if "hash" in note]
    is_again(store, was)
    place = await world.source.restore(job, zone={"docs": "source"}.get(job, job), output="back")
    assert contents(place) == contents(world.source.tree)


async def test_a_copy_is_healed_from_the_original_at_a_peer(world):
    await world.source.backup()
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        with Repository.open(world.source.home.repository_path("here"), SystemClock()) as here:
            was = hurt(here)
            outcome, _ = await heal(world.source, here, "offsite/main")
            assert outcome.left == 0
            is_again(here, was)


async def test_a_copy_is_healed_from_another_copy_of_the_same(world):
    await world.source.backup()
    await world.copy(world.source, "offsite/main", "second/main")
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
        with Repository.open(world.source.home.repository_path("here"), SystemClock()) as here:
            was = hurt(here)
            assert (await heal(world.source, here, "second/main"))[0].left == 0
            is_again(here, was)


async def test_a_repository_is_healed_from_its_copy_in_a_repository_of_this_node(world):
    """A copy that `copy` made, not one made file by file: its chunks lie in another domain."""
    await world.source.backup()
    with local_repository(world.target):
        await world.copy(world.target, "main", "here")
        store = world.one.store()
        was = hurt(store)
        with Repository.open(world.target.home.repository_path("here"), SystemClock(), writable=False) as here:
            order = ScrubOrder("main", heal=True)
            copy = copy_here(here, store)
            outcome = await Scrub(order, store, SystemClock(), EventBus(), copy).run()
        assert outcome.left == 0
        is_again(store, was)


async def test_what_the_peer_made_up_is_not_stored(world, monkeypatch):
    """It has the right ids and the right lengths, and is proved by the peer's own repository."""
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store)
    really = CopyOutService._read

    def forge(self, chunk_id, without):
        record = really(self, chunk_id, without)
        stored = bytearray(record.stored)
        stored[len(stored) // 2] ^= 1
        return replace(record, stored=bytes(stored))

    monkeypatch.setattr(CopyOutService, "_read", forge)
    outcome, notes = await heal(world.target, store, "second/main")
    assert outcome.supplied.chunks == 0 and outcome.healed.lost == len(was) and outcome.left
    assert any("is not what was lost" in note for note in notes)
    monkeypatch.undo()
    # The lists stay: an honest one heals it later.
    outcome, _ = await heal(world.target, store, "second/main")
    assert outcome.left == 0
    is_again(store, was)


async def test_where_no_hash_is_left_it_is_said_and_lengths_are_compared(world, monkeypatch):
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store, headers=True)
    really = CopyOutService._read

    def shorter(self, chunk_id, without):
        record = really(self, chunk_id, without)
        return replace(record, stored=bytes(record.stored[:-1]))

    monkeypatch.setattr(CopyOutService, "_read", shorter)
    outcome, _ = await heal(world.target, store, "second/main")
    assert outcome.supplied.chunks == 0
    monkeypatch.undo()
    outcome, notes = await heal(world.target, store, "second/main")
    assert outcome.left == 0 and outcome.supplied.unproved == len(was)
    assert any("no hash is left here" in note for note in notes)
    is_again(store, was)


async def test_a_pack_that_is_gone_comes_back_from_the_peer(world):
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    for path in packs(store):
        os.unlink(path)
    outcome, _ = await heal(world.target, store, "second/main")
    assert outcome.left == 0 and store.scrub().clean
    await world.source.verify()


async def test_a_line_that_breaks_is_dialled_again_and_one_that_stays_away_is_told(world, monkeypatch):
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store)
    monkeypatch.setattr(scrub_peer, "PAUSE_SECONDS", 0.0)
    really, calls = CopyOutService._fetch, 0

    async def step(self, received):
        nonlocal calls
        calls += 1
        if calls > 1 if breaks == "after the first" else calls % 3 == 0:
            raise LinkBroken("cut by the test")
        return await really(self, received)

    monkeypatch.setattr(CopyOutService, "_fetch", step)
    breaks = "after the first"
    with pytest.raises(CannotConnect, match="does not supply chunks any more"):
        await heal(world.target, store, "second/main")
    # What came before is kept, and the rest is listed.
    assert len(list(store.lost_chunks())) == len(was) - 1
    breaks = "now and then"
    outcome, _ = await heal(world.target, store, "second/main")
    assert outcome.left == 0
    is_again(store, was)


async def test_a_point_that_goes_meanwhile_does_not_keep_the_others_from_being_asked_by(world):
    await world.source.backup()
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store)
    tenant, job = world.tenant(world.target), f"{world.tenant(world.source)}/docs"
    (_, newest) = world.there().points(tenant, job)

    async with open_copy_there(world.target.context, End.of("second/main"), store) as copy:
        world.there().keeping.remove(tenant, job, [newest.point_id], "")
        outcome = await Scrub(ScrubOrder("main", heal=True), store, SystemClock(), EventBus(), copy, far=True).run()
    assert outcome.left == 0
    is_again(store, was)


async def test_a_scrub_that_waits_for_a_peer_can_be_stopped(world, monkeypatch):
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    store = world.one.store()
    was = hurt(store)
    asked = trio.Event()

    async def silent(_self, _received):
        asked.set()

    monkeypatch.setattr(CopyOutService, "_fetch", silent)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal, world.target, store, "second/main")
        await asked.wait()
        nursery.cancel_scope.cancel()
    monkeypatch.undo()
    assert len(list(store.lost_chunks())) == len(was)
    assert (await heal(world.target, store, "second/main"))[0].left == 0
    is_again(store, was)


async def test_who_may_see_no_point_of_it_there_is_told_so(world):
    await world.source.backup()
    with pytest.raises(UsageError, match="no restore point that this repository has"):
        await heal(world.target, world.one.store(), "second/main")


async def test_an_idle_session_is_given_back_and_opened_again(world, monkeypatch):
    await world.source.backup()
    await world.copy(world.target, "main", "second/main")
    monkeypatch.setattr(scrub_peer, "IDLE_SECONDS", 0.0)
    opened = 0
    really = scrub_peer.open_source_there

    @asynccontextmanager
    async def counted(*how):
        nonlocal opened
        opened += 1
        async with really(*how) as source:
            yield source

    monkeypatch.setattr(scrub_peer, "open_source_there", counted)
    store = world.one.store()
    (ref,) = store.points(world.tenant(world.source), "docs")
    chunk = next(iter(store.read_needs(ref.tenant, "docs", ref.point_id)))
    async with open_copy_there(world.target.context, End.of("second/main"), store) as copy:
        for _ in range(3):
            ((key_id,),) = await trio.to_thread.run_sync(copy.have, ref.domain, [chunk])
            found = await trio.to_thread.run_sync(copy.read, ref.domain, chunk, [key_id])
            assert bytes(found.stored) == bytes(store.read(ref.domain, chunk, [key_id]).stored)
    assert opened >= 3


async def test_the_command_takes_a_peer_as_the_copy(world):
    await world.source.backup()
    with local_repository(world.source):
        await world.copy(world.source, "offsite/main", "here")
    with world.source.home.config_path.open("a") as config:
        config.write("[repositories.here]\n")
    with Repository.open(world.source.home.repository_path("here"), SystemClock()) as here:
        was = hurt(here)
    request = ScrubRequest(repository="here", heal=True, source="offsite/main")
    done = await execute(world.source.home, request, EventBus(), dict)
    assert done.exit_status == 0 and done.result["supplied"] == len(was) and done.result["lost"] == 0
    with Repository.open(world.source.home.repository_path("here"), SystemClock()) as here:
        is_again(here, was)


async def test_what_is_a_peer(world):
    def asked(source):
        return needs_peer(world.target.config, ScrubRequest(repository="main", heal=True, source=source))

    assert asked("second/main")
    assert not asked("main") and not asked("/srv/copy") and not asked("")

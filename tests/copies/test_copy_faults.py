"""What goes wrong on the way: lines that break, ends that change, lie, or are full. Nothing promised is lost."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import msgspec
import pytest
import trio
from copy_world import contents, local_repository
from world import small_tree

from protocol.messages import Committed
from transporter.errors import DamagedData, DiskFull, QuotaExceeded, RefusedByPeer, UsageError
from transporter.events import Note, SecurityEvent
from transporter.jobs import copy as copy_module
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.jobs.copy_there import SourceThere, TargetThere
from transporter.link.broken import LinkBroken
from transporter.points import copied
from transporter.repository import files
from transporter.service.copying_in import CopyInService
from transporter.service.copying_out import CopyOutService

WAY = ("offsite/main", "second/main")


def copies(world):
    return world.there().points(world.tenant(world.source), "docs")


def broken_once(monkeypatch, kind, name, at=1):
    """Have a step of a service break its line, once."""
    really = getattr(kind, name)
    calls = 0

    async def step(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == at:
            raise LinkBroken("cut by the test")
        return await really(self, *arguments)

    monkeypatch.setattr(kind, name, step)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (CopyInService, "_forms"),
        (CopyInService, "_acknowledge"),
        (CopyInService, "_digests"),
        (CopyInService, "_note_needs"),
        (CopyInService, "_commit"),
        (CopyOutService, "_get_copy"),
        (CopyOutService, "_get_needs"),
        (CopyOutService, "_get_forms"),
        (CopyOutService, "_fetch"),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
async def test_a_line_that_breaks_is_dialled_again_and_only_what_is_missing_is_copied(world, monkeypatch, kind, name):
    await world.source.backup()
    broken_once(monkeypatch, kind, name)
    run = copy_module.CopyRun(
        world.context(world.source), CopyOrder("copy", *map(End.of, WAY), jobs=("docs",), through=True)
    )
    # Something has moved by then: a first dial that fails is told at once.
    run.counters.moved = 1
    done = await run.run()
    assert (done.points, done.redials) == (1, 1)
    assert world.there().scrub().clean
    place = await world.source.restore("docs", source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)


async def test_what_became_durable_before_a_break_is_not_sent_again(world, monkeypatch):
    small_tree(world.source.tree / "more", size=6_000_000)
    await world.source.backup()
    sent = []
    really = CopyInService._to_record

    def counting(self, header, stored):
        sent.append(header.id)
        return really(self, header, stored)

    monkeypatch.setattr(CopyInService, "_to_record", counting)
    broken_once(monkeypatch, CopyInService, "_commit")
    done = await world.copy(world.source, *WAY, jobs=("docs",))
    assert (done.points, done.redials) == (1, 1)
    assert len(sent) == len(set(sent))


async def test_a_target_that_says_it_has_chunks_which_it_lacks_gets_no_point(world, monkeypatch):
    await world.source.backup()

    really = SourceThere.forms

    async def as_the_source(self, ids):
        found = await really(self, ids)
        world.keys = dict(zip(ids, found, strict=True))
        return found

    async def lies(self, ids):
        while not set(ids) <= getattr(world, "keys", {}).keys():
            await trio.sleep(0.001)
        return [world.keys[chunk_id] for chunk_id in ids]

    monkeypatch.setattr(SourceThere, "forms", as_the_source)
    monkeypatch.setattr(TargetThere, "forms", lies)
    with pytest.raises(DamagedData, match="is not there whole"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert copies(world) == []


async def test_a_target_that_stores_something_else_is_found_out(world, monkeypatch):
    await world.source.backup()
    really = CopyInService._to_record

    def altered(self, header, stored):
        record = really(self, header, stored)
        return replace(record, stored=bytes(record.stored[:-1]) + bytes([record.stored[-1] ^ 1]))

    monkeypatch.setattr(CopyInService, "_to_record", altered)
    with pytest.raises(DamagedData, match="is not what the source has"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert copies(world) == []


async def test_a_target_that_committed_nothing_is_a_security_event(world, monkeypatch):
    await world.source.backup()

    async def commit(self, received):
        await self._session.link.send(Committed(point=received.message.point, hash=b"h" * 32))

    monkeypatch.setattr(CopyInService, "_commit", commit)
    with pytest.raises(DamagedData, match="does not show restore point"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert world.source.seen(SecurityEvent)


async def test_a_source_that_gives_another_list_of_chunks_is_found_out(world, monkeypatch):
    await world.source.backup()
    really = SourceThere.needs

    async def reversed_(self, start):
        part = await really(self, start)
        return b"".join(reversed(copied.ids_of(part)))

    monkeypatch.setattr(SourceThere, "needs", reversed_)
    with pytest.raises(DamagedData, match="is not what was committed"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert copies(world) == []


async def test_a_source_that_gives_another_point_than_this_node_committed_is_a_security_event(world, monkeypatch):
    await world.source.backup()
    last = world.source.catalog.last_point("docs")
    world.source.catalog.put_last_point(replace(last, point_hash=b"x" * 32))
    with pytest.raises(DamagedData, match="not the one that this node committed"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert world.source.seen(SecurityEvent) and copies(world) == []


async def test_a_source_that_lists_points_which_are_not_there_keeps_none_of_the_others_back(world, monkeypatch):
    await world.source.backup()
    await world.source.backup()
    store, tenant = world.one.store(), world.tenant(world.source)
    gone, stays = store.points(tenant, "docs")
    path = store.path / "points" / tenant / "docs" / gone.point_id.hex()
    really = SourceThere.open_point

    async def open_point(self, row):
        if row.row.point == gone.point_id and path.exists():
            path.unlink()  # removed this very moment
        return await really(self, row)

    monkeypatch.setattr(SourceThere, "open_point", open_point)
    done = await world.copy(world.source, *WAY, jobs=("docs",))
    assert done.points == 1 and [ref.point_id for ref in copies(world)] == [stays.point_id]
    assert any("was removed" in note.text for note in world.source.seen(Note))


async def test_a_chunk_that_the_source_lost_costs_its_points_alone(world):
    await world.source.backup()
    (world.source.tree / "large").write_bytes(os.urandom(300_000))
    await world.source.backup()
    store, tenant = world.one.store(), world.tenant(world.source)
    first, second = store.points(tenant, "docs")
    needs = [set(store.read_needs(tenant, "docs", ref.point_id)) for ref in (first, second)]
    lost = (needs[0] - needs[1]).pop()
    (place,) = store._index.locate(first.domain, [lost])
    pack = store._layout.pack(place.pack)
    raw = bytearray(pack.read_bytes())
    raw[place.entry.offset + 200] ^= 1
    pack.write_bytes(raw)
    with pytest.raises(DamagedData, match="is damaged at offsite/main"):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert [ref.point_id for ref in copies(world)] == [second.point_id]
    assert world.there().scrub().clean


async def test_a_full_disk_is_told_as_such_and_the_next_run_goes_on(world, monkeypatch):
    await world.source.backup()
    full = True
    really = files.write_at

    def write_at(fd, data, offset):
        if full and "second" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, "no space")
        return really(fd, data, offset)

    monkeypatch.setattr(files, "write_at", write_at)
    with pytest.raises(DiskFull):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert copies(world) == []
    full = False
    assert (await world.copy(world.source, *WAY, jobs=("docs",))).points == 1
    assert world.there().scrub().clean


async def test_a_quota_is_kept_to(world):
    await world.source.backup()
    world.there().set_quota(1000)
    with pytest.raises(QuotaExceeded):
        await world.copy(world.source, *WAY, jobs=("docs",))
    assert copies(world) == []


async def test_plain_points_do_not_go_into_a_repository_that_is_encrypted_at_rest(world, monkeypatch):
    await world.source.backup("none")
    store = world.there()
    store._format = msgspec.structs.replace(store._format, encrypted=True)
    with pytest.raises((RefusedByPeer, UsageError), match="encrypted at rest"):
        await world.copy(world.source, *WAY, jobs=("none",))
    assert store.points(world.tenant(world.source), "none") == []


async def test_a_repository_of_this_node_that_cannot_be_written_is_named(world):
    await world.source.backup()
    with local_repository(world.source), pytest.raises(UsageError, match="no restore points"):
        await world.copy(world.source, "offsite/main", "here", jobs=("nothing",))

"""A point whose key came by a recovery opens alike whatever is done with it, and gets a slot of a present password."""

from __future__ import annotations

import pytest
from recovering import recover
from world import contents

from transporter.clock import ManualClock
from transporter.errors import CorruptedPoint, JobBusy, NoKey, UnknownPassword, UsageError
from transporter.events import Note, SearchHits
from transporter.jobs.drill import drill, explain
from transporter.jobs.recover import request_recovery
from transporter.jobs.recover_keep import keep_recovered
from transporter.jobs.rewrap import rewrap
from transporter.jobs.rewrap_lock import rewrap_lock
from transporter.jobs.search import SearchOrder, search
from transporter.keys.keyset import generate_keyset
from transporter.workloads.fsi_query import Query


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


def points(world, job="docs"):
    return [ref.point_id for ref in world.store().points(world.tenant(world.source), job)]


async def finds(node, job):
    before = len(node.seen(SearchHits))
    report = await search(node.context, SearchOrder(Query("*"), job=job))
    assert report.error() is None, report
    return [hit.path for event in node.seen(SearchHits)[before:] for hit in event.hits]


async def does_everything(world, output, job="docs"):
    """Whatever opens a point: restore, verify, search, and a run that builds on it."""
    assert contents(await world.source.restore(job, output=output)) == contents(world.source.tree)
    assert (await world.source.verify(job)).chunks > 0
    assert await finds(world.source, job)


@pytest.fixture
async def recovered(world, keyset):
    """The id of a point of ``source`` whose password nobody has, and whose key an escrow gave back."""
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    await world.source.backup()
    world.source.keys.remove_password("office")
    (point,) = points(world)
    recover(world.source, await request_recovery(world.source.context, point.hex(), ""), keyset)
    return point.hex()


async def test_it_opens_alike_whatever_is_done_with_it(world, recovered):
    await does_everything(world, "out")
    assert len([note for note in world.source.seen(Note) if "`transporter recover keep`" in note.text]) == 3
    assert not [note for note in world.source.seen(Note) if "would be lost" in note.text]


async def test_what_the_target_sealed_opens_alike_too(world, keyset):
    """There the target has the keys, and it is the target that asks its escrow."""
    world.target.keys.add_keyset(keyset.public, None, event="keyset.import")
    await world.source.backup("target")
    world.target.keys.remove_password("vault")
    (point,) = points(world, "target")
    with pytest.raises(NoKey):
        await world.source.verify("target")
    recover(world.target, await request_recovery(world.target.context, point.hex(), ""), keyset)
    await does_everything(world, "out", "target")
    assert await finds(world.target, "target")
    world.target.keys.add_password("new", b"a new one")
    assert (await keep_recovered(world.target.context, point.hex(), "new")).added
    world.target.keys.forget_recovered(point.hex())
    world.target.keys.drop_storage_key(point)
    await does_everything(world, "again", "target")


async def test_a_password_of_today_opens_it(world, recovered):
    world.source.keys.add_password("new", b"a new one")
    assert (await keep_recovered(world.source.context, recovered[:8], "new")).added
    assert world.source.keys.use_of("new").points == 1
    event = next(e for e in reversed(list(world.source.keys.audit.entries())) if e["event"] == "recovery.keep")
    assert (event["point"], event["password"], event["place"]) == (recovered, "new", "offsite/main")
    # By its slot alone: nothing that this node kept of it is left.
    world.source.keys.forget_recovered(recovered)
    world.source.keys.drop_storage_key(bytes.fromhex(recovered))
    before = len(world.source.seen(Note))
    await does_everything(world, "out")
    assert not [note for note in world.source.seen(Note)[before:] if "recover keep" in note.text]
    assert (await drill(world.source.context)).closed == []
    (found,) = await explain(world.source.context, recovered)
    # The lost password's slot stays: somebody may find it yet.
    assert sorted(way["kind"] for way in found["ways"]) == ["keyset", "password", "password"]
    world.source.keys.remove_password("new")
    password = {"password": b"a new one"}
    assert contents(await world.source.restore(output="typed", **password)) == contents(world.source.tree)


async def test_twice_is_once(world, recovered):
    world.source.keys.add_password("new", b"a new one")
    assert (await keep_recovered(world.source.context, recovered, "new")).added
    slots = world.store().slots(bytes.fromhex(recovered))
    assert not (await keep_recovered(world.source.context, recovered, "new", "offsite/main")).added
    assert world.store().slots(bytes.fromhex(recovered)) == slots and len(slots) == 3


async def test_a_later_change_of_that_password_reaches_it(world, recovered):
    world.source.keys.add_password("new", b"a new one")
    await keep_recovered(world.source.context, recovered, "new")
    world.source.keys.change_password("new", b"another")
    assert (await rewrap(world.source.context)).replaced == 1
    world.source.keys.forget_recovered(recovered)
    world.source.keys.drop_storage_key(bytes.fromhex(recovered))
    await does_everything(world, "out")


async def test_what_cannot_be_kept_stays_as_it_is(world, recovered, monkeypatch):
    world.source.keys.add_password("new", b"a new one")
    context, store = world.source.context, world.store()
    slots = store.slots(bytes.fromhex(recovered))
    with pytest.raises(UnknownPassword):
        await keep_recovered(context, recovered, "nobody")
    with pytest.raises(UsageError, match="no restore point begins"):
        await keep_recovered(context, "0" * 8, "new")
    monkeypatch.setattr("transporter.jobs.rewrap_lock.PATIENCE_SECONDS", 0.1)
    async with rewrap_lock(world.source.home):
        with pytest.raises(JobBusy):
            await keep_recovered(context, recovered, "new")
    world.source.keys.forget_recovered(recovered)
    with pytest.raises(NoKey, match="came by a recovery"):
        await keep_recovered(context, recovered, "new")
    await world.source.backup("none")
    with pytest.raises(UsageError, match="not sealed"):
        await keep_recovered(world.target.context, points(world, "none")[0].hex(), "vault")
    assert store.slots(bytes.fromhex(recovered)) == slots


async def test_a_full_point_says_so(world, recovered):
    world.source.keys.add_password("new", b"a new one")
    for number in range(14):
        world.store().put_slot(bytes.fromhex(recovered), bytes([number]) * 16, b"junk")
    with pytest.raises(NoKey, match="no room"):
        await keep_recovered(world.source.context, recovered, "new")


async def test_verify_proves_all_the_same_that_a_slot_is_left(world, keyset, recovered):
    """The key that came opens it here; where every slot is rubbish, it opens nowhere else."""
    store = world.store()
    for slot_id in store.slots(bytes.fromhex(recovered)):
        path = store.path / "slots" / recovered / slot_id.hex()
        path.unlink()
    assert contents(await world.source.restore()) == contents(world.source.tree)
    with pytest.raises(CorruptedPoint, match=f"{recovered[:8]} is whole, but"):
        await world.source.verify()

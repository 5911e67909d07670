"""Which ways open a point, by what is written on them and by trying."""

from __future__ import annotations

import pytest
from world import PASSWORD, contents

from transporter.errors import CannotConnect, CorruptedPoint, NoKey
from transporter.jobs.drill import drill, explain, unknown_salts
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.keys.wrap import point_context
from transporter.link.address import Address
from transporter.repository import SlotChange


def point_of(world, job="docs"):
    (ref,) = world.store().points(world.tenant(world.source), job)
    return ref.point_id


def states(found):
    return [(way["kind"], way["name"], way["state"]) for way in found["ways"]]


async def test_every_point_that_opens_counts(world):
    await world.source.backup()
    await world.source.backup("none")
    report = await drill(world.source.context)
    assert (report.points, report.closed, report.unreadable, report.unreached) == (1, [], [], {})
    report.check()
    assert list(world.source.keys.audit.entries())[-1] | {"event": "drill", "points": 1, "closed": 0}


async def test_a_point_that_nothing_opens_is_listed_with_its_ways(world):
    await world.source.backup()
    world.source.keys.remove_password("office")
    report = await drill(world.source.context)
    (closed,) = report.closed
    assert (closed["job"], closed["repository"], states(closed)) == (
        "docs",
        "offsite/main",
        [("password", "", "must be typed")],
    )
    with pytest.raises(NoKey) as caught:
        report.check()
    assert caught.value.exit_status == 6


async def test_a_way_that_only_looks_live_is_tried(world):
    """The slot is of a kept password and sound, but its key is not the point's: `explain` cannot see that."""
    await world.source.backup()
    point, store, key = point_of(world), world.store(), world.source.keys.user_key("office")
    where = point_context(world.tenant(world.source), store.repository_id, point)
    wrong = make_password_slot(StorageKey.generate(), key, key.salt, key.params, where)
    change = SlotChange(point, b"W" * 16, wrong, tuple(store.slots(point)))
    store.replace_slots(world.tenant(world.source), "docs", [change], 0)
    # The key that this home kept still opens it, and nothing would without this home.
    report = await drill(world.source.context)
    (alone,) = report.here_alone
    assert report.closed == []
    assert states(alone) == [("storage key", "", "live"), ("password", "office", "opens nothing")]
    with pytest.raises(CorruptedPoint, match="1 of 1"):
        report.check()
    assert list(world.source.keys.audit.entries())[-1]["closed"] == 1
    world.source.keys.drop_storage_key(point)
    (found,) = await explain(world.source.context, point.hex()[:6])
    assert states(found) == [("password", "office", "live")]
    (closed,) = (await drill(world.source.context)).closed
    assert states(closed) == [("password", "office", "opens nothing")]


async def test_a_key_that_is_kept_will_do_while_there_is_a_sound_slot(world):
    await world.source.backup()
    key = world.source.keys.storage_key(point_of(world))
    world.source.keys.remove_password("office")
    world.source.keys.put_storage_key(point_of(world), key, world.source.keys.add_password("other", b"other"))
    report = await drill(world.source.context)
    report.check()
    assert (report.points, report.here_alone) == (1, [])


async def test_explain_opens_nothing(world, monkeypatch):
    await world.source.backup()

    def fails(*_arguments, **_named):
        raise AssertionError("a slot was opened")

    monkeypatch.setattr("transporter.points.ways.open_slot", fails)
    (found,) = await explain(world.source.context, point_of(world).hex())
    assert ("password", "office", "live") in states(found) and ("storage key", "", "live") in states(found)
    assert await explain(world.source.context, "ffffffff") == []


async def test_during_a_change_the_old_password_is_a_live_way(world):
    await world.source.backup()
    world.source.keys.change_password("office", b"another")
    assert (await drill(world.source.context)).closed == []


async def test_at_the_target_its_own_points_and_no_others(world):
    await world.source.backup("docs")
    await world.source.backup("target")
    await world.source.backup("rest")
    report = await drill(world.target.context)
    assert (report.points, report.closed) == (2, [])
    world.target.keys.remove_password("vault")
    report = await drill(world.target.context)
    assert {closed["job"] for closed in report.closed} == {"target", "rest"}


async def test_places_that_are_not_reached_are_named(world):
    await world.source.backup()
    world.source.dials(Address("127.0.0.1", 9))
    report = await drill(world.source.context)
    assert set(report.unreached) == {"offsite/main", "offsite/rest"}
    with pytest.raises(CannotConnect):
        report.check()
    with pytest.raises(CannotConnect):
        await explain(world.source.context, "0000")


async def test_what_it_says_is_what_a_restore_does(world):
    await world.source.backup()
    assert (await drill(world.source.context)).closed == []
    assert contents(await world.source.restore()) == contents(world.source.tree)
    world.source.keys.remove_password("office")
    with pytest.raises(NoKey):
        await world.source.restore(output="closed")
    assert contents(await world.source.restore(output="typed", password=PASSWORD)) == contents(world.source.tree)


async def test_passwords_that_are_not_kept_are_known_by_what_slots_say(world):
    await world.source.backup()
    key = world.source.keys.user_key("office")
    assert await unknown_salts(world.source.context) == []
    world.source.keys.remove_password("office")
    (facts,) = await unknown_salts(world.source.context)
    assert (facts["salt"], facts["points"], facts["memory_kib"]) == (key.salt.hex(), 1, key.params.memory_kib)
    # The same words under another salt open nothing; the very hash does, and the next run builds on the point.
    world.source.keys.add_password("other", PASSWORD)
    with pytest.raises(NoKey):
        await world.source.restore(output="closed")
    world.source.keys.remember_hash(
        "office", hash_password(PASSWORD, bytes.fromhex(facts["salt"]), KdfParameters(8, 1, 1))
    )
    assert (await world.source.backup()).kind == "incremental"
    assert await unknown_salts(world.source.context) == []

"""Keysets over the whole way: new points, points that are there already, and a recovery after everything was lost."""

from __future__ import annotations

import pytest
from recovering import recover
from world import contents

from transporter.clock import ManualClock
from transporter.errors import JobBusy, NoKey, RefusedByPeer, UsageError
from transporter.jobs.context import job_lock
from transporter.jobs.drill import drill, explain
from transporter.jobs.keyset_apply import apply_keysets
from transporter.jobs.keyset_drill import write_drill
from transporter.jobs.points import Where, list_points
from transporter.jobs.recover import request_recovery
from transporter.jobs.rewrap import rewrap
from transporter.keys.keyset import generate_keyset
from transporter.keys.keyset_drill import drill_point, read_drill
from transporter.keys.node_key import pin_of
from transporter.keys.recovery import read_request
from transporter.keys.slot import read_keyset_slot
from transporter.service import answers


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026", ManualClock())


@pytest.fixture(scope="module")
def second():
    return generate_keyset("2027", ManualClock())


def point_of(world, job="docs"):
    return world.store().points(world.tenant(world.source), job)[-1].point_id


def keysets_on(world, point):
    found = [read_keyset_slot(slot) for slot in world.store().slots(point).values() if slot != b"junk"]
    return sorted(parts.name for parts in found if parts is not None)


async def test_new_points_are_wrapped_for_every_active_keyset(world, keyset, second):
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    world.source.keys.add_keyset(second.public, None, event="keyset.import")
    await world.source.backup()
    assert keysets_on(world, point_of(world)) == ["2026", "2027"]
    world.source.keys.retire_keyset("2026")
    (world.source.tree / "more").write_bytes(b"more")
    await world.source.backup()
    assert keysets_on(world, point_of(world)) == ["2027"]
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_what_the_target_seals_is_wrapped_for_the_targets_keysets(world, keyset):
    world.target.keys.add_keyset(keyset.public, None, event="keyset.import")
    await world.source.backup("target")
    await world.source.backup()
    assert keysets_on(world, point_of(world, "target")) == ["2026"]
    assert keysets_on(world, point_of(world)) == []


async def test_points_that_are_there_already_are_wrapped_afterwards(world, keyset):
    await world.source.backup()
    await world.source.backup("target")
    assert keysets_on(world, point_of(world)) == []
    for node in (world.source, world.target):
        node.keys.add_keyset(keyset.public, None, event="keyset.import")
    report = await apply_keysets(world.source.context)
    assert (report.points, report.added, report.closed, report.full) == (1, 1, [], [])
    trail = [entry for entry in world.source.keys.audit.entries() if entry["event"].startswith("keyset.appl")]
    assert [(entry["event"], entry.get("slots"), entry.get("whole")) for entry in trail] == [
        ("keyset.apply", None, None),
        ("keyset.applied", 1, True),
    ]
    assert (await apply_keysets(world.target.context)).added == 1
    for job in ("docs", "target"):
        assert keysets_on(world, point_of(world, job)) == ["2026"]
        assert contents(await world.source.restore(job, output=job)) == contents(world.source.tree)
    assert (await apply_keysets(world.source.context)).added == 0
    assert world.store().scrub().clean


async def test_of_a_point_that_nothing_opens_nothing_can_be_wrapped(world, keyset):
    await world.source.backup()
    world.source.keys.remove_password("office")
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    with pytest.raises(NoKey, match="1 restore points"):
        await apply_keysets(world.source.context)
    (*_, last) = world.source.keys.audit.entries()
    assert (last["event"], last["whole"]) == ("keyset.applied", False)


async def test_a_lost_password_is_no_lost_point(world, keyset):
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    await world.source.backup()
    world.source.keys.remove_password("office")
    point = point_of(world)
    with pytest.raises(NoKey):
        await world.source.restore(output="closed")
    (found,) = await explain(world.source.context, point.hex())
    assert [(way["kind"], way["name"], way["state"]) for way in found["ways"]] == [
        ("password", "", "must be typed"),
        ("keyset", "2026", "must be asked for"),
    ]
    recover(world.source, await request_recovery(world.source.context, point.hex()[:8], ""), keyset)
    assert contents(await world.source.restore()) == contents(world.source.tree)
    assert (await drill(world.source.context)).closed == []
    events = [entry["event"] for entry in world.source.keys.audit.entries()]
    assert events[-3:] == ["recovery.request", "recovery.apply", "drill"]


async def test_without_a_keyset_there_is_nobody_to_ask(world, keyset):
    await world.source.backup()
    with pytest.raises(NoKey, match="no slot of any keyset"):
        await request_recovery(world.source.context, point_of(world).hex(), "")
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    await apply_keysets(world.source.context)
    with pytest.raises(NoKey, match="2027"):
        await request_recovery(world.source.context, point_of(world).hex(), "2027")
    # Nor with one that nobody here has vouched for.
    world.source.keys.remove_keyset("2026")
    with pytest.raises(NoKey, match=keyset.public.fingerprint) as raised:
        await request_recovery(world.source.context, point_of(world).hex(), "")
    assert "fingerprint" in raised.value.remedy
    with pytest.raises(UsageError, match="4 digits"):
        await request_recovery(world.source.context, point_of(world).hex()[:3], "")


async def test_one_bad_slot_is_in_nobodys_way(world, keyset):
    """Whoever holds the repository can add one; the sound ones, and other points, are used all the same."""
    await world.source.backup()
    (world.source.tree / "more").write_bytes(b"more")
    await world.source.backup()
    first, last = (ref.point_id for ref in world.store().points(world.tenant(world.source), "docs"))
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    for point in (first, last):
        world.store().put_slot(point, b"!" * 16, b"junk")
    assert (await apply_keysets(world.source.context)).added == 2
    for point in (first, last):
        assert keysets_on(world, point) == ["2026"]
        recover(world.source, await request_recovery(world.source.context, point.hex(), ""), keyset)


async def test_a_full_point_is_named_and_the_others_get_their_slots(world, keyset):
    await world.source.backup()
    (world.source.tree / "more").write_bytes(b"more")
    await world.source.backup()
    full, other = (ref.point_id for ref in world.store().points(world.tenant(world.source), "docs"))
    for number in range(15):
        world.store().put_slot(full, bytes([number]) * 16, b"junk")
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    with pytest.raises(NoKey, match=f"1 restore points have no room.*{full.hex()}"):
        await apply_keysets(world.source.context)
    assert keysets_on(world, other) == ["2026"] and keysets_on(world, full) == []


async def test_a_job_that_runs_meanwhile_is_waited_for(world, keyset):
    await world.source.backup()
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    with job_lock(world.source.home, "docs"), pytest.raises(JobBusy, match="1 slots were added, but job 'docs'"):
        await apply_keysets(world.source.context)
    assert (await apply_keysets(world.source.context)).added == 0


async def test_a_change_of_the_password_leaves_the_keysets_slots(world, keyset):
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    await world.source.backup()
    world.source.keys.change_password("office", b"another password")
    await rewrap(world.source.context)
    assert keysets_on(world, point_of(world)) == ["2026"]
    recover(world.source, await request_recovery(world.source.context, point_of(world).hex(), ""), keyset)
    assert contents(await world.source.restore()) == contents(world.source.tree)


async def test_the_newest_keyset_is_asked_unless_another_is_named(world, keyset):
    later = generate_keyset("later", ManualClock(wall_ns=keyset.public.created_ns + 10**18))
    for each in (keyset, later):
        world.source.keys.add_keyset(each.public, None, event="keyset.import")
    await world.source.backup()
    point = point_of(world).hex()
    assert read_request(await request_recovery(world.source.context, point, ""))[0].keyset == later.public.id
    assert read_request(await request_recovery(world.source.context, point, "2026"))[0].keyset == keyset.public.id


async def test_a_drill_of_a_keyset_meets_every_sealed_point(world, keyset, second, tmp_path):
    await world.source.backup()
    world.source.keys.add_keyset(keyset.public, None, event="keyset.import")
    (world.source.tree / "more").write_bytes(b"more")
    await world.source.backup()
    await world.source.backup("none")
    assert await write_drill(world.source.context, tmp_path / "drill") == 2
    assert [path.name for path in tmp_path.iterdir() if "drill" in path.name] == ["drill"]
    with (tmp_path / "drill").open("rb") as file:
        *points, end = read_drill(file)
    assert pin_of(end.node) == world.source.identity.pin
    problems = [drill_point(point, keyset, lambda maker: maker == pin_of(end.node)).problem for point in points]
    assert sorted(problems) == ["", "it has no slot of this keyset"]
    await apply_keysets(world.source.context)
    assert await write_drill(world.source.context, tmp_path / "drill") == 2
    with (tmp_path / "drill").open("rb") as file:
        *points, end = read_drill(file)
    assert [drill_point(point, keyset, lambda _maker: True).problem for point in points] == ["", ""]
    assert all(drill_point(point, second, lambda _maker: True).problem for point in points)


async def test_a_point_list_that_is_no_text_is_an_error_of_the_peer(world, monkeypatch):
    await world.source.backup()
    monkeypatch.setattr(answers.msgspec.msgpack, "encode", ill(answers.msgspec.msgpack.encode))
    with pytest.raises(RefusedByPeer, match="not valid"):
        await list_points(world.source.context, Where("offsite", "main", ""))


def ill(encode):
    """The name of a job that is not UTF-8, as a hostile peer may write it."""
    return lambda rows: encode(rows).replace(b"docs", b"d\xffcs") if isinstance(rows, list) else encode(rows)

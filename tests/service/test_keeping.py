"""Removal, pins, retention and the chain, from the source over real sockets to the repository."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from msgspec import structs
from world import open_world

from protocol.keeping_messages import PinPoint, PointPinned, PointsRemoved, RemovePoints
from transporter.catalog_chain import THERE
from transporter.clock import SystemClock
from transporter.config import JobConfig
from transporter.daemon.housekeeping import keep_house, let_go_of_removed_packs
from transporter.errors import PointsStay, RefusedByPeer, UsageError
from transporter.events import Note, SecurityEvent
from transporter.jobs.ask import ask, asking
from transporter.jobs.chain import note_removing
from transporter.jobs.drill import drill
from transporter.jobs.keeping_there import act_there, faults_there, recycled_there
from transporter.jobs.points import Where, list_points
from transporter.jobs.retention import retain
from transporter.quantities import Duration
from transporter.repository import ClockDoubtful, PointMissing, Rules
from transporter.retention import KeepPolicy, Minimum

WHERE = Where("offsite", "main", "docs")
DAY = 86_400.0
NS = 10**9


class MovingClock(SystemClock):
    """The real clock, moved by days: sessions need one that goes."""

    def __init__(self):
        self.ahead_ns = 0

    def now_ns(self):
        return super().now_ns() + self.ahead_ns

    def advance(self, seconds):
        self.ahead_ns += int(seconds * NS)


@pytest.fixture
def clock():
    return MovingClock()


@pytest.fixture
async def world(clock):
    async with open_world(clock=clock) as made:
        peer = made.target.catalog.peer("office")
        made.target.catalog.put_peer(replace(peer, removes=("main", "rest")))
        yield made


async def days(world, clock, count):
    """A run a day; return the ids of the points."""
    made = []
    for number in range(count):
        (world.source.tree / "today").write_text(f"day {number}")
        made.append(bytes.fromhex((await world.source.backup()).point))
        clock.advance(DAY)
    return made


def there(world, job="docs"):
    return [ref.point_id for ref in world.store().points(world.tenant(world.source), job)]


def keys_of(node, points):
    return [node.keys.storage_key(point) is not None for point in points]


async def test_retention_from_the_source_removes_points_and_their_storage_keys(world, clock):
    points = await days(world, clock, 5)
    assert keys_of(world.source, points) == [True] * 5
    report = await retain(world.source.context, WHERE, KeepPolicy(last=2), dry_run=True)
    assert [each.keep for each in report.verdicts] == [False] * 3 + [True] * 2
    assert there(world) == points
    report = await retain(world.source.context, WHERE, KeepPolicy(last=2), dry_run=False)
    assert report.removed == {point.hex(): 0 for point in points[:3]}
    assert there(world) == points[3:]
    assert keys_of(world.source, points) == [False] * 3 + [True] * 2
    assert [each.point for each in world.source.catalog.chain(str(WHERE), "docs")] == points[3:]
    # And nobody takes what this node removed itself for what somebody else removed.
    await list_points(world.source.context, WHERE)
    await world.source.backup()
    assert world.source.seen(SecurityEvent) == []
    await world.source.restore()
    found = await drill(world.source.context)
    assert (found.points, found.closed) == (3, [])


async def test_a_job_with_a_policy_carries_it_out_after_each_run(world, clock):
    job = structs.replace(world.source.config.jobs["docs"], keep=KeepPolicy(last=2))
    world.source.config = structs.replace(world.source.config, jobs={**world.source.config.jobs, "docs": job})
    assert isinstance(job, JobConfig)
    points = await days(world, clock, 4)
    assert there(world) == points[2:]
    assert any("removed 1 restore points" in note.text for note in world.source.seen(Note))


async def test_without_the_right_a_node_only_adds(world, clock):
    world.target.catalog.set_may_remove("office", "main", allowed=False)
    points = await days(world, clock, 2)
    with pytest.raises(RefusedByPeer, match="may not remove"):
        await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=False)
    for action in ("remove", "undelete"):
        world.store().keeping.rules = Rules(recycle=DAY)
        with pytest.raises((RefusedByPeer, UsageError)):
            await act_there(world.source.context, action, WHERE, [points[0].hex()])
    assert there(world) == points
    assert keys_of(world.source, points) == [True, True]
    report = await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=True)
    assert [each.keep for each in report.verdicts] == [False, True]
    # A run goes well all the same, and says so.
    job = structs.replace(world.source.config.jobs["docs"], keep=KeepPolicy(last=1))
    world.source.config = structs.replace(world.source.config, jobs={**world.source.config.jobs, "docs": job})
    await world.source.backup()
    assert any("retention was not carried out" in note.text for note in world.source.seen(Note))
    # What it asked for in vain is not taken for removed.
    assert {each.state for each in world.source.catalog.chain(str(WHERE), "docs")} == {THERE}


async def test_the_providers_minimum_is_not_undercut(world, clock):
    world.store().keeping.rules = Rules(minimum=Minimum(age=2.5 * DAY))
    points = await days(world, clock, 4)
    report = await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=False)
    assert [each.minimum for each in report.verdicts] == [False, False, True, False]
    assert there(world) == points[2:]
    with pytest.raises(PointsStay, match="the provider keeps every point") as caught:
        await act_there(world.source.context, "remove", WHERE, [points[2].hex()], force=True)
    assert caught.value.exit_status == 5
    assert there(world) == points[2:]


async def test_a_locked_point_is_removed_by_nobody(world, clock):
    world.store().keeping.rules = Rules(immutable=5 * DAY)
    points = await days(world, clock, 2)
    report = await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=False)
    assert any("locked until" in why for why in report.verdicts[0].reasons)
    with pytest.raises(PointsStay, match="locked until"):
        await act_there(world.source.context, "remove", WHERE, [points[0].hex()], force=True)
    rows = await list_points(world.source.context, WHERE)
    assert all(row.locked_until_ns for row in rows)


async def test_a_pin_from_the_source_keeps_a_point_until_it_is_taken_away(world, clock):
    points = await days(world, clock, 3)
    await act_there(world.source.context, "pin", WHERE, [points[0].hex()], reason="before the move")
    report = await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=False)
    assert report.verdicts[0].reasons == ("pinned: before the move",)
    assert there(world) == [points[0], points[2]]
    rows = await list_points(world.source.context, WHERE)
    assert [row.pinned for row in rows] == ["before the move", None]
    with pytest.raises(PointsStay, match="pinned"):
        await act_there(world.source.context, "remove", WHERE, [points[0].hex()])
    (row,) = await act_there(world.source.context, "unpin", WHERE, [points[0].hex()])
    assert row["was_pinned"]
    await act_there(world.source.context, "remove", WHERE, [points[0].hex()])
    assert there(world) == [points[2]]


async def test_a_pin_on_a_missing_point_is_refused_with_its_status(world, clock):
    await days(world, clock, 1)
    with pytest.raises(UsageError, match="no restore point begins"):
        await act_there(world.source.context, "pin", WHERE, ["ffff"], reason="x")
    with pytest.raises(PointMissing):
        async with asking(world.source.context, "offsite") as link:
            await ask(link, PinPoint("main", "docs", b"x" * 16, "why"), b"", PointPinned)


async def test_what_the_recycle_bin_holds_comes_back_with_its_key(world, clock):
    world.store().keeping.rules = Rules(recycle=5 * DAY)
    points = await days(world, clock, 3)
    rows = await act_there(world.source.context, "remove", WHERE, [points[1].hex()])
    assert rows[0]["recycled_until"]
    assert keys_of(world.source, points) == [True] * 3
    (in_bin,) = await recycled_there(world.source.context, WHERE, ["docs"])
    assert (in_bin["point"], in_bin["removed_by"]) == (points[1].hex(), "this node")
    with pytest.raises(UsageError, match="in the recycle bin begins") as refused:
        await act_there(world.source.context, "undelete", WHERE, [points[0].hex()])
    assert refused.value.remedy == "`transporter points --job docs --from offsite/main --recycled` lists them"
    await act_there(world.source.context, "undelete", WHERE, [points[1].hex()[:6]])
    assert there(world) == points
    await world.source.restore(point=points[1].hex())
    assert world.source.seen(SecurityEvent) == []


async def test_when_the_recycle_bin_is_emptied_the_key_goes_at_the_next_contact(world, clock):
    world.store().keeping.rules = Rules(recycle=2 * DAY)
    points = await days(world, clock, 2)
    await act_there(world.source.context, "remove", WHERE, [points[0].hex()])
    clock.advance(3 * DAY)
    assert world.store().keeping.purge() == 1
    assert keys_of(world.source, points) == [True, True]
    await list_points(world.source.context, WHERE)
    assert keys_of(world.source, points) == [False, True]
    assert world.source.seen(SecurityEvent) == []


async def test_the_daemon_lets_go_of_what_was_pruned_within_a_minute(autojump_clock):
    asked = []
    store = SimpleNamespace(forget_removed_packs=lambda: asked.append(trio.current_time()))
    provider = SimpleNamespace(repositories={"main": SimpleNamespace(store=store)})
    with trio.move_on_after(200):
        await let_go_of_removed_packs(provider)
    assert len(asked) == 4 and asked[1] - asked[0] <= 60


async def test_the_daemon_empties_the_recycle_bin_by_itself(world, clock):
    keeping = world.store().keeping
    keeping.rules = Rules(recycle=2 * DAY)
    points = await days(world, clock, 2)
    await act_there(world.source.context, "remove", WHERE, [points[0].hex()])
    clock.advance(3 * DAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_house, world.provider)
        with trio.fail_after(30):
            while keeping.recycled(world.tenant(world.source), "docs"):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert there(world) == points[1:]


async def test_a_removal_that_was_cut_short_is_finished_at_the_next_contact(world, clock):
    """The source is killed when the target has removed the point, and before the answer is here."""
    points = await days(world, clock, 2)
    note_removing(world.source.context, str(WHERE), "docs", points[:1])
    world.store().keeping.remove(world.tenant(world.source), "docs", points[:1], world.tenant(world.source))
    assert keys_of(world.source, points) == [True, True]
    await world.source.backup()
    assert keys_of(world.source, points) == [False, True]
    assert world.source.seen(SecurityEvent) == []
    assert len(world.source.catalog.chain(str(WHERE), "docs")) == 2


async def test_a_removal_that_never_arrived_is_not_taken_for_one(world, clock):
    points = await days(world, clock, 2)
    note_removing(world.source.context, str(WHERE), "docs", [points[0]])
    await list_points(world.source.context, WHERE)
    assert {each.state for each in world.source.catalog.chain(str(WHERE), "docs")} == {THERE}
    assert keys_of(world.source, points) == [True, True]


async def test_a_target_whose_clock_jumped_removes_nothing(world, clock):
    points = await days(world, clock, 2)
    clock.advance(365 * DAY)
    with pytest.raises(ClockDoubtful) as caught:
        await act_there(world.source.context, "remove", WHERE, [points[0].hex()])
    assert caught.value.exit_status == 5
    assert there(world) == points
    await list_points(world.source.context, WHERE)
    assert world.source.seen(SecurityEvent) == []


async def test_what_the_provider_removes_into_its_bin_is_announced_and_told_apart(world, clock):
    world.store().keeping.rules = Rules(recycle=3 * DAY)
    points = await days(world, clock, 2)
    world.store().keeping.remove(world.tenant(world.source), "docs", [points[0]], "")
    await list_points(world.source.context, WHERE)
    await list_points(world.source.context, WHERE)
    told = [note.text for note in world.source.seen(Note) if "provider removed" in note.text]
    assert len(told) == 1 and points[0].hex()[:8] in told[0]
    clock.advance(4 * DAY)
    world.store().keeping.purge()
    await world.source.backup()
    assert world.source.seen(SecurityEvent) == []
    assert faults_there(world.source.context, WHERE) == []


async def test_a_policy_that_keeps_nothing_is_no_policy(world):
    with pytest.raises(UsageError, match="no policy"):
        await retain(world.source.context, WHERE, KeepPolicy(within=Duration(0)), dry_run=True)


async def test_a_tenant_sees_and_removes_its_own_points_alone(world, clock):
    points = await days(world, clock, 2)
    await world.neighbour.backup()
    target = world.target.catalog
    target.put_peer(replace(target.peer("neighbour"), removes=("main",)))
    with pytest.raises(UsageError, match="no restore point begins"):
        await act_there(world.neighbour.context, "remove", WHERE, [points[0].hex()])
    async with asking(world.neighbour.context, "offsite") as link:
        await ask(link, RemovePoints("main", "docs", points[0]), b"", PointsRemoved)
    assert there(world) == points
    await world.source.restore(point=points[0].hex())

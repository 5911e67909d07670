"""How long a copy stays: locks and least time run from when it came, retention goes by the original's time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from copy_world import local_repository, open_copy_world

from transporter import catalog_chain as states
from transporter.catalog_chain import ChainPoint
from transporter.clock import SystemClock
from transporter.errors import PointsStay
from transporter.events import Note, SecurityEvent
from transporter.jobs.context import own_tenant
from transporter.jobs.keeping_here import act_here, open_here, points_here
from transporter.jobs.keeping_there import act_there
from transporter.jobs.points import Where, list_points
from transporter.jobs.retention import retain, retain_here
from transporter.jobs.transform import TransformOrder, transform
from transporter.keys.storage_key import StorageKey
from transporter.quantities import Duration
from transporter.repository import PROVIDER, Origin, Rules
from transporter.repository.point_head import decode_head
from transporter.repository.points import OriginalHash
from transporter.retention import Candidate, KeepPolicy, Minimum, decide, demanded
from transporter.service.provider import Provider

WAY = ("offsite/main", "second/main")
THERE = Where("second", "main", "docs")
NS = 10**9
DAY = 86_400
DOMAIN, SLOT = b"D" * 16, b"s" * 16


class MovingClock(SystemClock):
    """The real clock, moved by days."""

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
    async with open_copy_world(clock) as made:
        for peer in made.second.catalog.peers():
            made.second.catalog.put_peer(replace(peer, removes=("main",)))
        # Days that pass are not what these are about.
        made.there().keeping.rules = Rules(clock_jump=10_000 * DAY)
        yield made


async def old_points(world, clock, count=3, days=100):
    """Points a day apart, and then ``days`` pass."""
    made = []
    for number in range(count):
        (world.source.tree / "today").write_text(f"day {number}")
        made.append(bytes.fromhex((await world.source.backup()).point))
        clock.advance(DAY)
    clock.advance(days * DAY)
    return made


def left(world):
    return [ref.point_id for ref in world.there().points(world.tenant(world.source), "docs")]


def rules(world, **how):
    world.there().keeping.rules = Rules(clock_jump=10_000 * DAY, **how)


async def copy(world):
    await world.copy(world.source, *WAY, jobs=("docs",))


async def remove(world, point):
    await act_there(world.source.context, "remove", THERE, [point.hex()], force=True)


async def test_an_old_point_is_locked_from_when_it_was_copied(world, clock):
    points = await old_points(world, clock)
    rules(world, immutable=14 * DAY)
    copied_ns = clock.now_ns()
    await copy(world)
    # Whatever becomes of the configuration.
    rules(world)
    assert world.there().keeping.locked_until(points[0]) >= copied_ns + 14 * DAY * NS
    clock.advance(13 * DAY)
    with pytest.raises(PointsStay, match="locked until"):
        await remove(world, points[0])
    clock.advance(1.1 * DAY)
    await remove(world, points[0])
    assert left(world) == points[1:]


async def test_a_lock_that_is_configured_later_counts_from_when_it_was_copied(world, clock):
    points = await old_points(world, clock)
    await copy(world)
    rules(world, immutable=14 * DAY)
    clock.advance(13 * DAY)
    with pytest.raises(PointsStay, match="locked until"):
        await remove(world, points[0])
    (row, *_) = await list_points(world.source.context, THERE)
    assert row.locked_until_ns == row.copied_ns + 14 * DAY * NS


async def test_an_old_point_is_kept_for_the_least_time_from_when_it_was_copied(world, clock):
    points = await old_points(world, clock)
    rules(world, minimum=Minimum(age=30 * DAY))
    await copy(world)
    clock.advance(29 * DAY)
    with pytest.raises(PointsStay, match="the provider keeps every point for 30d"):
        await remove(world, points[0])
    report = await retain(world.source.context, THERE, KeepPolicy(last=1), dry_run=True)
    assert [each.keep for each in report.verdicts] == [True] * 3
    clock.advance(1.1 * DAY)
    await remove(world, points[0])
    assert left(world) == points[1:]


async def test_retention_of_copies_goes_by_the_times_of_the_originals(world, clock):
    points = await old_points(world, clock, count=4)
    # All of them within moments there; days apart where they were made.
    await copy(world)
    report = await retain(world.source.context, THERE, KeepPolicy(daily=2), dry_run=False)
    assert [each.keep for each in report.verdicts] == [False, False, True, True]
    assert left(world) == points[2:]


async def test_retention_knows_a_copy_that_came_when_the_chain_there_was_known(world, clock):
    points = await old_points(world, clock)
    await copy(world)
    await retain(world.source.context, THERE, KeepPolicy(last=9), dry_run=True)
    assert len(world.source.catalog.chain(str(THERE), "docs")) == 3
    points += await old_points(world, clock, count=2)
    await copy(world)
    report = await retain(world.source.context, THERE, KeepPolicy(last=1), dry_run=False)
    assert left(world) == points[-1:], [each.reasons for each in report.verdicts]
    assert world.source.seen(SecurityEvent) == []


async def test_a_clock_set_back_while_copying_does_not_make_the_least_time_shorter(world, clock):
    await old_points(world, clock)
    store = world.there()
    rules(world, minimum=Minimum(age=30 * DAY))
    mark = store.keeping.clock.accept()
    clock.advance(-60 * DAY)
    await copy(world)
    assert all(ref.origin.copied_ns >= mark for ref in store.points(world.tenant(world.source), "docs"))


async def test_no_conductor_says_when_a_copy_came(world, clock):
    """What a repository is told of the time of a copy, as by a copy of a copy, counts for nothing."""
    (point,) = await old_points(world, clock, count=1)
    tenant = world.tenant(world.source)
    head = world.one.store().read_head(tenant, "docs", point)
    needs = b"".join(world.one.store().read_needs(tenant, "docs", point))
    await copy(world)
    (ref,) = world.there().points(tenant, "docs")
    said = decode_head(head)
    forged = replace(ref.origin, copied_ns=1)
    proof = OriginalHash(forged, point, said.domain, said.job, head)
    proof.update(needs)
    assert isinstance(forged, Origin) and proof.digest() == forged.hash
    world.there().commit_point("other", "docs", point, head, needs, domain=ref.domain, origin=forged)
    (other,) = world.there().points("other", "docs")
    assert abs(other.origin.copied_ns - clock.now_ns()) < 60 * NS


def test_the_least_time_counts_from_the_later_of_the_two():
    old = Candidate(b"p" * 16, 1 * NS, copied_ns=1000 * NS)
    assert demanded([old], Minimum(age=10.0), 1005 * NS)
    assert not demanded([old], Minimum(age=10.0), 1010 * NS)
    # And a policy by the original's time alone.
    new = replace(old, point_id=b"q" * 16, committed_ns=2 * DAY * NS, copied_ns=0)
    verdicts = decide([old, new], KeepPolicy(within=Duration(1 * DAY)), 3 * DAY * NS)
    assert [each.keep for each in verdicts] == [False, True]


@pytest.mark.parametrize("through", [False, True], ids=["straight", "through"])
async def test_what_retention_took_from_a_copy_is_not_copied_there_again(world, through):
    made = await old_points(world, world.source.clock, count=4)
    await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    await retain(world.source.context, THERE, KeepPolicy(last=2), dry_run=False)
    assert left(world) == made[2:]
    (world.source.tree / "today").write_text("another day")
    newest = bytes.fromhex((await world.source.backup()).point)
    await world.copy(world.source, *WAY, jobs=("docs",), through=through)
    assert left(world) == [*made[2:], newest]
    assert any("2 restore points" in note.text and "left out" in note.text for note in world.source.seen(Note))
    await world.copy(world.source, *WAY, jobs=("docs",), through=through, point=made[0].hex())
    assert left(world) == [made[0], *made[2:], newest], "a point that is named is copied"
    await world.copy(world.source, *WAY, jobs=("docs",), through=through, removed_too=True)
    assert left(world) == [*made, newest]
    assert world.source.seen(SecurityEvent) == []


@pytest.mark.parametrize("by", ["retention", "remove"])
async def test_what_went_from_a_copy_at_this_node_is_not_copied_there_again(world, by):
    made = [bytes.fromhex((await world.source.backup()).point) for _ in range(3)]
    await list_points(world.source.context, Where("offsite", "main", "docs"))
    with local_repository(world.source):
        context, way = world.source.context, ("offsite/main", "here")
        await world.copy(world.source, *way, jobs=("docs",))
        if by == "retention":
            report = retain_here(context, "here", "", "docs", KeepPolicy(last=1), dry_run=False)
            assert len(report.removed) == 2
        else:
            act_here(context, "remove", "here", "", "docs", [point.hex() for point in made[:2]])
        assert all(world.source.keys.storage_key(point) for point in made), "they are at the first place, too"

        def here():
            return [bytes.fromhex(row["point"]) for row in points_here(context, "here", "docs", recycled=False)]

        await world.copy(world.source, *way, jobs=("docs",))
        assert here() == made[2:]
        await world.copy(world.source, *way, jobs=("docs",), removed_too=True)
        assert here() == made
    assert world.source.seen(SecurityEvent) == []


async def test_a_storage_key_stays_while_its_point_lies_elsewhere_too(world):
    made = await old_points(world, world.source.clock, count=2)
    await copy(world)
    await list_points(world.source.context, THERE)
    await retain(world.source.context, THERE, KeepPolicy(last=1), dry_run=False)
    assert left(world) == made[1:]
    assert world.source.keys.storage_key(made[0]) is not None
    first = Where("offsite", "main", "docs")
    world.one.provider.repositories["main"].store.keeping.rules = Rules(clock_jump=10_000 * DAY)
    for peer in world.target.catalog.peers():
        world.target.catalog.put_peer(replace(peer, removes=("main",)))
    await retain(world.source.context, first, KeepPolicy(last=1), dry_run=False)
    assert world.source.keys.storage_key(made[0]) is None


async def test_a_storage_key_stays_while_its_point_lies_at_this_node_too_in_its_recycle_bin_as_well(world, clock):
    made = await old_points(world, clock, count=2)
    keys, first = world.source.keys, Where("offsite", "main", "docs")
    world.one.provider.repositories["main"].store.keeping.rules = Rules(clock_jump=10_000 * DAY)
    for peer in world.target.catalog.peers():
        world.target.catalog.put_peer(replace(peer, removes=("main",)))
    with local_repository(world.source):
        context = world.source.context
        await world.copy(world.source, "offsite/main", "here", jobs=("docs",))
        await retain(context, first, KeepPolicy(last=1), dry_run=False)
        assert keys.storage_key(made[0]) is not None
        with open_here(context, "here") as store:
            here = Provider(
                context.home, context.config, context.identity, context.catalog, context.keys, context.clock
            )
            store.keeping.rules = Rules(recycle=2 * DAY, clock_jump=10_000 * DAY)
            own = own_tenant(context)
            store.keeping.remove(own, "docs", made[:1], PROVIDER, on_gone=here.drop_keys)
            assert keys.storage_key(made[0]) is not None, "it can be brought back"
            clock.advance(3 * DAY)
            assert store.keeping.purge(here.drop_keys) == 1
        assert keys.storage_key(made[0]) is None and keys.storage_key(made[1]) is not None


@pytest.mark.parametrize("state", [states.THERE, states.MISSING, states.MOVED, states.REPLACED, states.COMMITTING])
async def test_what_a_tenant_removes_takes_no_key_of_points_that_the_provider_has_elsewhere(world, clock, state):
    """A node that holds the provider's backups knows their ids, and could copy them back to the provider.

    Whatever it says of them there: it could leave them out of its list meanwhile, or list them in another order.
    """
    stolen, own = await old_points(world, clock, count=2)
    keys = world.target.keys
    for point in (stolen, own):
        keys.put_storage_key(point, StorageKey.generate(), keys.add_password(f"of {point.hex()}", b"its password"))
    world.target.catalog.put_chain("second/main", "of the provider", [ChainPoint(stolen, b"h" * 32, 1, state)])
    world.one.provider.repositories["main"].store.keeping.rules = Rules(clock_jump=10_000 * DAY)
    for peer in world.target.catalog.peers():
        world.target.catalog.put_peer(replace(peer, removes=("main",)))
    first = Where("offsite", "main", "docs")
    await act_there(world.source.context, "remove", first, [stolen.hex(), own.hex()])
    assert keys.storage_key(stolen) is not None and keys.storage_key(own) is None


async def test_a_fold_leaves_the_storage_key_of_a_point_whose_copy_stays(world):
    made = await old_points(world, world.source.clock, count=3, days=0)
    await copy(world)
    await retain(world.source.context, THERE, KeepPolicy(last=9), dry_run=True)  # it looks at what is there
    world.one.provider.repositories["main"].store.keeping.rules = Rules(clock_jump=10_000 * DAY)
    for peer in world.target.catalog.peers():
        world.target.catalog.put_peer(replace(peer, removes=("main",)))
    report = await transform(world.source.context, TransformOrder("docs", keep=1))
    assert bytes.fromhex(report.replaces) == made[1]
    assert world.source.keys.storage_key(made[1]) is not None


async def test_a_tenant_has_no_good_point_removed_by_copies_of_its_own_dating(world, clock):
    """Not by itself, where the provider keeps at least, nor by the provider's own retention."""
    good, store, tenant = await old_points(world, clock), world.one.store(), world.tenant(world.source)
    for number, ref in enumerate(store.points(tenant, "docs")):
        origin = Origin(b"R" * 16, "elsewhere", ref.committed_ns + 1000 * number + NS, b"h" * 32, resealed=True)
        store.commit_point(
            tenant, "docs", bytes([number]) * 16, b"head", b"", domain=DOMAIN, slots=[(SLOT, b"slot")], origin=origin
        )
    store.keeping.rules = Rules(clock_jump=10_000 * DAY, minimum=Minimum(policy=KeepPolicy(daily=30)))
    assert all(outcome.refused for outcome in store.keeping.remove(tenant, "docs", good, tenant))
    store.keeping.rules = Rules(clock_jump=10_000 * DAY)
    context = world.context(world.target)
    report = retain_here(context, "main", tenant, "docs", KeepPolicy(daily=30), dry_run=False)
    assert set(good) <= {each.point_id for each in report.verdicts if each.keep} and not report.removed
    assert set(good) <= {ref.point_id for ref in store.points(tenant, "docs")}

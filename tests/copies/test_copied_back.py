"""Points that were lost at the target and come back from a copy: that alone settles what the source knew of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from transporter import catalog_chain as states
from transporter.catalog_chain import ChainPoint
from transporter.daemon.pusher import pusher
from transporter.errors import DamagedData, RefusedByPeer
from transporter.events import Note, SecurityEvent
from transporter.jobs.chain import accept_chain
from transporter.jobs.chain_verdict import compare
from transporter.jobs.points import Where, list_points
from transporter.points.keeping_rows import ChainRow
from transporter.repository import Repository

WHERE = Where("offsite", "main", "docs")
BACK = ("second/main", "offsite/main")


async def lose_all(world):
    """Two points and copies of them; then the target's are gone, as on a new disk, and the source has seen it."""
    for _ in range(2):
        await world.source.backup()
    await world.copy(world.source, *reversed(BACK), jobs=("docs",))
    for ref in world.one.store().points(world.tenant(world.source), "docs"):
        folder = world.one.store().path / "points" / world.tenant(world.source) / "docs"
        (folder / ref.point_id.hex()).unlink()
    await list_points(world.source.context, WHERE)
    assert chain_states(world) == [states.MISSING] * 2
    assert len(world.source.seen(SecurityEvent)) == 1


def chain_states(world):
    return [each.state for each in world.source.catalog.chain(str(WHERE), "docs")]


async def test_copies_of_the_very_points_settle_the_loss(world):
    await lose_all(world)
    await world.source.backup()
    done = await world.copy(world.source, *BACK, jobs=("docs",))
    # The run's own point is not among the copies.
    assert done.points == 2 and chain_states(world) == [states.THERE] * 3
    assert any("was missing, and is a copy now" in note.text for note in world.source.seen(Note))
    rows = await list_points(world.source.context, WHERE)
    assert [row.is_copy for row in rows] == [True, True, False]
    await world.source.backup()
    assert chain_states(world) == [states.THERE] * 4 and len(world.source.seen(SecurityEvent)) == 1


async def test_a_copy_that_fails_settles_nothing(world):
    await lose_all(world)
    # The second provider does not know the first one.
    with pytest.raises(RefusedByPeer, match="does not know"):
        await world.copy(world.source, *BACK, jobs=("docs",), through=False)
    for pack in (world.there().path / "packs").glob("*/*"):
        pack.unlink()
    with pytest.raises(DamagedData):
        await world.copy(world.source, *BACK, jobs=("docs",))
    await list_points(world.source.context, WHERE)
    assert chain_states(world) == [states.MISSING] * 2


async def test_copies_that_come_after_the_loss_was_accepted_accuse_nobody_and_keep_their_times(world):
    await lose_all(world)
    rows = await list_points(world.source.context, WHERE)
    assert rows == [] and accept_chain(world.source.context, str(WHERE), "docs", []) == 2
    for _ in range(2):
        await world.source.backup()
    own = [each.point for each in world.source.catalog.chain(str(WHERE), "docs")]
    await world.copy(world.source, *BACK, jobs=("docs",))
    await world.source.backup()
    listed = await list_points(world.source.context, WHERE)
    assert [row.is_copy for row in listed] == [True, True, False, False, False]
    assert chain_states(world) == [states.THERE] * 5 and len(world.source.seen(SecurityEvent)) == 1
    known = world.source.catalog.chain(str(WHERE), "docs")
    assert [each.point for each in known] == [row.point for row in listed]
    assert [each.point for each in known[2:4]] == own
    # Retention does not believe a point of another time than the one that is remembered.
    assert [each.committed_ns for each in known[:2]] == [row.committed_ns for row in listed[:2]]


async def test_a_copy_does_not_hide_that_others_were_swapped(world, monkeypatch):
    await lose_all(world)
    accept_chain(world.source.context, str(WHERE), "docs", [])
    for _ in range(2):
        await world.source.backup()
    really = Repository.points

    def swapped(store, *where):
        *first, a, b = really(store, *where)
        return [*first, b, a]

    await world.copy(world.source, *BACK, jobs=("docs",))
    monkeypatch.setattr(world.one.store().__class__, "points", swapped)
    await list_points(world.source.context, WHERE)
    assert states.MOVED in chain_states(world)


async def test_a_copy_of_something_else_settles_nothing(world):
    await lose_all(world)
    known = world.source.catalog.chain(str(WHERE), "docs")
    other = [replace(each, point_hash=b"x" * 32) for each in known]
    world.source.catalog.put_chain(str(WHERE), "docs", other)
    await world.copy(world.source, *BACK, jobs=("docs",))
    await list_points(world.source.context, WHERE)
    assert chain_states(world) == [states.REPLACED] * 2


async def test_a_pair_that_does_not_know_each_other_is_told_of_by_name(world):
    await lose_all(world)
    offsite = world.target.identity.pin
    known = world.source.catalog.peer("offsite")
    # As of a node that was invited: it dials, and has no address.
    world.second.catalog.put_peer(replace(known, name="offsite", pin=offsite, address=""))
    world.second_provider.push = pusher(world.second_provider)
    with pytest.raises(RefusedByPeer, match="offsite cannot be reached from second") as caught:
        await world.copy(world.source, *BACK, jobs=("docs",), through=False)
    assert "--through" in caught.value.remedy


def chain_of(*points):
    """Points by a letter, committed at a time, in a state; a copy that has just come has no hash."""
    return [
        ChainPoint(name.encode() * 16, b"" if state == states.COMMITTING else b"h" * 32, time, state)
        for name, time, state in points
    ]


def listed(names):
    return [ChainRow(name.encode() * 16, b"h" * 32, 0) for name in names]


THERE, COMING = states.THERE, states.COMMITTING


@pytest.mark.parametrize(
    ("known", "live", "moved", "order"),
    [
        # Copies come before, between and behind.
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 5, COMING)], "cab", "", "cab"),
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 15, COMING)], "acb", "", "acb"),
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 5, COMING), ("d", 6, COMING)], "cdab", "", "cdab"),
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 15, COMING)], "abc", "", ""),
        # Others that were swapped meanwhile are found all the same.
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 5, COMING)], "cba", "a", "cab"),
        # What this home committed itself comes last, whatever the target says.
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 30, COMING)], "cab", "ab", ""),
        # One that did not come.
        ([("a", 10, THERE), ("b", 20, THERE), ("c", 5, COMING)], "ab", "", ""),
    ],
)
def test_where_copies_come_in_the_order(known, live, moved, order):
    verdict = compare(chain_of(*known), listed(live), 100)
    assert "".join(each.point[:1].decode() for each in verdict.moved) == moved
    assert "".join(point[:1].decode() for point in verdict.order) == order

"""Folding: the content stays, the keys are new, and what went is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from world import contents

from transporter.catalog_chain import COMMITTING, THERE
from transporter.errors import DiskFull, RefusedByPeer, UsageError
from transporter.events import SecurityEvent
from transporter.jobs.keeping_there import act_there
from transporter.jobs.points import Where
from transporter.jobs.transform import TransformOrder, transform
from transporter.repository.point_head import decode_head


@pytest.fixture
def allowed(world):
    """The source may remove points at the target."""
    peer = world.target.catalog.peer_by_pin(world.source.identity.pin)
    world.target.catalog.put_peer(replace(peer, removes=("main", "rest")))
    return world


async def runs(world, count, job="docs"):
    """Run a job on a tree that changes; return what the tree was each time."""
    seen = []
    for number in range(count):
        (world.source.tree / "sub" / f"of-run-{number}").write_text(f"{number} " * 50)
        (world.source.tree / "sub" / f"of-run-{number - 2}").unlink(missing_ok=True)
        await world.source.backup(job)
        seen.append(contents(world.source.tree))
    return seen


def points(world, job="docs", store="main"):
    return world.store(store).points(world.tenant(world.source), job)


def head(world, ref, store="main"):
    return decode_head(world.store(store).read_head(ref.tenant, ref.job, ref.point_id))


async def fold(world, job="docs", **how):
    return await transform(world.source.context, TransformOrder(job, **how))


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_the_content_is_that_of_the_newest_that_was_folded(allowed, job):
    world, store = allowed, "rest" if job == "rest" else "main"
    seen = await runs(world, 5, job)
    before = points(world, job, store)
    report = await fold(world, job, keep=2)
    after = points(world, job, store)
    assert report.folded == [ref.point_id.hex() for ref in before[:3]]
    assert [ref.point_id for ref in after[1:]] == [ref.point_id for ref in before[3:]]
    assert after[0].point_id.hex() == report.point
    assert after[0].committed_ns == before[2].committed_ns
    assert head(world, after[0], store).kind == "synthetic"
    for number, ref in zip((2, 3, 4), after, strict=True):
        place = await world.source.restore(job, ref.point_id.hex(), output=f"{job}-{number}")
        assert contents(place) == seen[number]
    await world.source.verify(job, report.point)
    assert world.source.seen(SecurityEvent) == []


async def test_the_next_run_goes_on_and_sends_nothing_again(allowed):
    await runs(allowed, 3)
    await fold(allowed, keep=1)
    done = await allowed.source.backup()
    assert (done.chunks_new, done.kind) == (0, "incremental")
    assert allowed.source.seen(SecurityEvent) == []


async def test_keys_of_every_session_open_what_they_sealed(allowed):
    """Also when the password was changed between the sessions, and the old one is gone."""
    world = allowed
    seen = await runs(world, 2)
    world.source.keys.change_password("office", b"another password of this test")
    (world.source.tree / "later").write_text("x")
    await world.source.backup()
    seen.append(contents(world.source.tree))
    (world.source.tree / "later").write_text("y")
    await world.source.backup()
    old = head(world, points(world)[2])
    report = await fold(world, keep=1)
    made = head(world, points(world)[0])
    assert len(made.cryptograms) == len(old.cryptograms)
    assert len(made.cryptograms) > 4
    # Not by what this home kept, but by the slot alone.
    world.source.keys.drop_storage_key(bytes.fromhex(report.point))
    assert contents(await world.source.restore(point=report.point)) == seen[2]


async def test_the_old_storage_keys_go_and_the_new_one_is_kept(allowed):
    await runs(allowed, 3)
    before = points(allowed)
    report = await fold(allowed, keep=1)
    keys = allowed.source.keys
    assert keys.storage_key(bytes.fromhex(report.point)) is not None
    assert [keys.storage_key(ref.point_id) for ref in before[:2]] == [None, None]


async def test_a_dry_run_changes_nothing(allowed):
    await runs(allowed, 4)
    before = points(allowed)
    report = await fold(allowed, keep=1, dry_run=True)
    assert (len(report.folded), report.replaces, report.point) == (3, before[2].point_id.hex(), "")
    assert points(allowed) == before


async def test_what_is_pinned_stays(allowed):
    world = allowed
    await runs(world, 4)
    pinned = points(world)[1].point_id
    await act_there(world.source.context, "pin", Where("offsite", "main", "docs"), [pinned.hex()], reason="audit")
    report = await fold(world, keep=1)
    assert list(report.stayed) == [pinned.hex()]
    assert "audit" in report.stayed[pinned.hex()]
    assert [ref.point_id.hex() for ref in points(world)][:2] == [pinned.hex(), report.point]


async def test_one_point_is_nothing_to_fold(allowed):
    await runs(allowed, 2)
    before = points(allowed)
    report = await fold(allowed, keep=1)
    assert (report.folded, report.point) == ([], "")
    assert points(allowed) == before


@pytest.mark.parametrize("how", [{}, {"keep": 0}, {"keep": 1, "until": "aa"}, {"until": "zz"}])
async def test_questions_that_are_none(allowed, how):
    await runs(allowed, 2)
    with pytest.raises(UsageError):
        await fold(allowed, **how)


async def test_the_newest_is_never_folded(allowed):
    await runs(allowed, 2)
    with pytest.raises(UsageError, match="never"):
        await fold(allowed, until=points(allowed)[-1].point_id.hex())
    report = await fold(allowed, before_ns=1 << 62)
    assert (len(report.folded), len(points(allowed))) == (0, 2)


async def test_without_the_right_to_remove_nothing_is_folded(world):
    await runs(world, 3)
    before = points(world)
    with pytest.raises(RefusedByPeer, match="may not remove"):
        await fold(world, keep=1)
    assert points(world) == before


async def test_it_can_be_done_again_and_again(allowed):
    seen = await runs(allowed, 3)
    first = await fold(allowed, keep=1)
    seen += await runs(allowed, 2)
    second = await fold(allowed, keep=1)
    assert first.point in second.folded
    assert contents(await allowed.source.restore(point=second.point)) == seen[3]
    chain = allowed.source.catalog.chain("offsite/main", "docs")
    assert [(each.point, each.state) for each in chain] == [(ref.point_id, THERE) for ref in points(allowed)]


def left_both(world, monkeypatch, order):
    """Have the next fold die between the commit of the new point and the removal of the old one.

    ``order``: how the two are listed, as their ids have it; it must not matter.
    """
    store = world.store()
    really = store.keeping.remove

    def dies(*_arguments, **_how):
        monkeypatch.setattr(store.keeping, "remove", really)
        raise DiskFull("no room left in the repository: the test", "make some")

    monkeypatch.setattr(store.keeping, "remove", dies)
    really_points = store._points.listed

    def listed(*arguments, **how):
        refs = really_points(*arguments, **how)
        return sorted(
            refs, key=lambda ref: (ref.committed_ns, (head(world, ref).kind == "synthetic") == (order == "old first"))
        )

    monkeypatch.setattr(store._points, "listed", listed)


@pytest.mark.parametrize("order", ["old first", "new first"])
async def test_after_a_fold_that_left_both_points_another_keeps_the_content(allowed, monkeypatch, order):
    world = allowed
    seen = await runs(world, 4)
    left_both(world, monkeypatch, order)
    with pytest.raises(DiskFull):
        await fold(world, keep=2)
    assert len(points(world)) == 5
    report = await fold(world, keep=2)
    after = points(world)
    assert [ref.point_id.hex() for ref in after][:1] == [report.point]
    assert report.point not in report.folded
    assert len(after) == 3
    assert contents(await world.source.restore(point=report.point)) == seen[1]
    chain = world.source.catalog.chain("offsite/main", "docs")
    assert [(each.point, each.state) for each in chain] == [(ref.point_id, THERE) for ref in after]
    assert world.source.seen(SecurityEvent) == []


async def test_an_answer_that_was_lost_is_no_exchanged_order(allowed, monkeypatch):
    """The fold was carried out, and this home was killed before it heard: the next contact notes it."""
    world = allowed
    await runs(world, 4)

    def dies(*_arguments):
        raise DiskFull("the disk of the home is full: the test", "make room")

    with monkeypatch.context() as patch:
        patch.setattr("transporter.jobs.transform.note_replaced", dies)
        with pytest.raises(DiskFull):
            await fold(world, keep=2)
    await world.source.backup()
    assert world.source.seen(SecurityEvent) == []
    chain = world.source.catalog.chain("offsite/main", "docs")
    assert [(each.point, each.state) for each in chain] == [(ref.point_id, THERE) for ref in points(world)]


async def test_a_fold_that_may_be_there_is_remembered_by_the_time_of_what_it_takes_the_place_of(allowed, monkeypatch):
    """That is how it will be listed: by any other time retention would not believe the target, and keep it for ever."""
    await runs(allowed, 4)

    def dies(*_arguments):
        raise DiskFull("the disk of the home is full: the test", "make room")

    monkeypatch.setattr("transporter.jobs.transform.note_removing", dies)
    with pytest.raises(DiskFull):
        await fold(allowed, keep=2)
    *_known, begun = allowed.source.catalog.chain("offsite/main", "docs")
    assert begun.state == COMMITTING
    assert begun.committed_ns == points(allowed)[1].committed_ns


async def test_a_chain_of_any_length_is_folded(allowed, monkeypatch):
    """What is entered in the trail does not grow with the chain: its entries have a bound."""
    await runs(allowed, 4)
    entered = []
    really = allowed.source.keys.record
    monkeypatch.setattr(
        type(allowed.source.keys),
        "record",
        lambda _keys, kind, **what: (entered.append((kind, what)), really(kind, **what)),
    )
    await fold(allowed, keep=1)
    ((_, what),) = [one for one in entered if one[0] == "points.fold"]
    assert what["points"] == 3
    assert len(str(what)) < 200

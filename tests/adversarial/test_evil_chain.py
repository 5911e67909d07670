"""A target that drops, hides, exchanges or invents restore points: noticed at the next contact, whichever it is."""

from __future__ import annotations

import shutil
from dataclasses import replace

import msgspec
import pytest
from msgspec import structs
from world import small_tree

from protocol.keeping_messages import Chain
from transporter.catalog_chain import MISSING, UNKNOWN
from transporter.errors import RefusedByPeer
from transporter.events import Note, SecurityEvent
from transporter.jobs.chain_verdict import UNKNOWN_AT_MOST
from transporter.jobs.drill import drill
from transporter.jobs.keeping_there import accept_there, faults_there
from transporter.jobs.points import Where, list_points
from transporter.jobs.retention import retain
from transporter.points.keeping_rows import ChainRow
from transporter.repository import Repository
from transporter.retention import KeepPolicy

WHERE = Where("offsite", "main", "docs")
CONTACTS = {
    "backup": lambda node: node.backup(),
    "points": lambda node: list_points(node.context, WHERE),
    "all points": lambda node: list_points(node.context, replace(WHERE, job="")),
    "restore": lambda node: node.restore(),
    "verify": lambda node: node.verify(),
    "drill": lambda node: drill(node.context),
    "retention": lambda node: retain(node.context, WHERE, KeepPolicy(last=9), dry_run=True),
}


async def runs(world, count=2):
    made = []
    for number in range(count):
        (world.source.tree / "today").write_text(f"run {number}")
        made.append(bytes.fromhex((await world.source.backup()).point))
    return made


def path_of(world, point):
    return world.store().path / "points" / world.tenant(world.source) / "docs" / point.hex()


def findings(world):
    return [event.what for event in world.source.seen(SecurityEvent)]


def served(monkeypatch, change):
    """Have the target list ``change(refs)`` of the job, at its best: in everything that it says."""
    original = Repository.points

    def points(self, tenant, job=None):
        return change(original(self, tenant, job)) if tenant.startswith("office") else original(self, tenant, job)

    monkeypatch.setattr(Repository, "points", points)


async def test_an_honest_target_is_never_accused(world):
    await runs(world)
    for contact in CONTACTS.values():
        await contact(world.source)
    shutil.rmtree(world.folder / "office-out")
    await world.source.backup("target")
    await world.source.backup("none")
    for contact in CONTACTS.values():
        await contact(world.source)
    assert findings(world) == []


@pytest.mark.parametrize("contact", CONTACTS)
async def test_a_removed_point_is_noticed_at_the_next_contact_and_told_once(world, contact):
    points = await runs(world, 3)
    path_of(world, points[1]).unlink()
    await CONTACTS[contact](world.source)
    (what,) = findings(world)
    assert "1 restore point of job docs that this node committed are missing" in what
    assert points[1].hex()[:8] in what
    (row,) = faults_there(world.source.context, WHERE)
    assert (row["point"], row["kind"]) == (points[1].hex(), MISSING)
    await list_points(world.source.context, WHERE)
    await world.source.backup()
    assert len(findings(world)) == 1
    trail = [entry for entry in world.source.keys.audit.entries() if entry["event"] == "chain.finding"]
    assert len(trail) == 1


async def test_a_point_that_turns_up_again_is_told_and_settled(world):
    points = await runs(world)
    kept = path_of(world, points[1]).read_bytes()
    path_of(world, points[1]).unlink()
    await list_points(world.source.context, WHERE)
    path_of(world, points[1]).write_bytes(kept)
    await list_points(world.source.context, WHERE)
    assert any("again as it should" in note.text for note in world.source.seen(Note))
    assert faults_there(world.source.context, WHERE) == []


async def test_an_old_copy_of_the_whole_repository_is_noticed(world):
    """As after a restore of the target's disk, or when it serves yesterday's snapshot: the newest are not there."""
    points = await runs(world, 4)
    for point in points[2:]:
        path_of(world, point).unlink()
    with pytest.raises(RefusedByPeer, match="as the newest"):
        await world.source.restore()
    (what,) = findings(world)
    assert "2 restore points" in what and points[3].hex()[:8] in what
    await world.source.backup()
    assert len(findings(world)) == 1


async def test_all_points_gone_is_noticed(world):
    await runs(world, 2)
    shutil.rmtree(world.store().path / "points")
    await world.source.backup()
    (what,) = findings(world)
    assert "2 restore points" in what


async def test_an_exchanged_point_is_noticed(world, monkeypatch):
    points = await runs(world)
    served(monkeypatch, lambda refs: [replace(refs[0], hash=b"x" * 32), *refs[1:]])
    await world.source.backup()
    (what,) = findings(world)
    assert "not what this node committed" in what and points[0].hex()[:8] in what
    await list_points(world.source.context, WHERE)
    assert len(findings(world)) == 1


async def test_two_swapped_points_are_noticed(world, monkeypatch):
    points = await runs(world)

    def swap(refs):
        a, b, *rest = refs
        return [replace(a, point_id=b.point_id), replace(b, point_id=a.point_id), *rest]

    served(monkeypatch, swap)
    await world.source.backup()
    assert "2 restore points" in findings(world)[0]
    assert all(point.hex()[:8] in findings(world)[0] for point in points[:2])


async def test_another_order_is_noticed(world, monkeypatch):
    points = await runs(world)
    served(monkeypatch, lambda refs: [refs[1], refs[0], *refs[2:]] if len(refs) > 1 else refs)
    await list_points(world.source.context, WHERE)
    await list_points(world.source.context, WHERE)
    (what,) = findings(world)
    assert "another order" in what and points[0].hex()[:8] in what


@pytest.mark.parametrize("count", [1, UNKNOWN_AT_MOST + 5])
async def test_points_that_do_not_exist_are_noticed_and_do_not_fill_this_home(world, monkeypatch, count):
    await runs(world)
    invented = [b"evil" + number.to_bytes(12, "big") for number in range(count)]
    served(
        monkeypatch,
        lambda refs: [*(replace(refs[0], point_id=each, hash=each * 2) for each in invented), *refs] if refs else refs,
    )
    await world.source.backup()
    assert f"it lists {count} restore point" in findings(world)[0] and "never committed" in findings(world)[0]
    kept = [each for each in world.source.catalog.chain(str(WHERE), "docs") if each.state == UNKNOWN]
    assert len(kept) == min(count, UNKNOWN_AT_MOST)


async def test_retention_is_not_fooled_by_points_of_the_targets_making(world, monkeypatch):
    """Invented newer points would push the good ones out of the policy: this node would remove them itself."""
    points = await runs(world)
    target = world.target.catalog
    target.put_peer(replace(target.peer("office"), removes=("main",)))
    invented = [b"evil" + number.to_bytes(12, "big") for number in range(5)]

    def more(refs):
        late = refs[-1].committed_ns
        return [
            *refs,
            *(replace(refs[-1], point_id=i, hash=i * 2, committed_ns=late + n) for n, i in enumerate(invented)),
        ]

    served(monkeypatch, more)
    report = await retain(world.source.context, WHERE, KeepPolicy(last=2), dry_run=False)
    assert report.removed == {}
    assert [each.keep for each in report.verdicts if each.point_id in points] == [True] * 2


async def test_retention_is_not_fooled_by_times_of_the_targets_making(world, monkeypatch):
    points = await runs(world)
    target = world.target.catalog
    target.put_peer(replace(target.peer("office"), removes=("main",)))
    served(monkeypatch, lambda refs: [replace(ref, committed_ns=ref.committed_ns - 10**18) for ref in refs])
    report = await retain(world.source.context, WHERE, KeepPolicy(last=1), dry_run=False)
    assert report.removed == {}
    assert all("another time" in each.reasons[0] for each in report.verdicts)
    assert len(report.verdicts) == len(points)


async def test_a_removal_in_this_nodes_name_is_an_alarm_while_it_can_be_undone(world):
    points = await runs(world)
    keeping = world.store().keeping
    keeping.rules = replace(keeping.rules, recycle=7 * 86_400.0)
    keeping.remove(world.tenant(world.source), "docs", points[:1], world.tenant(world.source))
    await world.source.backup()
    (what,) = findings(world)
    assert "in this node's name" in what and "undelete" in what


async def test_an_announced_point_that_goes_too_early_is_missing(world):
    points = await runs(world)
    keeping = world.store().keeping
    keeping.rules = replace(keeping.rules, recycle=7 * 86_400.0)
    keeping.remove(world.tenant(world.source), "docs", points[:1], "")
    await world.source.backup()
    assert findings(world) == []
    shutil.rmtree(world.store().path / "recycled")
    await list_points(world.source.context, WHERE)
    (what,) = findings(world)
    assert "missing" in what and points[0].hex()[:8] in what


async def test_another_object_in_the_recycle_bin_is_no_announcement(world, monkeypatch):
    points = await runs(world)
    path_of(world, points[0]).unlink()
    original = "transporter.service.keeping.chain_of"

    def chain(store, tenant, job):
        rows = [ChainRow(ref.point_id, ref.hash, ref.committed_ns) for ref in store.points(tenant, job)]
        return [*rows, ChainRow(points[0], b"x" * 32, 1, recycled_until_ns=2**62)]

    monkeypatch.setattr(original, chain)
    await world.source.backup()
    assert "missing" in findings(world)[0]


@pytest.mark.parametrize("how", ["garbage", "twice", "without end", "a short hash"])
async def test_a_chain_that_is_none_is_refused(world, monkeypatch, how):
    points = await runs(world, 1)
    path_of(world, points[0]).unlink()
    row = ChainRow(b"p" * 16, b"h" * 32, 1)

    async def answer(_provider, link, _peer, message):
        rows = {
            "garbage": b"\xc1",
            "twice": msgspec.msgpack.encode([row, row]),
            "without end": msgspec.msgpack.encode(
                [structs.replace(row, point=(message.first + n).to_bytes(16, "big")) for n in range(16_384)]
            ),
            "a short hash": msgspec.msgpack.encode([[b"p" * 16, b"h", 1]]),
        }[how]
        await link.send(Chain(total=2**62 if how == "without end" else 2, now_ns=1), rows)

    monkeypatch.setattr("transporter.service.keeping.answer_get_chain", answer)
    with pytest.raises(RefusedByPeer):
        await list_points(world.source.context, WHERE)


async def test_a_person_settles_findings(world, monkeypatch):
    points = await runs(world, 3)
    path_of(world, points[1]).unlink()
    await world.source.backup()
    assert len(findings(world)) == 1
    assert await accept_there(world.source.context, WHERE, ["docs"]) == 1
    assert faults_there(world.source.context, WHERE) == []
    for contact in ("backup", "points"):
        await CONTACTS[contact](world.source)
    assert len(findings(world)) == 1
    path_of(world, points[2]).unlink()
    await world.source.backup()
    assert len(findings(world)) == 2


async def test_a_commit_whose_answer_was_lost_is_not_taken_for_a_strangers(world, monkeypatch):
    await runs(world, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transporter.jobs.commit._remember", killed)
        with pytest.raises(BaseException):  # noqa: B017 - a group, perhaps
            await world.source.backup()
    assert len(world.store().points(world.tenant(world.source), "docs")) == 2
    small_tree(world.source.tree / "more", seed=3)
    await world.source.backup()
    assert findings(world) == []
    assert len(world.source.catalog.chain(str(WHERE), "docs")) == 3


async def test_a_home_that_knows_nothing_takes_what_is_there_for_what_should_be(world):
    points = await runs(world)
    world.source.catalog.drop_chain(str(WHERE), "docs", points)
    await world.source.backup()
    assert findings(world) == []
    path_of(world, points[0]).unlink()
    await world.source.backup()
    assert points[0].hex()[:8] in findings(world)[0]

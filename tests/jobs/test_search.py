"""Search, from end to end: a real pair, real points, and what the other side sees of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import msgspec
import pytest
from world import PASSWORD, small_tree

from transporter.errors import CannotConnect, DamagedData, NoKey, UsageError
from transporter.events import DamageFound, LinkUp, Note, SearchHits
from transporter.jobs import search_there
from transporter.jobs.search import SearchOrder, search
from transporter.jobs.search_report import SearchReport
from transporter.link.address import Address
from transporter.repository import PointRef
from transporter.repository import points as point_files
from transporter.repository.layout import Layout
from transporter.repository.point_head import decode_head, encode_head
from transporter.service import opening
from transporter.workloads.fsi_builder import FsiBuilder
from transporter.workloads.fsi_query import Query

DAY = 86_400 * 10**9


async def found(node, glob="*", *, query=None, **order):
    """Search; return the report and the lines."""
    before = len(node.seen(SearchHits))
    report = await search(node.context, SearchOrder(Query(glob, **(query or {})), **order))
    return report, [hit for event in node.seen(SearchHits)[before:] for hit in event.hits]


def names(hits):
    return [hit.path.rpartition("/")[2] for hit in hits]


def heads(world, job="docs"):
    store, tenant = world.store("rest" if job == "rest" else "main"), world.tenant(world.source)
    return [decode_head(store.read_head(tenant, job, ref.point_id)) for ref in store.points(tenant, job)]


def rewrite_heads(world, change, job="docs"):
    """Replace the heads of all points of a job of zone none, as somebody at the target could."""
    store, tenant = world.store(), world.tenant(world.source)
    for ref in store.points(tenant, job):
        head = change(decode_head(store.read_head(tenant, job, ref.point_id)))
        needs = list(store.read_needs(tenant, job, ref.point_id))
        path = Layout(store.path).point(tenant, job, ref.point_id)
        fresh = PointRef(tenant, job, ref.point_id, ref.domain, ref.committed_ns, 0, b"")
        path.write_bytes(b"".join(point_files.point_parts(store.repository_id, fresh, encode_head(head), needs)))


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_a_file_is_found_in_every_zone(world, job):
    await world.source.backup(job)
    report, hits = await found(world.source, "file-*", job=job)
    assert report.error() is None
    assert names(hits) == [f"file-{number}" for number in range(5)]
    first, state = hits[0], (world.source.tree / "sub" / "file-0").stat()
    assert (first.kind, first.points, first.job) == ("f", 1, job)
    assert (first.size, first.mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert (report.points, report.slow) == (1, 0)


@pytest.mark.parametrize("job", ["docs", "target", "none", "rest"])
async def test_a_file_that_did_not_change_is_one_line_and_its_versions_are_two(world, job):
    changing = world.source.tree / "sub" / "file-1"
    for run in range(3):
        if run == 2:
            changing.write_text("changed")
        await world.source.backup(job)
    first, second, third = (head.point_id.hex() for head in heads(world, job))
    _, hits = await found(world.source, "file-[12]", job=job)
    assert [(hit.path[-6:], hit.point, hit.points) for hit in hits] == [
        ("file-1", third, 1),
        ("file-1", second, 2),
        ("file-2", third, 3),
    ]
    assert hits[2].oldest_ns == heads(world, job)[0].created_ns
    _, hits = await found(world.source, "file-[12]", job=job, latest=True)
    assert [(hit.path[-6:], hit.point) for hit in hits] == [("file-1", third), ("file-2", third)]
    _, hits = await found(world.source, "file-[12]", job=job, each=True)
    assert [(hit.path[-6:], hit.point, hit.points) for hit in hits] == [
        *(("file-1", point, 1) for point in (third, second, first)),
        *(("file-2", point, 1) for point in (third, second, first)),
    ]


async def test_bounds(world):
    tree = world.source.tree
    (tree / "sub" / "link").symlink_to("file-0")
    os.utime(tree / "sub" / "file-3", ns=(0, 1_000 * DAY))
    await world.source.backup()

    async def with_(glob="*", **query):
        return sorted(names((await found(world.source, glob, query=query, job="docs"))[1]))

    assert await with_(size_at_least=100_000, kinds="f") == ["large"]
    assert "large" not in await with_(size_at_most=100_000)
    assert await with_(before_ns=1_001 * DAY) == ["file-3"]
    assert await with_(after_ns=1_000 * DAY, before_ns=1_000 * DAY) == ["file-3"]
    assert await with_(kinds="l") == ["link"]
    assert await with_("sub", kinds="d") == ["sub"]
    assert await with_("sub", kinds="f") == []
    assert await with_("sub/") == ["sub"]
    assert await with_("sub/file-[01]") == ["file-0", "file-1"]
    assert await with_(f"{world.source.tree}/*", kinds="f") == ["large"]


async def test_one_point_or_a_range_of_time(world):
    for run in range(3):
        (world.source.tree / f"run-{run}").write_text("x")
        await world.source.backup()
    first, second, third = heads(world)

    async def in_(**order):
        return names((await found(world.source, "run-*", job="docs", **order))[1])

    assert await in_() == ["run-0", "run-1", "run-2"]
    assert await in_(point=first.point_id.hex()[:9]) == ["run-0"]
    assert await in_(point="latest", each=True) == ["run-0", "run-1", "run-2"]
    assert await in_(to_ns=second.created_ns) == ["run-0", "run-1"]
    assert await in_(to_ns=second.created_ns - 1) == ["run-0"]
    report, hits = await found(world.source, "run-0", job="docs", from_ns=second.created_ns, to_ns=third.created_ns)
    assert (report.points, hits[0].points, hits[0].oldest_ns) == (2, 2, second.created_ns)
    assert await in_(from_ns=third.created_ns + 1) == []


async def test_a_limit_ends_the_search(world):
    await world.source.backup()
    await world.source.backup("none")
    report, hits = await found(world.source, "file-*", limit=3)
    assert (len(hits), report.hits, report.cut) == (3, 3, True)
    report, hits = await found(world.source, "file-*", limit=5, job="docs")
    assert (len(hits), report.cut) == (5, False)


async def test_all_places_are_searched_when_none_is_named(world):
    for job in ("docs", "target", "none", "rest"):
        await world.source.backup(job)
    report, hits = await found(world.source, "large")
    assert report.error() is None
    assert sorted((hit.job, hit.repository) for hit in hits) == [
        ("docs", "offsite/main"),
        ("none", "offsite/main"),
        ("rest", "offsite/rest"),
        ("target", "offsite/main"),
    ]
    _, hits = await found(world.source, "large", at="offsite/rest")
    assert [hit.job for hit in hits] == ["rest"]
    with pytest.raises(UsageError):
        await found(world.source, "large", at="offsite/")


# --- who sees what --------------------------------------------------------------------------------------------


def holder_config(world):
    """The target's own home, whose repositories hold all this."""
    for store in world.provider.repositories.values():
        store.store.writer(b"d" * 16, "nobody").close()


async def test_the_target_finds_nothing_in_what_the_source_sealed(world):
    await world.source.backup()
    holder_config(world)
    report, hits = await found(world.target, "*")
    assert (hits, report.points, report.foreign) == ([], 0, 1)
    error = report.error()
    assert isinstance(error, NoKey)
    assert error.exit_status == 6
    assert "sees nothing of their files" in error.what


async def test_the_target_finds_what_it_sealed_itself_and_what_nobody_did(world):
    for job in ("docs", "target", "none", "rest"):
        await world.source.backup(job)
    report, hits = await found(world.target, "large")
    assert sorted((hit.job, hit.repository) for hit in hits) == [("none", "main"), ("rest", "rest"), ("target", "main")]
    assert (report.points, report.foreign, report.error()) == (3, 1, None)


async def test_the_neighbour_sees_none_of_it(world):
    await world.source.backup()
    await world.source.backup("none")
    report, hits = await found(world.neighbour, "*")
    assert (hits, report.points, report.error()) == ([], 0, None)


async def test_without_the_password_nothing_is_found_and_it_is_said(world):
    await world.source.backup()
    (head,) = heads(world)
    world.source.keys.remove_password("office")
    world.source.keys.drop_storage_key(head.point_id)
    report, hits = await found(world.source, "*", job="docs")
    assert (hits, report.points, report.closed) == ([], 0, 1)
    assert isinstance(report.error(), NoKey)


@pytest.mark.parametrize("run", [0, 1])
async def test_no_name_lies_in_the_clear_anywhere_at_the_target(world, run):
    name = b"a-name-that-nobody-else-has-0123456789"
    for number in range(50):
        (world.source.tree / "sub" / f"{os.fsdecode(name)}-{number}").write_text("x")
    for _ in range(run + 1):
        await world.source.backup()
        (world.source.tree / "sub" / "new").write_text("y")
    holder_config(world)
    everything = b"".join(path.read_bytes() for path in sorted(world.target.home.path.rglob("*")) if path.is_file())
    assert heads(world)[-1].fsi
    for wanted in (name, name[:20], b"file-0", b"large", os.fsencode(world.source.tree)):
        assert wanted not in everything
    _, hits = await found(world.source, f"{os.fsdecode(name)}-*", job="docs")
    assert len(hits) == 50


async def test_the_index_is_under_a_key_of_its_own(world):
    await world.source.backup()
    (head,) = heads(world)
    store, domain = world.store(), head.domain
    under = {
        what: {key for keys in store.have(domain, [chunk for chunk, _ in listed]) for key in keys}
        for what, listed in (("fsi", head.fsi), ("manifest", head.manifest))
    }
    assert len(under["fsi"]) == len(under["manifest"]) == 1
    assert not under["fsi"] & under["manifest"]


async def test_the_index_goes_with_the_point(world):
    """Its chunks are needed: prune keeps them, scrub misses them, the commit is refused without them."""
    await world.source.backup()
    (ref,) = world.store().points(world.tenant(world.source), "docs")
    needs = b"".join(world.store().read_needs(ref.tenant, "docs", ref.point_id))
    needed = {needs[at : at + 32] for at in range(0, len(needs), 32)}
    assert {chunk for chunk, _ in heads(world)[0].fsi} <= needed


async def test_a_run_that_changes_nothing_sends_no_block_and_asks_for_none(world, monkeypatch):
    for number in range(3_000):
        (world.source.tree / "sub" / f"many-{number:05d}").touch()
    await world.source.backup()
    done = await world.source.backup()
    assert (done.chunks_new, done.bytes_new) == (0, 0)
    (world.source.tree / "sub" / "many-00100").write_text("x")
    await world.source.backup()
    first, second, third = ([chunk for chunk, _ in head.fsi] for head in heads(world))
    assert first == second
    assert len(first) > 1
    # The file, and the folder that it is in are in one block or two.
    assert 1 <= len(set(third) - set(second)) <= 2


# --- points without an index, and damaged ones ----------------------------------------------------------------


def without_index(monkeypatch):
    monkeypatch.setattr(FsiBuilder, "add", lambda _self, _entries: [])


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_a_point_without_an_index_is_searched_by_its_manifest(world, monkeypatch, job):
    """As older versions made them: and folded with those that have one."""
    await world.source.backup(job)
    await world.source.backup(job)
    wanted = [(hit.path, hit.size, hit.mtime_ns, hit.kind) for hit in (await found(world.source, "*", job=job))[1]]
    hidden = heads(world, job)[0].point_id
    real = msgspec.structs.replace

    def open_without(opened_head):
        return real(opened_head, version=1, fsi=msgspec.UNSET) if opened_head.point_id == hidden else opened_head

    import transporter.jobs.search_point as module

    add = module.Groups.add
    monkeypatch.setattr(
        module.Groups,
        "add",
        lambda self, opened, *, sealed: add(self, replace(opened, head=open_without(opened.head)), sealed=sealed),
    )
    report, hits = await found(world.source, "*", job=job)
    assert (report.points, report.slow, report.error()) == (2, 1, None)
    assert [(hit.path, hit.size, hit.mtime_ns, hit.kind) for hit in hits] == wanted
    assert {hit.points for hit in hits} == {2}
    assert "no file-system index" in world.source.seen(Note)[-1].text


def spoil(world, chunk_ids):
    """Flip a bit in the stored bytes of some chunks."""
    for chunk_id in chunk_ids:
        for pack in sorted((world.store().path / "packs").rglob("*")):
            raw = bytearray(pack.read_bytes()) if pack.is_file() else b""
            at = raw.find(chunk_id)
            if at >= 0:
                raw[at + 120] ^= 1
                pack.chmod(0o600)
                pack.write_bytes(bytes(raw))


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_a_damaged_index_is_told_and_the_other_points_are_searched(world, job):
    await world.source.backup(job)
    (world.source.tree / "sub" / "later").write_text("x")
    await world.source.backup(job)
    first, second = heads(world, job)
    holder_config(world)
    world.source.home.index_cache.unlink()  # what this node keeps would do
    spoil(world, [chunk for chunk, _ in second.fsi if (chunk, _) not in first.fsi])
    report, hits = await found(world.source, "file-0", job=job)
    assert [(hit.point, hit.points) for hit in hits] == [(first.point_id.hex(), 1)]
    assert report.damaged == [second.point_id.hex()]
    error = report.error()
    assert isinstance(error, DamagedData)
    assert error.exit_status == 7
    assert second.point_id.hex()[:8] in error.what
    assert world.source.seen(DamageFound)


async def test_verify_opens_the_index(world):
    await world.source.backup()
    await world.source.verify()
    holder_config(world)
    spoil(world, [chunk for chunk, _ in heads(world)[0].fsi])
    with pytest.raises(DamagedData):
        await world.source.verify()
    assert "file-system index" in world.source.seen(DamageFound)[-1].where


async def test_verify_counts_what_the_index_lists(world):
    await world.source.backup("none")
    rewrite_heads(world, lambda head: msgspec.structs.replace(head, fsi=[*head.fsi, *head.fsi]), "none")
    with pytest.raises(DamagedData):
        await world.source.verify("none")
    assert "lists 8 entries more than the manifest" in world.source.seen(DamageFound)[-1].what


@pytest.mark.parametrize("swap", ["manifest", "content"])
async def test_an_index_that_is_something_else_is_damaged_and_nothing_worse(world, swap):
    """Zone none: whoever holds the repository can name any chunk as a block of the index."""
    await world.source.backup("none")

    def lie(head):
        store, tenant = world.store(), world.tenant(world.source)
        needs = b"".join(store.read_needs(tenant, "none", head.point_id))
        other = head.manifest if swap == "manifest" else [(needs[:32], 4 << 20)]
        return msgspec.structs.replace(head, fsi=[*other])

    rewrite_heads(world, lie, "none")
    report, hits = await found(world.source, "*", job="none")
    assert hits == []
    assert len(report.damaged) == 1


async def test_a_peer_that_cannot_be_reached_is_told_and_the_rest_is_searched(world):
    for job in ("docs", "none"):
        await world.source.backup(job)
    world.source.dials(Address("127.0.0.1", 1))
    report, hits = await found(world.source, "large")
    assert (hits, set(report.unreached)) == ([], {"offsite/main", "offsite/rest"})
    error = report.error()
    assert isinstance(error, CannotConnect)
    assert error.exit_status == 4


async def test_a_name_cannot_speak_to_the_terminal(world):
    (world.source.tree / "sub" / "evil\x1b[2J\n.txt").write_text("x")
    (world.source.tree / "sub" / os.fsdecode(b"odd\xff.txt")).write_text("x")
    await world.source.backup()
    _, hits = await found(world.source, "*.txt", job="docs")
    assert names(hits) == ["evil\\x1b[2J\\n.txt", "odd\\xff.txt"]


async def test_a_point_of_another_zone_than_it_must_be_is_not_searched(world):
    """The target alone says that it is ours: a plain point could hold any names it likes."""
    await world.source.backup("none")
    config = world.source.config
    world.source.config = msgspec.structs.replace(config, jobs={k: v for k, v in config.jobs.items() if k != "none"})
    report, hits = await found(world.source, "large", at="offsite/main")
    error = report.error()
    assert (hits, report.closed, report.other_zone) == ([], 0, 1)
    assert isinstance(error, NoKey) and "another zone" in error.what and "--zone" in error.remedy
    report, hits = await found(world.source, "large", at="offsite/main", zone="none")
    assert names(hits) == ["large"]


async def test_a_changed_password_changes_nothing(world):
    await world.source.backup()
    world.source.keys.change_password("office", PASSWORD + b"2")
    _, hits = await found(world.source, "large", job="docs")
    assert names(hits) == ["large"]


@pytest.fixture
async def two_runs(world, monkeypatch):
    """Two points that the target sealed, of which the second has nothing of the first: nor its keys.

    As where a service that locks the target's password did not answer when the second run began.
    """
    (world.source.tree / "contract").write_text("old")
    await world.source.backup("target")
    shutil.rmtree(world.source.tree)
    small_tree(world.source.tree, seed=99)
    with monkeypatch.context() as patched:
        patched.setattr(opening, "_ring_of", lambda *_arguments: None)
        await world.source.backup("target")
    return [head.point_id.hex() for head in heads(world, "target")]


async def test_what_the_keys_of_the_newest_point_do_not_open_is_asked_for_in_a_session_of_its_own(world, two_runs):
    """In zone target the peer opens what it sends: in a session of one point only what that point's keys open."""
    links = len(world.source.seen(LinkUp))
    report, hits = await found(world.source, "contract", job="target")
    assert (report.error(), report.points) == (None, 2)
    assert [(names([hit]), hit.point, hit.points) for hit in hits] == [(["contract"], two_runs[0], 1)]
    # Nobody hears of these sessions.
    assert len(world.source.seen(LinkUp)) == links
    report, hits = await found(world.source, "file-*", job="target", each=True)
    assert report.error() is None and {hit.point for hit in hits} == set(two_runs)


async def test_where_no_more_sessions_are_opened_the_point_is_named(world, two_runs, monkeypatch):
    monkeypatch.setattr(search_there, "SESSIONS_BESIDE", 0)
    report, hits = await found(world.source, "*", job="target", each=True)
    assert report.damaged == two_runs[:1] and {hit.point for hit in hits} == {two_runs[1]}
    # As it says: that point alone.
    report, hits = await found(world.source, "contract", job="target", point=two_runs[0])
    assert (report.error(), names(hits)) == (None, ["contract"])


def test_a_report_crosses_the_control_socket():
    report = SearchReport(3, 4, 1, 2, 1, ["ab"], {"offsite/main": ("cannot-connect", "what", "remedy")}, True)
    assert SearchReport.of(msgspec.msgpack.decode(msgspec.msgpack.encode(report.public()))) == report
    report.shut, report.other_zone = ("kms-unreachable", "what", "remedy"), 2
    assert SearchReport.of(msgspec.msgpack.decode(msgspec.msgpack.encode(report.public()))) == report

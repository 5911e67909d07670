"""Looking into points, from end to end: a real pair, real points, at the peer and at the node that has the points."""

from __future__ import annotations

import os

import msgspec
import pytest
import trio
import trio.testing
from world import PASSWORD, contents, small_tree

from transporter.errors import DamagedData, NoKey, RefusedByPeer, UsageError, WrongPassword
from transporter.events import Differences, FileContent, Listing, Note
from transporter.jobs.cat_file import CatOrder, cat
from transporter.jobs.diff_points import DiffOrder, diff
from transporter.jobs.find_in_point import FindOrder, find
from transporter.jobs.list_point import ListOrder, list_entries
from transporter.jobs.point_order import PointOrder
from transporter.keys.password import hash_password
from transporter.repository import PointRef
from transporter.repository import points as point_files
from transporter.repository.layout import Layout
from transporter.repository.point_head import decode_head, encode_head
from transporter.workloads.fsi_query import Query

ZONES = ["docs", "target", "none", "rest"]


def where(node, job="docs", **fields):
    """Where a node finds the points of a job: at its peer, or, the target, in its own repository."""
    if node.config.node.name == "offsite":
        fields = {"source": "rest" if job == "rest" else "main", **fields}
    return PointOrder(job, **fields)


async def gathered(node, kind, part, work):
    before = len(node.seen(kind))
    result = await work
    return result, [one for event in node.seen(kind)[before:] for one in getattr(event, part)]


async def listed(node, path=b"", job="docs", *, recursive=False, **fields):
    order = ListOrder(where(node, job, **fields), path, recursive)
    count, files = await gathered(node, Listing, "files", list_entries(node.context, order))
    assert count == len(files)
    return files


async def found(node, *globs, job="docs", bounds=None, **fields):
    queries = [Query(glob, **(bounds or {})) for glob in globs]
    order = FindOrder(where(node, job, **fields), queries)
    return (await gathered(node, Listing, "files", find(node.context, order)))[1]


async def content(node, path, job="docs", **fields):
    before = len(node.seen(FileContent))
    size = await cat(node.context, CatOrder(where(node, job, **fields), path))
    data = b"".join(event.data for event in node.seen(FileContent)[before:])
    assert size == len(data)
    return data


async def differences(node, old, new="latest", path=b"", job="docs", **fields):
    order = DiffOrder(where(node, job, point=old, **fields), new, path)
    counts, rows = await gathered(node, Differences, "found", diff(node.context, order))
    for change in ("added", "removed", "changed"):
        assert counts[change] == sum(row.change == change for row in rows)
    return counts, {row.path.rpartition(b"/")[2].decode(): (row.change, row.what) for row in rows}


def names(files):
    return [os.fsdecode(file.path.rpartition(b"/")[2]) for file in files]


def points_of(world, job="docs"):
    store = world.store("rest" if job == "rest" else "main")
    return [ref.point_id.hex() for ref in store.points(world.tenant(world.source), job)]


# --- ls ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ZONES)
async def test_every_zone_is_listed_and_read_at_the_peer(world, job):
    await world.source.backup(job)
    files = await listed(world.source, job=job)
    assert names(files) == ["large", "sub"]
    state = (world.source.tree / "large").stat()
    assert (files[0].kind, files[0].size, files[0].mtime_ns) == ("f", state.st_size, state.st_mtime_ns)
    assert (files[0].mode, files[0].uid, files[0].gid) == (state.st_mode & 0o7777, state.st_uid, state.st_gid)
    assert names(await listed(world.source, b"sub", job=job)) == [f"file-{n}" for n in range(5)]
    for name, data in contents(world.source.tree).items():
        assert await content(world.source, name.encode(), job=job) == data


@pytest.mark.parametrize("job", ["target", "none", "rest"])
async def test_a_node_looks_into_its_own_repository_where_it_holds_the_keys(world, job):
    await world.source.backup(job)
    assert names(await listed(world.target, job=job)) == ["large", "sub"]
    assert names(await found(world.target, "file-[12]", job=job)) == ["file-1", "file-2"]
    for name, data in contents(world.source.tree).items():
        assert await content(world.target, name.encode(), job=job) == data


async def test_what_a_tenant_sealed_opens_here_by_its_password_alone(world):
    await world.source.backup()
    with pytest.raises(NoKey):
        await listed(world.target)
    with pytest.raises(WrongPassword):
        await listed(world.target, password=b"wrong")
    assert names(await listed(world.target, password=PASSWORD)) == ["large", "sub"]


async def test_a_typed_password_is_stretched_once_for_all_points_of_a_run(world, monkeypatch):
    await world.source.backup()
    await world.source.backup()
    key = world.source.keys.user_key("office")
    world.source.keys.remove_password("office")
    asked = []

    def stretch(password, salt, params):
        asked.append(salt)
        return hash_password(password, salt, params)

    monkeypatch.setattr("transporter.jobs.opening.hash_password", stretch)
    await differences(world.source, points_of(world)[0], password=PASSWORD)
    assert asked == [key.salt]


async def test_jobs_of_one_name_are_told_apart_by_their_tenants(world):
    small_tree(world.neighbour.tree / "theirs", seed=9)
    await world.source.backup("none")
    await world.neighbour.backup("none")
    with pytest.raises(UsageError, match="2 tenants"):
        await listed(world.target, job="none")
    tenant = world.tenant(world.neighbour)
    assert names(await listed(world.target, job="none", tenant=tenant)) == ["large", "sub", "theirs"]
    with pytest.raises(UsageError, match="no restore points"):
        await listed(world.target, job="none", tenant="nobody")


async def test_paths_of_any_bytes_named_in_every_way(world):
    tree = os.fsencode(world.source.tree)
    os.mkdir(tree + b"/\xff\n")
    with open(tree + b"/\xff\n/a b", "wb") as file:
        file.write(b"odd")
    await world.source.backup()
    stored = tree[1:] + b"/\xff\n/a b"
    for name in (stored, b"/" + stored, b"\xff\n/a b", b"./\xff\n//a b", tree + b"/\xff\n/./a b"):
        assert await content(world.source, name) == b"odd"
        assert [file.path for file in await listed(world.source, name)] == [stored]
    for folder in (b"\xff\n", b"\xff\n/", tree + b"/\xff\n/"):
        assert [file.path for file in await listed(world.source, folder)] == [stored]


async def test_all_beneath(world):
    (world.source.tree / "sub" / "deep").mkdir()
    (world.source.tree / "sub" / "deep" / "x").touch()
    (world.source.tree / "sub-after").touch()
    await world.source.backup()
    everything = [f"file-{n}" for n in range(5)]
    assert names(await listed(world.source, b"sub", recursive=True)) == ["deep", "x", *everything]
    assert names(await listed(world.source, recursive=True)) == ["large", "sub", "deep", "x", *everything, "sub-after"]
    assert names(await listed(world.source, b"sub/deep/x")) == ["x"]


async def test_several_roots_are_what_is_listed_first(world):
    for name in ("one", "two"):
        small_tree(world.folder / name, seed=3)
    jobs = world.source.config.jobs
    paths = [str(world.folder / name) for name in ("two", "one")]
    several = msgspec.structs.replace(jobs["docs"], paths=paths)
    world.source.config = msgspec.structs.replace(world.source.config, jobs={**jobs, "docs": several})
    await world.source.backup()
    assert names(await listed(world.source)) == ["one", "two"]
    path = os.fsencode(world.folder / "two")
    assert names(await listed(world.source, path)) == ["large", "sub"]
    assert (await content(world.source, path + b"/sub/file-1")).startswith(b"3 1 ")


@pytest.mark.parametrize("path", [b"nope", b"sub/nope", b"large/nope", b"/large", b"zzz"])
async def test_a_path_that_is_not_there(world, path):
    await world.source.backup()
    for work in (listed, content):
        with pytest.raises(UsageError, match="holds no"):
            await work(world.source, path)


async def test_what_is_no_path(world):
    await world.source.backup()
    for path in (b"..", b"sub/../large"):
        with pytest.raises(UsageError, match="has no"):
            await listed(world.source, path)
    with pytest.raises(UsageError, match="no file is named"):
        await content(world.source, b"/")


async def test_which_point(world):
    for run in range(2):
        (world.source.tree / "run").write_text(str(run))
        await world.source.backup()
    first, second = points_of(world)
    assert await content(world.source, b"run") == b"1"
    assert await content(world.source, b"run", point=first) == b"0"
    assert await content(world.source, b"run", point=second[:12]) == b"1"
    with pytest.raises(UsageError, match="no restore point begins"):
        await listed(world.source, point="zz")
    with pytest.raises(UsageError, match="no restore points"):
        await listed(world.source, job="never", source="offsite/main")
    with pytest.raises(RefusedByPeer, match="zone"):
        await listed(world.source, zone="target")


# --- find -------------------------------------------------------------------------------------------------------------


async def test_one_of_several_globs_must_match_and_every_bound(world):
    await world.source.backup()
    assert names(await found(world.source, "large", "file-*", "*-3")) == ["large", *(f"file-{n}" for n in range(5))]
    assert names(await found(world.source, "*", bounds={"kinds": "d"})) == [world.source.tree.name, "sub"]
    assert names(await found(world.source, "*", bounds={"size_at_least": 100_000})) == ["large"]
    assert names(await found(world.source, "sub/*", bounds={"after_ns": 10**19})) == []
    assert names(await found(world.source, "nothing")) == []
    with pytest.raises(UsageError, match="not a pattern"):
        await found(world.source, "large", "/")


async def test_without_an_index_the_manifest_is_searched(world):
    await world.source.backup("none")
    with_index = await found(world.source, "file-*", job="none")
    store, tenant = world.store(), world.tenant(world.source)
    (ref,) = store.points(tenant, "none")
    head = decode_head(store.read_head(tenant, "none", ref.point_id))
    plain = msgspec.structs.replace(head, version=1, fsi=msgspec.UNSET)
    needs = list(store.read_needs(tenant, "none", ref.point_id))
    fresh = PointRef(tenant, "none", ref.point_id, ref.domain, ref.committed_ns, 0, b"")
    parts = point_files.point_parts(store.repository_id, fresh, encode_head(plain), needs)
    Layout(store.path).point(tenant, "none", ref.point_id).write_bytes(b"".join(parts))
    assert await found(world.source, "file-*", job="none") == with_index
    assert any("no file-system index" in event.text for event in world.source.seen(Note))


# --- diff -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["docs", "none"])
async def test_what_changed_and_what_of_it(world, job):
    tree = world.source.tree
    (tree / "link").symlink_to("old")
    (tree / "gone").mkdir()
    (tree / "gone" / "x").write_text("x")
    await world.source.backup(job)
    (first,) = points_of(world, job)
    (tree / "sub" / "file-0").write_text("another length")
    large = bytearray((tree / "large").read_bytes())
    large[-1] ^= 1
    (tree / "large").write_bytes(large)
    os.chmod(tree / "sub" / "file-1", 0o600)
    os.utime(tree / "sub" / "file-2", ns=(1, 1))
    (tree / "link").unlink()
    (tree / "link").symlink_to("new")
    (tree / "gone" / "x").unlink()
    (tree / "gone").rmdir()
    (tree / "new").write_text("new")
    (tree / "sub" / "file-3").unlink()
    (tree / "sub" / "file-3").mkdir()
    os.setxattr(tree / "sub" / "file-4", "user.note", b"new")
    await world.source.backup(job)
    counts, rows = await differences(world.source, first, job=job)
    assert rows == {
        "gone": ("removed", []),
        "x": ("removed", []),
        "new": ("added", []),
        "large": ("changed", ["content", "time"]),
        "file-0": ("changed", ["content", "time"]),
        "file-1": ("changed", ["mode"]),
        "file-2": ("changed", ["time"]),
        "file-3": ("changed", ["type"]),
        "file-4": ("changed", ["attributes"]),
        "link": ("changed", ["target", "time"]),
    }
    # Content was read of those that were read again and have the same size; of nothing else.
    assert counts["compared_by_content"] == 4
    assert (await differences(world.source, "latest", job=job))[1] == {}
    backwards = (await differences(world.source, "latest", first, job=job))[1]
    assert backwards["new"] == ("removed", []) and backwards["x"] == ("added", [])
    assert set((await differences(world.source, first, path=b"sub", job=job))[1]) == {f"file-{n}" for n in range(5)}
    assert set((await differences(world.source, first, path=b"gone", job=job))[1]) == {"gone", "x"}
    with pytest.raises(UsageError, match="holds no"):
        await differences(world.source, first, path=b"nope", job=job)


async def test_unchanged_files_are_told_without_reading_any(world, monkeypatch):
    await world.source.backup()
    (world.source.tree / "sub" / "more").write_text("more")
    await world.source.backup()
    first, _second = points_of(world)

    async def refuse(*_arguments, **_named):
        raise AssertionError("content was read")

    monkeypatch.setattr("transporter.jobs.compare_content._side", refuse)
    assert (await differences(world.source, first))[1] == {"more": ("added", [])}


async def test_a_file_that_moved_to_other_chunks_is_compared_by_its_bytes(world):
    """The same bytes behind other ones: other extents, and no difference but the time."""
    tree = world.source.tree
    shared = os.urandom(2_000_000)
    (tree / "b").write_bytes(shared)
    await world.source.backup()
    (tree / "a").write_bytes(os.urandom(700_001))
    os.utime(tree / "b")
    await world.source.backup()
    counts, rows = await differences(world.source, points_of(world)[0])
    assert rows == {"a": ("added", []), "b": ("changed", ["time"])}
    assert counts["compared_by_content"] == 1


async def test_holes_are_compared_as_the_zeros_that_they_are(world):
    tree = world.source.tree
    with open(tree / "sparse", "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"middle")
    await world.source.backup()
    data = (tree / "sparse").read_bytes()
    (tree / "sparse").write_bytes(data)
    await world.source.backup()
    assert await content(world.source, b"sparse") == data
    (row,) = (await differences(world.source, points_of(world)[0]))[1].values()
    assert row == ("changed", ["time"])


# --- cat --------------------------------------------------------------------------------------------------------------


async def test_hard_links_holes_and_empty_files(world):
    tree = world.source.tree
    os.link(tree / "large", tree / "zz")
    (tree / "empty").touch()
    with open(tree / "hole", "wb") as file:
        file.truncate(1_000_001)
    await world.source.backup()
    assert await content(world.source, b"zz") == (tree / "large").read_bytes()
    assert await content(world.source, b"empty") == b""
    assert await content(world.source, b"hole") == bytes(1_000_001)


async def test_a_file_of_several_records(world, monkeypatch, tmp_path):
    """Records of three extents: what a file of 12 GB has."""
    (tmp_path / "short_records.py").write_text(
        "from transporter.workloads import manifest_builder\n"
        "manifest_builder.MAX_RECORD_EXTENTS = 3\n"
        "from transporter.jobs import read_worker\nread_worker.main()\n"
    )
    data = os.urandom(20_000_000)
    (world.source.tree / "long").write_bytes(data)
    os.link(world.source.tree / "long", world.source.tree / "long too")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        patched.setattr("transporter.jobs.reading.MODULE", "short_records")
        await world.source.backup()
    assert await content(world.source, b"long") == data
    assert await content(world.source, b"long too") == data
    assert [file.size for file in await listed(world.source) if b"long" in file.path] == [len(data)] * 2


@pytest.mark.parametrize(
    ("name", "what"), [(b"sub", "a folder"), (b"link", "a symbolic link to 'large'"), (b"pipe", "a pipe")]
)
async def test_what_is_no_file_is_not_read(world, name, what):
    (world.source.tree / "link").symlink_to("large")
    os.mkfifo(world.source.tree / "pipe")
    await world.source.backup()
    with pytest.raises(UsageError, match=what):
        await content(world.source, name)


async def test_a_slow_reader_is_waited_for(world):
    """Results do not gather in memory: as many wait as there is room for."""
    (world.source.tree / "large").write_bytes(os.urandom(5_000_000))
    await world.source.backup()
    reading, waiting = trio.Event(), 0

    async def room():
        nonlocal waiting
        waiting += 1
        reading.set()
        await gate.wait()

    gate = trio.Event()
    world.source.bus.room = room
    async with trio.open_nursery() as nursery:
        nursery.start_soon(content, world.source, b"large")
        await reading.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert waiting == 1 and len(world.source.seen(FileContent)) == 1
        gate.set()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flipped", "gone"])
async def test_a_damaged_chunk_here_ends_the_reading(world, damage):
    await world.source.backup("none")
    for pack in (world.store().path / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            # The large file's bytes; the manifest's chunk lies behind.
            data[100_000] ^= 1
            pack.chmod(0o600)
            pack.unlink() if damage == "gone" else pack.write_bytes(data)
    with pytest.raises(DamagedData):
        await content(world.target, b"large", job="none")

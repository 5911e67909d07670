"""The writer: nothing half-written is published, nothing outside the output is touched, whatever the manifest says."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from transporter.errors import DamagedData, DiskFull, JobBusy, JobFailed, UsageError
from transporter.workloads import tree_restore, writeback
from transporter.workloads.entry import CONTINUATION, MORE, PAGED, Entry, pack_extents, pack_holes
from transporter.workloads.folders import MAX_OPEN_FOLDERS
from transporter.workloads.restore_path import DryWalk
from transporter.workloads.tree_restore import TreeWriter

ID = b"i" * 32


def file(path: bytes, data: bytes = b"", **fields) -> Entry:
    extents = pack_extents([(ID, 0, len(data))]) if data else b""
    return Entry(path, "f", size=len(data), packed_extents=extents, uid=os.geteuid(), gid=os.getegid(), **fields)


def folder(path: bytes, **fields) -> Entry:
    return Entry(path, "d", mode=0o755, uid=os.geteuid(), gid=os.getegid(), **fields)


def write(output, roots, entries, content=b"x" * 100, **options):
    with TreeWriter(output, "p", roots, **options) as writer:
        for group in writer.plan(iter(entries)):
            writer.write_group(group, memoryview(content))
        writer.finish()
        writer.publish()
    return writer


HOSTILE = {
    "dot dot": [folder(b"r"), file(b"r/../x", b"1")],
    "dot dot at the end": [folder(b"r"), folder(b"r/..")],
    "dot": [folder(b"r"), folder(b"r/.")],
    "absolute": [folder(b"r"), file(b"/etc/x")],
    "outside the roots": [folder(b"r"), file(b"s/x")],
    "root prefix without slash": [folder(b"r"), file(b"rr")],
    "nul": [folder(b"r"), file(b"r/a\0b")],
    "empty component": [folder(b"r"), folder(b"r/a"), file(b"r/a//b")],
    "trailing slash": [folder(b"r"), folder(b"r/a/")],
    "long name": [folder(b"r"), file(b"r/" + b"n" * 256)],
    "twice": [folder(b"r"), file(b"r/a"), file(b"r/a")],
    "folder twice": [folder(b"r"), folder(b"r/a"), folder(b"r/a")],
    "out of order": [folder(b"r"), file(b"r/b"), file(b"r/a")],
    "back into a folder": [folder(b"r"), folder(b"r/a"), folder(b"r/a-"), file(b"r/a/x")],
    "beneath a link": [folder(b"r"), Entry(b"r/l", "l", target=b"/etc"), file(b"r/l/x", b"1")],
    "link then folder": [folder(b"r"), Entry(b"r/l", "l", target=b"/etc"), folder(b"r/l")],
    "beneath a file": [folder(b"r"), file(b"r/f"), file(b"r/f/x")],
    "without its folder": [folder(b"r"), file(b"r/a/x")],
    "link to nothing": [folder(b"r"), file(b"r/a", link=b"r/none")],
    "link out": [folder(b"r"), file(b"r/a", link=b"/etc/passwd")],
    "link to itself": [folder(b"r"), file(b"r/a", link=b"r/a", nlink=2)],
    "too short": [folder(b"r"), Entry(b"r/a", "f", size=9, packed_extents=pack_extents([(ID, 0, 5)]))],
    "too long": [folder(b"r"), Entry(b"r/a", "f", size=3, packed_extents=pack_extents([(ID, 0, 5)]))],
    "empty extent": [folder(b"r"), Entry(b"r/a", "f", packed_extents=pack_extents([(ID, 0, 0)]))],
    "out of the chunk": [folder(b"r"), Entry(b"r/a", "f", size=5, packed_extents=pack_extents([(ID, 4 << 20, 5)]))],
    "cut extents": [folder(b"r"), Entry(b"r/a", "f", size=5, packed_extents=b"1234")],
    "hole past the end": [folder(b"r"), Entry(b"r/a", "f", size=5, packed_holes=pack_holes([(0, 6)]))],
    "huge hole": [folder(b"r"), Entry(b"r/a", "f", size=5, packed_holes=pack_holes([(0, 2**64 - 1)]))],
    "empty hole": [folder(b"r"), Entry(b"r/a", "f", packed_holes=pack_holes([(0, 0)]))],
    "holes out of order": [folder(b"r"), Entry(b"r/a", "f", size=8, packed_holes=pack_holes([(4, 4), (0, 4)]))],
    "ends within a file": [folder(b"r"), file(b"r/a", flags=MORE)],
    "continued by another": [folder(b"r"), file(b"r/a", flags=MORE), file(b"r/b", flags=CONTINUATION)],
    "continues nothing": [folder(b"r"), file(b"r/a"), file(b"r/a", flags=CONTINUATION)],
    "not continued": [folder(b"r"), file(b"r/a", flags=MORE), file(b"r/b")],
    "continued folder": [folder(b"r", flags=MORE), Entry(b"r", "f", CONTINUATION)],
    "extent past what came": [folder(b"r"), file(b"r/a", b"y" * 101)],
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("many_roots", [False, True])
@pytest.mark.parametrize("how", [{}, {"in_place": True, "delete": True}, {"order": "o"}], ids=["", "in place", "again"])
def test_hostile_manifests_are_refused_and_leave_nothing(tmp_path, case, many_roots, how):
    roots = [b"r", b"rrr"] if many_roots else [b"r"]
    with pytest.raises(DamagedData):
        write(tmp_path / "out", roots, HOSTILE[case], **how)
    assert os.listdir(tmp_path) == []


# What a walk that writes nothing cannot see: links need a line of memory each, chunks are not at hand.
UNSEEN = {"link to nothing", "link out", "link to itself", "extent past what came"}


def walk_dry(roots, entries):
    walk = DryWalk(roots)
    for entry in entries:
        walk.take(entry)
    walk.finish()


@pytest.mark.parametrize("case", sorted(HOSTILE.keys() - UNSEEN))
@pytest.mark.parametrize("many_roots", [False, True])
def test_hostile_manifests_are_refused_where_nothing_is_written_too(case, many_roots):
    with pytest.raises(DamagedData):
        walk_dry([b"r", b"rrr"] if many_roots else [b"r"], HOSTILE[case])


def test_what_a_scan_gives_is_accepted_where_nothing_is_written(tree, backup):
    (tree / "holes").write_bytes(b"x" * 5000)
    os.truncate(tree / "holes", 1 << 20)
    os.link(tree / "holes", tree / "more holes")
    copy = backup(tree)
    walk_dry(copy.roots, copy.entries)


@pytest.mark.parametrize("root", [b"..", b".", b"a/..", b"x\0", b"n" * 300])
def test_hostile_roots(tmp_path, root):
    with pytest.raises(DamagedData):
        TreeWriter(tmp_path / "out", "p", [root])
    assert os.listdir(tmp_path) == []


def test_a_path_longer_than_any_is_refused(tmp_path):
    def deeper():
        path = b"r"
        while True:
            yield folder(path)
            path += b"/" + b"d" * 255 if len(path) < 2000 else b"/d" * 400_000

    with pytest.raises(DamagedData):
        write(tmp_path / "out", [b"r"], deeper())


def test_the_root_of_the_file_system_may_be_a_root(tmp_path):
    write(tmp_path / "out", [b""], [folder(b""), folder(b"etc"), file(b"etc/x", b"1")])
    assert (tmp_path / "out" / "etc" / "x").read_bytes() == b"x"


def test_output_that_is_not_empty(tmp_path):
    (tmp_path / "mine").write_bytes(b"m")
    with pytest.raises(UsageError, match="not empty"):
        TreeWriter(tmp_path, "p", [b"r"])
    with pytest.raises(UsageError):
        TreeWriter(tmp_path / "mine", "p", [b"r"])
    with pytest.raises(UsageError):
        TreeWriter(tmp_path / "mine" / "below", "p", [b"r"])
    assert os.listdir(tmp_path) == ["mine"]


def test_nothing_is_visible_before_publish_and_nothing_stays_after_a_failure(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(ZeroDivisionError), TreeWriter(out, "p", [b"r"]) as writer:
        for group in writer.plan(iter([folder(b"r"), folder(b"r/d", ctime_ns=1), file(b"r/f", b"abc")])):
            writer.write_group(group, memoryview(b"abc"))
        writer.finish()
        assert os.listdir(out) == [".transporter-restore-p"]
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_an_output_that_was_there_stays(tmp_path):
    with pytest.raises(ZeroDivisionError), TreeWriter(tmp_path, "p", [b"r"]):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_two_restores_to_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transporter.workloads.staging.LET_GO_SECONDS", 0.0)
    with TreeWriter(tmp_path, "p", [b"r"]), pytest.raises(JobBusy):
        TreeWriter(tmp_path, "p", [b"r"])
    with TreeWriter(tmp_path, "p", [b"r"]), pytest.raises(JobBusy):
        TreeWriter(tmp_path, "q", [b"r"], overwrite=True)


def test_a_restore_waits_for_one_that_is_being_given_up(tmp_path, monkeypatch):
    """Which takes away the folder that it had made, under the one that waits."""
    dying = TreeWriter(tmp_path / "out", "p", [b"r"])
    monkeypatch.setattr("transporter.workloads.staging.time.sleep", lambda _seconds: dying.abort())
    with TreeWriter(tmp_path / "out", "p", [b"r"]):
        assert len(os.listdir(tmp_path / "out")) == 1
    assert not (tmp_path / "out").exists()


def test_what_a_killed_restore_left_is_removed(tmp_path):
    left = tmp_path / ".transporter-restore-p"
    (left / "a" / "b").mkdir(parents=True)
    (left / "a" / "b" / "half").write_bytes(b"h")
    (left / "a").chmod(0o500)
    write(tmp_path, [b"r"], [folder(b"r"), file(b"r/f")])
    assert os.listdir(tmp_path) == ["f"]


def test_a_planted_staging_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".transporter-restore-p").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="not ours"):
        TreeWriter(tmp_path / "out", "p", [b"r"])
    assert os.listdir(tmp_path / "elsewhere") == []


def test_an_incomplete_restore_is_not_finished(tmp_path):
    with pytest.raises(JobFailed), TreeWriter(tmp_path / "out", "p", [b"r"]) as writer:
        assert len(list(writer.plan(iter([folder(b"r"), file(b"r/f", b"abc")])))) == 1
        writer.finish()


def test_a_chunk_that_cannot_be_had_costs_its_files_only(tmp_path):
    other = Entry(b"r/b", "f", size=8, packed_extents=pack_extents([(ID, 0, 4), (b"j" * 32, 0, 4)]), nlink=2)
    entries = [folder(b"r"), file(b"r/a", b"1234"), other, file(b"r/c", link=b"r/b", nlink=2), file(b"r/d", b"1")]
    with TreeWriter(tmp_path / "out", "p", [b"r"]) as writer:
        for group in writer.plan(iter(entries)):
            if group.chunk_id == ID:
                writer.write_group(group, memoryview(b"1234"))
            else:
                writer.skip_group(group, "the chunk is missing")
        writer.finish()
        writer.publish()
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "d"]
    assert [(n.code, n.path, n.gap) for n in writer.take_notes()] == [
        ("not-restored", b"r/b", True),
        ("not-restored", b"r/c", True),
    ]


def test_overwrite_never_follows_links_in_the_output(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(outside)
    (out / "f").symlink_to(outside / "f")
    entries = [folder(b"r"), folder(b"r/d"), file(b"r/d/f", b"1"), file(b"r/f", b"1")]
    write(out, [b"r"], entries, overwrite=True)
    assert (outside / "f").read_bytes() == b"precious"
    assert not (out / "d").is_symlink()
    assert (out / "d" / "f").read_bytes() == (out / "f").read_bytes() == b"x"


def test_overwrite_merges_and_keeps_what_it_does_not_know(tmp_path):
    out = tmp_path / "out"
    (out / "d" / "deep").mkdir(parents=True)
    (out / "d" / "deep" / "mine").write_bytes(b"m")
    (out / "d" / "f").write_bytes(b"old")
    (out / "file").mkdir()
    (out / "file" / "full").write_bytes(b"m")
    entries = [folder(b"r"), folder(b"r/d", mtime_ns=5), folder(b"r/d/deep"), file(b"r/d/deep/n", b"1")]
    entries += [file(b"r/d/f", b"1"), file(b"r/file", b"1")]
    writer = write(out, [b"r"], entries, overwrite=True)
    assert (out / "d" / "deep" / "mine").read_bytes() == b"m"
    assert (out / "d" / "deep" / "n").read_bytes() == (out / "d" / "f").read_bytes() == b"x"
    assert (out / "d").stat().st_mtime_ns == 5
    assert [(n.code, n.path, n.gap) for n in writer.take_notes()] == [("in-the-way", b"file", True)]
    assert sorted(os.listdir(out)) == ["d", "file"]


INCLUDED = {
    ("r/a/*",): ["a/x", "a/y"],
    ("a/*",): ["a/x", "a/y"],
    ("a",): ["a/x", "a/y"],
    ("x",): ["a/x", "b/x"],
    ("b/x", "a/y"): ["a/y", "b/x"],
    ("/r/b",): ["b/x"],
    ("r",): ["a/x", "a/y", "b/x"],
}


@pytest.mark.parametrize("globs", INCLUDED)
def test_include(tmp_path, globs):
    entries = [folder(b"r"), folder(b"r/a"), file(b"r/a/x", b"1"), file(b"r/a/y", b"2")]
    entries += [folder(b"r/b", mtime_ns=77), file(b"r/b/x", b"3"), folder(b"r/c")]
    out = tmp_path / "out"
    write(out, [b"r"], entries, include=list(globs))
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert found == INCLUDED[globs]
    if "b/x" in found:
        assert (out / "b").stat().st_mtime_ns == 77  # the folder on the way has its metadata too
    assert (out / "c").exists() == (globs == ("r",))


def test_include_leaves_existing_folders_on_the_way_alone(tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a").chmod(0o711)
    entries = [folder(b"r"), folder(b"r/a"), file(b"r/a/x", b"1")]
    before = out.stat().st_mode
    write(out, [b"r"], entries, include=["x"], overwrite=True)
    assert (out / "a" / "x").exists()
    assert ((out / "a").stat().st_mode & 0o777, out.stat().st_mode) == (0o711, before)


def test_include_of_a_later_name_of_a_hard_linked_file(tmp_path, tree, backup, restore):
    (tree / "a").write_bytes(random.Random(3).randbytes(50_000))
    for name in "bcd":
        os.link(tree / "a", tree / name)
    copy = backup(tree, chunk_length=7000)
    restore(copy, tmp_path / "out", include=["c", "d"])
    assert sorted(os.listdir(tmp_path / "out")) == ["c", "d"]
    assert (tmp_path / "out" / "c").read_bytes() == (tree / "a").read_bytes()
    assert (tmp_path / "out" / "c").stat().st_ino == (tmp_path / "out" / "d").stat().st_ino


def test_long_entries(tmp_path, tree, backup, restore, monkeypatch):
    monkeypatch.setattr("transporter.workloads.manifest_builder.MAX_RECORD_EXTENTS", 2)
    data = random.Random(4).randbytes(100_000)
    (tree / "a").write_bytes(data)
    os.link(tree / "a", tree / "b")
    with (tree / "sparse").open("wb") as out:
        for index in range(9):
            out.seek(index * 100_000)
            out.write(data[:5000])
        out.truncate(2_000_000)
    copy = backup(tree, chunk_length=6000)
    for include in ([], ["b", "sparse"]):
        out = tmp_path / f"out{len(include)}"
        assert restore(copy, out, include=include) == []
        assert (out / "b").read_bytes() == data
        assert (out / "sparse").read_bytes() == (tree / "sparse").read_bytes()
        assert (out / "sparse").stat().st_blocks == (tree / "sparse").stat().st_blocks


def test_large_groups_may_be_written_by_any_thread(tmp_path, tree, backup):
    rng = random.Random(5)
    for index in range(3):
        (tree / f"big{index}").write_bytes(rng.randbytes(9_000_000))
        for small in range(20):
            (tree / f"big{index}-{small}").write_bytes(rng.randbytes(1000))
    copy = backup(tree, chunk_length=1 << 20)
    with TreeWriter(tmp_path / "out", "p", copy.roots) as writer, ThreadPoolExecutor(4) as pool:
        jobs = []
        groups = list(writer.plan(iter(copy.entries)))
        assert 10 < sum(group.large for group in groups) < len(groups)
        rng.shuffle(groups)
        for group in [g for g in groups if g.large]:
            jobs.append(pool.submit(writer.write_group, group, memoryview(copy.chunks[group.chunk_id])))
        for group in groups:
            if not group.large:
                writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        for job in jobs:
            job.result()
        writer.finish()
        writer.publish()
    for path in tree.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_plan_and_write_in_two_threads(tmp_path, tree, backup, differences):
    rng = random.Random(6)
    for index in range(300):
        path = tree / f"d{index % 7}" / f"e{index % 5}" / f"f{index}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(3000)))
    copy = backup(tree, chunk_length=5000)
    groups, ended = [], threading.Event()
    with TreeWriter(tmp_path / "out", "p", copy.roots) as writer:

        def plan():
            groups.extend(writer.plan(iter(copy.entries)))
            ended.set()

        thread = threading.Thread(target=plan)
        thread.start()
        while not ended.is_set() or groups:
            if groups:
                group = groups.pop(0)
                writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        thread.join()
        writer.finish()
        writer.publish()
    assert differences(tree, tmp_path / "out") == []


def test_open_descriptors_and_memory_are_bounded(tmp_path):
    def entries():
        yield folder(b"r")
        for index in range(3000):
            yield folder(b"r/%05d" % index)
            yield file(b"r/%05d/f" % index, b"1")

    before = len(os.listdir("/proc/self/fd"))
    with TreeWriter(tmp_path / "out", "p", [b"r"]) as writer:
        waiting = []
        for group in writer.plan(entries()):
            waiting.append(group)
            assert len(group.pieces) <= 4096
            assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FOLDERS + 10
        for group in waiting:
            writer.write_group(group, memoryview(b"1"))
        assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FOLDERS + 10
        writer.finish()
        writer.publish()
    assert len(os.listdir(tmp_path / "out")) == 3000


def test_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        write(tmp_path / "out", [b"r"], [folder(b"r"), file(b"r/f", b"1")])
    assert os.listdir(tmp_path) == []


def test_what_this_machine_cannot_make_is_noted(tmp_path):
    if os.geteuid() == 0:
        bad = Entry(b"r/l", "l", target=b"", uid=0, gid=0)  # no such link can be made
    else:
        bad = Entry(b"r/dev", "b", rdev=5)
    writer = write(tmp_path / "out", [b"r"], [folder(b"r"), file(b"r/a", b"1"), bad])
    assert [(n.code, n.gap) for n in writer.take_notes()] == [("not-restored", True)]
    assert os.listdir(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_where_two_names_are_one_the_first_file_stays(tmp_path, monkeypatch, pieces):
    really_open, really_unlink = os.open, os.unlink

    def any_case(name):
        return name.lower() if name in {b"A", b"a"} else name

    monkeypatch.setattr(os, "open", lambda name, *args, **how: really_open(any_case(name), *args, **how))
    monkeypatch.setattr(os, "unlink", lambda name, **how: really_unlink(any_case(name), **how))
    chunks = [(bytes([number]) * 32, 0, 100) for number in range(pieces)]
    entries = [Entry(path, "f", size=100 * pieces, packed_extents=pack_extents(chunks)) for path in (b"r/A", b"r/a")]
    writer = write(tmp_path / "out", [b"r"], [folder(b"r"), *entries])
    assert [(note.code, note.path) for note in writer.take_notes()] == [("not-restored", b"r/a")]
    assert (tmp_path / "out" / "a").read_bytes() == b"x" * 100 * pieces


def test_zero_pages_of_an_image_are_holes(tmp_path):
    content = b"a" * 4096 + bytes(8192) + b"b" * 100 + bytes(4000) + bytes(4096 * 3) + b"c"
    entry = Entry(b"img", "f", PAGED, len(content), packed_extents=pack_extents([(ID, 0, len(content))]))
    write(tmp_path / "out", [b"img"], [entry], content)
    assert (tmp_path / "out" / "img").read_bytes() == content
    assert (tmp_path / "out" / "img").stat().st_blocks * 512 <= 3 * 4096


def test_owners_by_name(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    entries = [folder(b"r"), Entry(b"r/a", "f", uid=4242, gid=4243, user=b"daemon", group=b"no such group")]
    entries.append(Entry(b"r/b", "l", target=b"t", uid=4242, user=b"", gid=0))
    write(tmp_path / "out", [b"r"], entries)
    assert ((tmp_path / "out/a").owner(), (tmp_path / "out/a").stat().st_gid) == ("daemon", 4243)
    assert (tmp_path / "out/b").lstat().st_uid == 4242
    write(tmp_path / "out2", [b"r"], entries, numeric_owner=True)
    assert (tmp_path / "out2/a").stat().st_uid == 4242


def test_the_lock_is_held_by_the_staging_folder(tmp_path):
    with TreeWriter(tmp_path, "p", [b"r"]):
        fd = os.open(tmp_path / ".transporter-restore-p", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)


def test_contents_are_durable_before_names_and_names_before_the_end(tmp_path, monkeypatch):
    """A loss of power at any moment leaves no final name over half a file."""
    seen = []
    output = tmp_path / "out"
    monkeypatch.setattr(tree_restore, "sync_all", lambda fd: seen.append((output / "f").exists()))
    write(output, [b"r"], [folder(b"r"), file(b"r/f", b"1")])
    assert seen == [False, True]


def test_a_disk_that_fails_at_the_end_publishes_nothing(tmp_path, monkeypatch):
    def failing(_fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tree_restore, "sync_all", failing)
    with pytest.raises(JobFailed, match="Input/output error"):
        write(tmp_path / "out", [b"r"], [folder(b"r"), file(b"r/f", b"1")])
    assert not (tmp_path / "out").exists()


def test_a_flush_that_failed_early_fails_the_restore_at_the_latest_at_its_end(tmp_path, monkeypatch):
    """The system tells of a failed write once: whoever asked first must not keep it to itself."""
    monkeypatch.setattr(writeback, "STEP", 1)

    def failing(fd):
        raise OSError(5, "Input/output error")

    entries = [Entry(b"r", "d"), Entry(b"r/f", "f", size=1, packed_extents=pack_extents([(ID, 0, 1)]))]
    with monkeypatch.context() as patched, pytest.raises(JobFailed, match="Input/output"):
        patched.setattr(writeback, "sync_all", failing)
        with TreeWriter(tmp_path / "out", "p", [b"r"]) as writer:
            for group in writer.plan(entries):
                writer.write_group(group, memoryview(b"x"))
            patched.undo()
            writer.finish()
    assert not (tmp_path / "out").exists()

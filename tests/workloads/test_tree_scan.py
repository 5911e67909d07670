"""The scanner: order, what is kept from the run before, and files that will not hold still."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transporter.errors import UsageError
from transporter.workloads import tree_scan
from transporter.workloads.entry import CHANGED, MORE, UNTRUSTED, path_key
from transporter.workloads.tree_scan import TreeScanner

ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def old_enough(monkeypatch):
    """Tests make files and scan them at once: let the clock that tells too-fresh files run ahead."""
    now = tree_scan.coarse_now_ns
    monkeypatch.setattr(tree_scan, "coarse_now_ns", lambda: now() + 60_000_000_000)


def names(copy) -> list[bytes]:
    return [e.path[len(copy.roots[0]) + 1 :] for e in copy.entries if e.path != copy.roots[0]]


def test_path_order(tree, backup):
    for name in ("b", "a/z", "a-b/x", "a/a/a", "a.b", "a b"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    copy = backup(tree)
    assert names(copy) == [b"a", b"a/a", b"a/a/a", b"a/z", b"a b", b"a-b", b"a-b/x", b"a.b", b"b"]
    assert [e.path for e in copy.entries] == sorted((e.path for e in copy.entries), key=path_key)
    assert copy.entries[0].path == os.fsencode(tree).lstrip(b"/")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 9000), max_size=20), st.integers(1, 9000), st.integers(1, 5000), st.integers(0, 3))
def test_contents_whatever_the_buffer(tmp_path_factory, backup, sizes, buffer_length, chunk_length, most):
    tree = tmp_path_factory.mktemp("t")
    rng = random.Random(1)
    for index, size in enumerate(sizes):
        (tree / f"{index:02}").write_bytes(rng.randbytes(size))
    copy = backup(tree, buffer_length=buffer_length, chunk_length=chunk_length, max_entries=most)
    for index in range(len(sizes)):
        assert copy.content(f"{index:02}") == (tree / f"{index:02}").read_bytes()
    assert copy.read == sum(sizes) == copy.scanner.bytes_read == copy.scanner.bytes_total


def test_only_what_changed_is_read(tree, backup):
    for name in "abcdefg":
        (tree / name).write_bytes(name.encode() * 100)
    first = backup(tree)
    (tree / "b").write_bytes(b"other" * 30)
    (tree / "c").unlink()
    (tree / "cc").write_bytes(b"new")
    (tree / "d").chmod(0o600)
    os.rename(tree / "e", tree / "ee")
    second = backup(tree, previous=first)
    assert second.scanner.files_unchanged == 3  # a f g
    assert second.read == 150 + 3 + 100 + 100
    assert names(second) == [b"a", b"b", b"cc", b"d", b"ee", b"f", b"g"]
    for name in ("a", "b", "cc", "d", "ee", "f", "g"):
        assert second.content(name) == (tree / name).read_bytes()


def test_same_size_and_mtime_but_other_content(tree, backup):
    (tree / "f").write_bytes(b"one")
    first = backup(tree)
    state = (tree / "f").stat()
    (tree / "f").write_bytes(b"two")
    os.utime(tree / "f", ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert backup(tree, previous=first).content("f") == b"two"


def test_a_file_fresh_enough_to_change_unseen_is_read_again(tree, backup, monkeypatch):
    (tree / "f").write_bytes(b"content")
    changed = (tree / "f").stat().st_ctime_ns
    monkeypatch.setattr(tree_scan, "coarse_now_ns", lambda: changed)  # the same tick: a later write may get this ctime
    first = backup(tree)
    assert first.entry("f").flags & UNTRUSTED
    monkeypatch.setattr(tree_scan, "coarse_now_ns", lambda: changed + 1)
    second = backup(tree, previous=first)
    assert (second.scanner.files_unchanged, second.entry("f").flags) == (0, 0)
    assert backup(tree, previous=second).scanner.files_unchanged == 1


def test_a_long_entry_is_kept_with_all_its_records(tree, backup, monkeypatch):
    monkeypatch.setattr("transporter.workloads.manifest_builder.MAX_RECORD_EXTENTS", 3)
    (tree / "big").write_bytes(random.Random(2).randbytes(100_000))
    (tree / "c").write_bytes(b"c")
    first = backup(tree, chunk_length=10_000)
    assert len(first.entries) == 6
    second = backup(tree, previous=first)
    assert (second.entries, second.read) == (first.entries, 0)
    (tree / "big").write_bytes(b"short")
    third = backup(tree, previous=second)
    assert (len(third.entries), third.read) == (3, 5)


def test_hard_links_are_read_once(tree, backup):
    (tree / "a").write_bytes(b"content")
    for name in ("b", "c"):
        os.link(tree / "a", tree / name)
    first = backup(tree)
    assert first.read == 7
    assert [e.link.rpartition(b"/")[2] for e in first.entries] == [b"", b"", b"a", b"a"]
    second = backup(tree, previous=first)
    assert (second.read, second.scanner.files_unchanged) == (0, 3)
    (tree / "a").unlink()
    third = backup(tree, previous=second)
    assert third.read == 7
    assert third.content("b") == b"content"
    assert third.entry("c").link.endswith(b"/b")


def test_first_name_of_a_hard_link_excluded_later(tree, backup):
    (tree / "a").write_bytes(b"content")
    os.link(tree / "a", tree / "b")
    second = backup(tree, previous=backup(tree), exclude=["a"])
    assert second.content("b") == b"content"


def acting(stage: str, name: str, act):
    """A hook that acts once, at a stage of reading a file."""
    done = []

    def hook(at: str, path: bytes) -> None:
        if at == stage and path.endswith(os.fsencode(name)) and not done:
            done.append(1)
            act()

    return hook


def test_small_file_replaced_while_read_is_read_again(tree, backup):
    (tree / "f").write_bytes(b"before")
    copy = backup(tree, hook=acting("open", "f", lambda: (tree / "f").write_bytes(b"after it all")))
    assert copy.content("f") == b"after it all"
    assert copy.entry("f").size == 12
    assert copy.notes == []


@pytest.mark.parametrize("stage", ["open", "read"])
def test_small_file_changed_behind_its_size_and_mtime(tree, backup, stage):
    (tree / "f").write_bytes(b"before")
    state = (tree / "f").stat()

    def change():
        (tree / "f").write_bytes(b"AFTER!")
        os.utime(tree / "f", ns=(state.st_mtime_ns, state.st_mtime_ns))

    copy = backup(tree, hook=acting(stage, "f", change))
    assert copy.content("f") == b"AFTER!"
    assert copy.entry("f").ctime_ns == (tree / "f").stat().st_ctime_ns  # not the state before: the next run may keep it


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_file_that_grows_while_read(tree, tmp_path, backup, restore, size):
    (tree / "f").write_bytes(b"x" * size)

    def grow():
        with (tree / "f").open("ab") as file:
            file.write(b"more")

    calls = []

    def hook(stage, path):
        if stage == "read":
            calls.append(1)
            grow()

    copy = backup(tree, hook=hook)
    assert copy.codes == ["changed"]
    assert not copy.notes[0].gap
    entry = [e for e in copy.entries if e.kind == "f"][-1]
    assert entry.flags & CHANGED
    assert entry.flags & UNTRUSTED
    assert copy.content("f") == b"x" * size + b"more" * ((entry.size - size) // 4)
    restore(copy, tmp_path / "out")
    assert (tmp_path / "out" / "f").stat().st_size == entry.size


@pytest.mark.parametrize("at", [0, 3])
def test_file_that_shrinks_while_read(tree, tmp_path, backup, restore, monkeypatch, at):
    monkeypatch.setattr("transporter.workloads.manifest_builder.MAX_RECORD_EXTENTS", 2)
    (tree / "f").write_bytes(b"x" * 1_000_000)
    (tree / "g").write_bytes(b"after")
    reads = []

    def hook(stage, path):
        if stage == "read" and path.endswith(b"/f"):
            reads.append(1)
            if len(reads) == at + 1:
                os.truncate(tree / "f", 1000)

    copy = backup(tree, hook=hook, buffer_length=100_000, chunk_length=30_000)
    assert copy.codes == ["changed"]
    expected = max(at * 100_000, 1000)
    last = [e for e in copy.entries if e.path.endswith(b"/f")][-1]
    assert (last.size, last.flags & (CHANGED | MORE)) == (expected, CHANGED)
    assert copy.content("f") == b"x" * expected
    assert copy.content("g") == b"after"
    assert restore(copy, tmp_path / "out") == []
    assert (tmp_path / "out" / "f").read_bytes() == b"x" * expected
    assert (tmp_path / "out" / "g").read_bytes() == b"after"


def test_sparse_file_that_shrinks_while_read(tree, tmp_path, backup, restore):
    with (tree / "f").open("wb") as file:
        for index in range(8):
            file.seek(index << 20)
            file.write(b"y" * 65536)
        file.truncate(10 << 20)
        os.fsync(file.fileno())
    copy = backup(tree, buffer_length=100_000, hook=acting("read", "f", lambda: os.truncate(tree / "f", 3 << 20)))
    assert copy.codes == ["changed"]
    restore(copy, tmp_path / "out")
    found = (tmp_path / "out" / "f").read_bytes()
    assert found == (tree / "f").read_bytes()[: len(found)]
    assert len(found) >= (2 << 20) + 65536


def test_vanished_files_and_folders(tree, backup):
    for name in "abc":
        (tree / name).write_bytes(b"x")
    copy = backup(tree, hook=acting("open", "a", (tree / "a").unlink))
    assert copy.codes == ["vanished"]
    assert not copy.notes[0].gap
    assert names(copy) == [b"b", b"c"]
    copy = backup(tree, hook=acting("open", "b", (tree / "c").unlink))
    assert (copy.codes, names(copy)) == (["vanished"], [b"b"])


def test_replaced_by_a_fifo_does_not_hang(tree, backup):
    (tree / "a").write_bytes(b"x")

    def swap():
        (tree / "a").unlink()
        os.mkfifo(tree / "a")

    copy = backup(tree, hook=acting("open", "a", swap))
    assert copy.codes == ["vanished"]


def test_a_link_slipped_in_is_not_followed(tree, tmp_path, backup):
    (tree / "a").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"s")

    def swap():
        (tree / "a").unlink()
        (tree / "a").symlink_to(tmp_path / "secret")

    copy = backup(tree, hook=acting("open", "a", swap))
    assert (copy.codes, copy.read) == (["vanished"], 0)


def test_a_folder_replaced_by_a_link_is_not_followed(tree, tmp_path, backup, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s").write_bytes(b"s")
    (tree / "d").mkdir()
    real = os.stat

    def swapping(path, **options):
        state = real(path, **options)
        if path == b"d":
            (tree / "d").rmdir()
            (tree / "d").symlink_to(tmp_path / "secret")
        return state

    monkeypatch.setattr(tree_scan.os, "stat", swapping)
    copy = backup(tree)
    assert copy.read == 0
    assert copy.codes == ["vanished"]


def test_read_error_is_a_gap(tree, backup, monkeypatch):
    (tree / "a").write_bytes(b"x" * 500_000)
    (tree / "b").write_bytes(b"y")
    (tree / "c").write_bytes(b"z")
    real_small, real_large = os.readv, os.preadv

    def readv(fd, buffers):
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/b"):
            raise OSError(5, "Input/output error")
        return real_small(fd, buffers)

    def preadv(fd, buffers, offset):
        if offset >= 1 << 18:
            raise OSError(5, "Input/output error")
        return real_large(fd, buffers, offset)

    monkeypatch.setattr(os, "readv", readv)
    monkeypatch.setattr(os, "preadv", preadv)
    copy = backup(tree)
    assert [(n.code, n.gap, n.path[-1:]) for n in copy.notes] == [
        ("unreadable", True, b"a"),
        ("unreadable", True, b"b"),
    ]
    assert names(copy) == [b"a", b"c"]
    assert copy.entry("a").flags & UNTRUSTED
    assert copy.entry("a").size == 1 << 18


@pytest.mark.skipif(not ROOT, reason="needs root to become somebody else")
def test_unreadable_files_and_folders_are_gaps(reachable, as_nobody, backup):
    tree = reachable
    (tree / "a").write_bytes(b"a")
    (tree / "closed").write_bytes(b"secret")
    (tree / "closed").chmod(0o600)
    (tree / "folder").mkdir(mode=0o700)
    (tree / "folder" / "inside").write_bytes(b"secret")
    (tree / "list only").mkdir()
    (tree / "list only" / "x").write_bytes(b"secret")
    (tree / "list only").chmod(0o744)
    (tree / "z").write_bytes(b"z")

    def scan():
        copy = backup(tree)
        return [
            [os.fsdecode(n) for n in names(copy)],
            [[n.code, n.path.decode()[-6:], n.gap] for n in copy.notes],
            copy.read,
        ]

    found, notes, total = as_nobody(scan)
    assert found == ["a", "folder", "list only", "z"]
    assert notes == [["unreadable", name, True] for name in ("closed", "folder", "only/x")]
    assert total == 2


def test_exclude(tree, backup):
    for name in ("src/a.c", "src/a.o", "node_modules/x/y", "deep/node_modules/z", "keep/tmp/1", "tmp/2", "x y"):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    copy = backup(tree, exclude=["*.o", "node_modules/", "tmp/*", "x?y"])
    assert names(copy) == [b"deep", b"keep", b"keep/tmp", b"keep/tmp/1", b"src", b"src/a.c", b"tmp"]
    stored = os.fsdecode(copy.roots[0])
    assert names(backup(tree, exclude=[f"/{stored}/*"])) == []
    assert len(names(backup(tree, exclude=[f"{stored}/*", "/", "/src/*"]))) == len(names(backup(tree)))


def test_roots_are_normalised(tmp_path):
    for name in ("a/b", "c", "a-x"):
        (tmp_path / name).mkdir(parents=True)
    base = os.fsencode(tmp_path)
    given_roots = [base + b"/c/", base + b"/a/b/../b", base + b"/a", base + b"/a-x", base + b"/c"]
    scanner = TreeScanner(given_roots)
    assert scanner.roots == [base.lstrip(b"/") + name for name in (b"/a", b"/a-x", b"/c")]
    with pytest.raises(UsageError):
        TreeScanner([base + b"/missing"])
    with pytest.raises(UsageError):
        TreeScanner([])


def test_a_root_that_is_a_link_to_a_folder_is_followed(tree, tmp_path, backup):
    (tree / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tree)
    copy = backup(tmp_path / "link")
    assert [e.kind for e in copy.entries] == ["d", "f"]
    assert copy.entries[0].path == os.fsencode(tmp_path / "link").lstrip(b"/")


def test_root_that_vanishes_is_a_gap(tree, backup):
    (tree / "f").write_bytes(b"x")
    scanner = TreeScanner([os.fsencode(tree / "f")])
    (tree / "f").unlink()
    assert scanner.fill(memoryview(bytearray(10))) == 0
    assert scanner.finished
    assert [(n.code, n.gap) for n in scanner.take_notes()] == [("unreadable", True)]


def test_max_entries_bounds_what_waits(tree, backup):
    for index in range(50):
        (tree / f"{index:02}").write_bytes(b"")
    scanner = TreeScanner([os.fsencode(tree)], max_entries=8)
    buffer = memoryview(bytearray(100))
    batches = []
    while not scanner.finished:
        scanner.fill(buffer)
        batches.append(len(scanner.take_entries()))
    assert max(batches) <= 9
    assert sum(batches) == 51


def test_one_file_system(tree, backup, monkeypatch):
    (tree / "mounted").mkdir()
    (tree / "mounted" / "inside").write_bytes(b"x")
    (tree / "z").write_bytes(b"z")
    real = os.stat

    class Elsewhere:
        def __init__(self, state):
            self._state = state

        def __getattr__(self, name):
            return 99 if name == "st_dev" else getattr(self._state, name)

    def other_device(path, **options):
        state = real(path, **options)
        return Elsewhere(state) if path == b"mounted" else state

    monkeypatch.setattr(tree_scan.os, "stat", other_device)
    assert names(backup(tree, one_file_system=True)) == [b"mounted", b"z"]


def test_device_numbers_and_owner_names(tree, backup):
    (tree / "f").write_bytes(b"x")
    entry = backup(tree).entry("f")
    state = (tree / "f").stat()
    assert (entry.uid, entry.gid) == (state.st_uid, state.st_gid)
    assert entry.user == (tree / "f").owner().encode()
    assert (entry.dev, entry.inode, entry.nlink) == (state.st_dev, state.st_ino, 1)
    assert (entry.mtime_ns, entry.ctime_ns) == (state.st_mtime_ns, state.st_ctime_ns)


def test_access_times_are_left_alone(tree, backup):
    (tree / "f").write_bytes(b"x")
    os.utime(tree / "f", ns=(1, 1))
    backup(tree)
    assert (tree / "f").stat().st_atime_ns == 1


def test_close_in_the_middle_of_a_file(tree):
    (tree / "f").write_bytes(b"x" * 1000)
    scanner = TreeScanner([os.fsencode(tree)])
    assert scanner.fill(memoryview(bytearray(10))) == 10
    scanner.close()  # the fixture counts descriptors

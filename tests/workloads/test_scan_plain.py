"""The short way for plain files: taken where it may be, left where it may not, and the outcome is the same."""

from __future__ import annotations

import os

import pytest

from transporter.workloads import scan_plain, tree_scan
from transporter.workloads.entry import UNTRUSTED
from transporter.workloads.tree_scan import TreeScanner


@pytest.fixture
def careful(monkeypatch):
    """Count what goes the careful way."""
    seen: list[bytes] = []
    visit = TreeScanner._visit

    def counting(self, fd, name, path, *more):
        seen.append(name)
        return visit(self, fd, name, path, *more)

    monkeypatch.setattr(TreeScanner, "_visit", counting)
    return seen


@pytest.fixture
def old_enough(monkeypatch):
    now = tree_scan.coarse_now_ns
    monkeypatch.setattr(tree_scan, "coarse_now_ns", lambda: now() + 60_000_000_000)


def test_plain_files_are_not_looked_at_twice(tree, backup, careful, old_enough):
    (tree / "empty").write_bytes(b"")
    for index in range(50):
        (tree / f"f{index:02}").write_bytes(b"%d" % index * index)
    copy = backup(tree)
    assert careful == []
    assert [copy.content(f"f{index:02}") for index in range(50)] == [b"%d" % index * index for index in range(50)]
    state, entry = (tree / "f07").stat(), copy.entry("f07")
    assert (entry.mode, entry.uid, entry.gid, entry.inode, entry.dev, entry.nlink, entry.flags) == (
        state.st_mode & 0o7777, state.st_uid, state.st_gid, state.st_ino, state.st_dev, 1, 0,
    )  # fmt: skip
    assert (entry.size, entry.mtime_ns, entry.ctime_ns) == (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    assert copy.scanner.files == 51


def test_a_file_changed_just_now_goes_the_careful_way(tree, backup, careful, monkeypatch):
    """Its ctime is no proof that it did not change while it was read."""
    (tree / "f").write_bytes(b"content")
    now = (tree / "f").stat().st_ctime_ns
    monkeypatch.setattr(tree_scan, "coarse_now_ns", lambda: now)
    copy = backup(tree)
    assert careful == [b"f"]
    assert copy.entry("f").flags & UNTRUSTED
    assert copy.content("f") == b"content"


def test_whatever_is_not_plain_goes_the_careful_way(tree, backup, careful, old_enough):
    (tree / "a").write_bytes(b"a")
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    (tree / "long").write_bytes(b"l" * (scan_plain.PLAIN_AT_MOST + 1))
    (tree / "z").write_bytes(b"z")
    copy = backup(tree, buffer_length=4 << 20)
    assert careful == [b"link", b"long", b"pipe", b"sparse"]
    assert copy.content("long") == (tree / "long").read_bytes()
    assert copy.content("z") == b"z"
    assert copy.entry("sparse").packed_holes


def test_attributes_are_not_lost(tree, backup, careful, old_enough):
    (tree / "f").write_bytes(b"f")
    try:
        os.setxattr(tree / "f", "user.note", b"value")
    except OSError:
        pytest.skip("no attributes here")
    assert backup(tree).entry("f").xattrs == {b"user.note": b"value"}
    assert careful == [b"f"]


def test_content_of_a_hard_link_is_in_the_stream_once(tree, backup, careful, old_enough):
    (tree / "a").write_bytes(b"content" * 100)
    for name in "bcd":
        os.link(tree / "a", tree / name)
    copy = backup(tree)
    assert copy.read == 700
    assert careful == [b"a", b"b", b"c", b"d"]
    assert {copy.entry(name).link for name in "bcd"} == {copy.entry("a").path}


def test_excluded_files_are_not_opened(tree, backup, careful, old_enough):
    (tree / "keep.txt").write_bytes(b"k")
    (tree / "drop.tmp").write_bytes(b"d")
    copy = backup(tree, exclude=["*.tmp"])
    assert [entry.path.rpartition(b"/")[2] for entry in copy.entries[1:]] == [b"keep.txt"]
    assert careful == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file that its reader does not own")
def test_an_unreadable_file_is_noted_once(tree, backup, careful, old_enough, monkeypatch):
    (tree / "f").write_bytes(b"f")
    real = os.open

    def refusing(path, flags, *more, **options):
        if path == b"f":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refusing)
    copy = backup(tree)
    assert copy.codes == ["unreadable"]
    assert careful == [b"f"]


class Listing:
    """What ``os.scandir`` gives on a file system where a name was replaced while it was listed."""

    class Row:
        def __init__(self, name: str, inode: int) -> None:
            self.name = name
            self._inode = inode

        def inode(self) -> int:
            return self._inode

        def is_file(self, *, follow_symlinks: bool) -> bool:
            return True

    def __enter__(self):
        return iter([self.Row("b", 1), self.Row("a", 2), self.Row("b", 3)])

    def __exit__(self, *_):
        pass


def test_a_name_that_is_listed_twice_is_one_name(monkeypatch):
    monkeypatch.setattr(os, "scandir", lambda _fd: Listing())
    assert [name for name, _ in scan_plain.list_folder(7)] == [b"a", b"b"]

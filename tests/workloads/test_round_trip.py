"""A tree of every awkward kind of file comes back equal, as rsync sees it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

OLD = 1_234_567_890_123_456_789


def sparse(path: Path, *pieces: tuple[int, bytes], size: int) -> None:
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
        os.fsync(file.fileno())


def make_awkward(tree: Path) -> None:
    rng = random.Random(7)
    (tree / "empty folder").mkdir()
    (tree / "empty file").touch()
    (tree / "small").write_bytes(b"x")
    (tree / "large").write_bytes(rng.randbytes(3_000_001))
    (tree / "zeros").write_bytes(bytes(100_000))
    os.mkdir(os.fsencode(tree) + b"/\xff\xfe not utf-8")
    with open(os.fsencode(tree) + b"/\xff\xfe not utf-8/new\nline", "wb") as file:
        file.write(b"odd")
    (tree / ("n" * 255)).write_bytes(b"long name")
    for name in ("a", "a-b", "a.b", "a b"):
        (tree / name).mkdir()
        (tree / name / "f").write_bytes(name.encode())
    (tree / "link").symlink_to("large")
    (tree / "dangling").symlink_to("/nowhere/at all")
    os.symlink(b"\xff" * 200, os.fsencode(tree) + b"/odd link")
    (tree / "hard 1").write_bytes(b"one content" * 1000)
    os.link(tree / "hard 1", tree / "hard 2")
    os.link(tree / "hard 1", tree / "a" / "hard 3")
    os.link(tree / "link", tree / "link 2", follow_symlinks=False)
    os.mkfifo(tree / "fifo")
    os.link(tree / "fifo", tree / "fifo 2")
    sparse(tree / "sparse", (1 << 20, rng.randbytes(70_000)), (5 << 20, b"end"), size=9 << 20)
    sparse(tree / "hole only", size=3 << 20)
    sparse(tree / "sparse head", (0, b"head"), size=1 << 20)
    (tree / "modes").mkdir()
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o2755, 0o4711, 0o1777):
        path = tree / "modes" / f"{mode:o}"
        path.write_bytes(b"m")
        path.chmod(mode)
    os.utime(tree / "link", ns=(OLD, OLD + 1), follow_symlinks=False)
    os.utime(tree / "small", ns=(OLD, 999_999_999))
    os.utime(tree / "large", ns=(OLD, -5_000_000_001))
    os.utime(tree / "empty folder", ns=(OLD, OLD))
    os.setxattr(tree / "small", b"user.comment", b"bytes \x00\xff")
    os.setxattr(tree / "large", b"user.empty", b"")
    os.setxattr(tree / "a", b"user.on-a-folder", b"v" * 2000)


def make_privileged(tree: Path) -> None:
    os.mknod(tree / "char", 0o020640, os.makedev(1, 3))
    os.mknod(tree / "block", 0o060600, os.makedev(259, 70_000))
    os.link(tree / "char", tree / "char 2")
    for name, uid, gid in (("owned", 12345, 54321), ("daemon's", 1, 1), ("suid", 65534, 0)):
        (tree / name).write_bytes(name.encode())
        os.chown(tree / name, uid, gid)
    (tree / "suid").chmod(0o6755)
    os.chown(tree / "dangling", 1, 12345, follow_symlinks=False)
    os.chown(tree / "a-b", 3, 3)
    (tree / "a-b").chmod(0o3770)
    os.setxattr(tree / "small", b"trusted.thing", b"t")
    os.setxattr(tree / "dangling", b"trusted.link", b"l", follow_symlinks=False)
    os.setxattr(tree / "fifo", b"trusted.fifo", b"f")
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    os.setxattr(tree / "owned", b"security.capability", capability)
    if shutil.which("setfacl"):
        (tree / "acl").mkdir()
        (tree / "acl" / "inside").write_bytes(b"i")
        (tree / "acl" / "inside").chmod(0o604)
        subprocess.run(["setfacl", "-m", "u:1:rwx,g:2:r", str(tree / "acl" / "inside")], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:3:rwx,o::---", str(tree / "acl")], check=True)


def blocks(tree: Path) -> dict[str, int]:
    found = {}
    for folder, _, names in os.walk(os.fsencode(tree)):
        for name in names:
            path = os.path.join(folder, name)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(tree)))] = os.lstat(path).st_blocks
    return found


@pytest.fixture
def awkward(tree: Path) -> Path:
    make_awkward(tree)
    if os.geteuid() == 0:
        make_privileged(tree)
    os.utime(tree / "modes", ns=(OLD, OLD))
    tree.chmod(0o751)
    os.utime(tree, ns=(OLD, OLD + 7))
    return tree


@pytest.mark.parametrize(("chunk_length", "buffer_length"), [(1 << 16, 1 << 18), (4096, 5000), (4 << 20, 4 << 20)])
def test_awkward_tree(awkward, tmp_path, backup, restore, differences, chunk_length, buffer_length):
    copy = backup(awkward, chunk_length=chunk_length, buffer_length=buffer_length)
    assert copy.notes == []
    assert restore(copy, tmp_path / "out") == []
    assert differences(awkward, tmp_path / "out") == []
    assert blocks(tmp_path / "out") == blocks(awkward)


def test_second_run_reads_nothing(awkward, tmp_path, backup, restore, differences):
    first = backup(awkward)
    for entry in first.entries:
        entry.flags &= ~8  # made in this very moment: they would be read again
    second = backup(awkward, previous=first)
    assert second.read == 0
    assert second.entries == first.entries
    assert second.scanner.files_unchanged == second.scanner.files > 20
    restore(second, tmp_path / "out")
    assert differences(awkward, tmp_path / "out") == []


def test_restore_to_an_existing_empty_folder(awkward, tmp_path, backup, restore, differences):
    (tmp_path / "out").mkdir(mode=0o700)
    restore(backup(awkward), tmp_path / "out")
    assert differences(awkward, tmp_path / "out") == []


def test_overwrite_makes_equal_what_is_there(awkward, tmp_path, backup, restore, differences):
    copy = backup(awkward)
    out = tmp_path / "out"
    restore(copy, out)
    (out / "small").write_bytes(b"changed")
    (out / "large").unlink()
    (out / "large").symlink_to("/etc/passwd")
    shutil.rmtree(out / "a.b")
    (out / "a.b").write_bytes(b"a file in the way of a folder")
    (out / "a").chmod(0o700)
    (out / "empty file").unlink()
    (out / "empty file").mkdir()
    assert restore(copy, out, overwrite=True) == []
    assert differences(awkward, out) == []


def test_output_with_a_default_acl_and_setgid_passes_nothing_on(awkward, tmp_path, backup, restore, differences):
    if os.geteuid() != 0 or shutil.which("setfacl") is None:
        pytest.skip("needs root and setfacl")
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, 0, 4242)
    parent.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", str(parent)], check=True)
    restore(backup(awkward), parent / "out")
    assert differences(awkward, parent / "out") == []


def test_socket_is_skipped_with_a_note(tree, tmp_path, backup, restore):
    with socket.socket(socket.AF_UNIX) as listener:
        where = os.getcwd()
        os.chdir(tree)  # the path of a socket is short
        try:
            listener.bind("s")
        finally:
            os.chdir(where)
        copy = backup(tree)
    assert [(n.code, n.gap) for n in copy.notes] == [("socket-skipped", False)]
    restore(copy, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_tree_deeper_than_path_max(tree, tmp_path, backup, restore):
    name = "d" * 200
    depth = 300  # 60,000 bytes of path; more folders than descriptors are kept
    fd = os.open(tree, os.O_RDONLY)
    for level in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        file = os.open(f"z{level}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
        os.write(file, str(level).encode())
        os.close(file)
    os.close(fd)
    copy = backup(tree)
    assert copy.notes == []
    assert len(copy.entries) == 1 + 2 * depth
    assert restore(copy, tmp_path / "out") == []
    again = backup(tmp_path / "out")

    def shape(c):
        return [(e.path[len(c.roots[0]) :], e.kind, e.mode, e.mtime_ns, e.extents) for e in c.entries]

    assert shape(again) == shape(copy)
    assert restore(copy, tmp_path / "out", overwrite=True) == []
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    subprocess.run(["rm", "-rf", str(tmp_path / "out"), str(tree)], check=True)


def test_several_roots_get_their_base_names(tmp_path, backup, restore, differences):
    for name in ("x/docs", "y/docs", "z/music"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_bytes(name.encode())
    (tmp_path / "file").write_bytes(b"alone")
    copy = backup(tmp_path / "y/docs", tmp_path / "x/docs", tmp_path / "z/music", tmp_path / "file")
    out = tmp_path / "out"
    assert restore(copy, out) == []
    prefix = os.fsdecode(tmp_path).strip("/").replace("/", "_")
    assert sorted(os.listdir(out)) == sorted([f"{prefix}_x_docs", f"{prefix}_y_docs", "music", "file"])
    assert differences(tmp_path / "x/docs", out / f"{prefix}_x_docs") == []
    assert (out / "file").read_bytes() == b"alone"


def test_a_single_file_keeps_its_name(tmp_path, backup, restore):
    (tmp_path / "one").write_bytes(b"content")
    restore(backup(tmp_path / "one"), tmp_path / "out")
    assert (tmp_path / "out" / "one").read_bytes() == b"content"

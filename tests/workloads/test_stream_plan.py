"""A point as a stream: what GNU tar unpacks is the tree; one file is its bytes; anything hostile is refused."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile

import pytest

from transporter.errors import DamagedData, UsageError
from transporter.workloads.entry import CONTINUATION, MORE, Entry, pack_extents
from transporter.workloads.selection import Selection
from transporter.workloads.stream_plan import FilePlan, Part, TarPlan, Zeros


def stream(plan, entries, chunks) -> bytes:
    data = io.BytesIO()

    def write(items):
        for item in items:
            if isinstance(item, Part):
                data.write(chunks[item.chunk_id][item.chunk_offset : item.chunk_offset + item.length])
            else:
                data.write(bytes(item.length) if isinstance(item, Zeros) else item)

    for entry in entries:
        write(plan.take(entry))
    write(plan.end())
    return data.getvalue()


def tar(copy, **selection) -> bytes:
    return stream(TarPlan(copy.roots, Selection(**selection)), copy.entries, copy.chunks)


@pytest.fixture
def full(tree):
    rng = random.Random(8)
    (tree / "sub" / ("d" * 120)).mkdir(parents=True)
    (tree / "sub" / ("d" * 120) / "ü-long").write_bytes(rng.randbytes(70_000))
    (tree / "sub" / "empty").write_bytes(b"")
    (tree / "sub" / "odd\udcff\n name").write_bytes(b"o")
    (tree / "sparse").write_bytes(b"x" * 5000)
    os.truncate(tree / "sparse", 200_000)
    (tree / "link").symlink_to("sub/empty")
    (tree / "long link").symlink_to("t" * 200)
    os.link(tree / "sparse", tree / "twin")
    os.mkfifo(tree / "pipe")
    (tree / "old").write_bytes(b"before 1970")
    os.utime(tree / "old", ns=(-1_500_000_000, -1_500_000_000))
    (tree / "sub").chmod(0o2750)
    return tree


def test_gnu_tar_unpacks_what_was_backed_up(full, tmp_path, backup, differences):
    try:
        os.setxattr(full / "sub" / "empty", "user.a=b%", b"\0\xffvalue\n")
    except OSError:
        pytest.skip("the file system has no attributes")
    copy = backup(full, chunk_length=30_000)
    out = tmp_path / "out"
    out.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"]
    done = subprocess.run(["tar", "-C", out, *options], input=tar(copy), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert differences(full, out) == []


def test_the_library_reads_it(full, backup):
    copy = backup(full)
    with tarfile.open(fileobj=io.BytesIO(tar(copy))) as archive:
        members = {member.name: member for member in archive}
        assert members["twin"].islnk() and members["twin"].linkname == "sparse"
        assert members["old"].mtime == -1.5
        assert archive.extractfile("sparse").read() == (full / "sparse").read_bytes()
        assert "sub/odd\udcff\n name" in members


def test_a_selection_has_the_folders_on_the_way(full, backup):
    copy = backup(full)
    with tarfile.open(fileobj=io.BytesIO(tar(copy, include=["empty"]))) as archive:
        assert archive.getnames() == [".", "sub", "sub/empty"]
    with tarfile.open(fileobj=io.BytesIO(tar(copy, include=["twin"]))) as archive:  # its first name is left out
        assert archive.getnames() == [".", "twin"]
        assert archive.extractfile("twin").read() == (full / "sparse").read_bytes()
    with pytest.raises(UsageError):
        tar(copy, include=["none"])


def test_several_roots(tree, backup):
    for name in ("one", "two"):
        (tree / name).mkdir()
        (tree / name / "file").write_bytes(name.encode())
    with tarfile.open(fileobj=io.BytesIO(tar(backup(tree / "one", tree / "two")))) as archive:
        assert archive.getnames() == ["one", "one/file", "two", "two/file"]


def test_one_file(full, backup):
    copy = backup(full, chunk_length=30_000)
    data = stream(FilePlan(copy.roots, Selection(paths=[b"sparse"])), copy.entries, copy.chunks)
    assert data == (full / "sparse").read_bytes()
    for selection in (Selection(), Selection(["sub"]), Selection(["sparse", "twin"])):
        with pytest.raises(UsageError, match="several files"):
            stream(FilePlan(copy.roots, selection), copy.entries, copy.chunks)
    with pytest.raises(UsageError, match="no file"):
        stream(FilePlan(copy.roots, Selection(["pipe"])), copy.entries, copy.chunks)


def test_a_file_of_several_records_and_a_shorter_end():
    one = Entry(b"r", "f", MORE, size=99, packed_extents=pack_extents([(b"i" * 32, 0, 10)]))
    two = Entry(b"r", "f", CONTINUATION, size=15, packed_extents=pack_extents([(b"i" * 32, 10, 5)]))
    chunks = {b"i" * 32: b"0123456789abcde"}
    assert stream(FilePlan([b"r"], Selection()), [one, two], chunks) == b"0123456789abcde"
    with tarfile.open(fileobj=io.BytesIO(stream(TarPlan([b"r"], Selection()), [one, two], chunks))) as archive:
        assert archive.extractfile("r").read() == b"0123456789abcde"


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"r", "d"), Entry(b"r/../x", "f")],
        [Entry(b"r", "d"), Entry(b"r/b", "f"), Entry(b"r/a", "f")],
        [Entry(b"r", "d"), Entry(b"r/a", "f", link=b"r/none")],
        [Entry(b"r", "d"), Entry(b"r/a", "f", size=5)],
        [Entry(b"r", "d"), Entry(b"r/a", "f", size=3, packed_extents=pack_extents([(b"i" * 32, 0, 5)]))],
        [Entry(b"r", "d"), Entry(b"r/a", "f", MORE)],
        [Entry(b"r", "d"), Entry(b"r/a", "f", CONTINUATION)],
        [Entry(b"s", "d")],
    ],
)
@pytest.mark.parametrize("plan", [TarPlan, FilePlan])
def test_hostile_manifests_are_refused(plan, entries):
    with pytest.raises((DamagedData, UsageError)):
        stream(plan([b"r"], Selection()), entries, {b"i" * 32: bytes(5)})


def test_tar_is_there():
    assert shutil.which("tar")

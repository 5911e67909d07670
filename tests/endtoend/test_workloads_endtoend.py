"""What is copied: trees of every awkward kind, images with holes, streams; and how it is restored."""

from __future__ import annotations

import os
import shutil

import pytest
from e2e_node import ended, sealed
from e2e_trees import MIB, assert_same, awkward_tree, blocks, noise, small_tree, words


@pytest.fixture
def tmp_path(on_disk):
    """The trees of these tests lie on a disk: what its file system keeps, and how, is what they are about."""
    return on_disk


def test_a_tree_of_every_awkward_kind_comes_back_identical(pair, tmp_path):
    tree = awkward_tree(tmp_path / "tree")
    done = pair.source.ok("backup", "--job", "awkward", *sealed(), tree)
    (note,) = [each for each in done.events("file_note") if each["path"].endswith("special/socket")]
    assert "socket" in note["note"]
    restored = tmp_path / "restored"
    pair.source.job("restore", "awkward", "latest", "--output", restored)
    # The one thing that is not copied: a socket means nothing without the process that made it.
    times = (tree / "special").stat()
    (tree / "special" / "socket").unlink()
    os.utime(tree / "special", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert_same(tree, restored)
    for path in (tree / "sparse").iterdir():
        assert blocks(restored / "sparse" / path.name) <= blocks(path)
    again = pair.source.job("run", "awkward")
    assert again["bytes_read"] == 0, "a restore or a second look must not make files look changed"
    assert again["files_unchanged"] == again["files"]


def test_an_image_comes_back_identical_and_as_sparse(pair, tmp_path):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        for at, data in ((0, noise(3 * MIB, 1)), (40 * MIB, words(MIB, 2)), (70 * MIB + 5, noise(4096, 3))):
            file.seek(at)
            file.write(data)
        file.seek(90 * MIB)
        file.write(bytes(4 * MIB))  # allocated, but zero
        file.truncate(128 * MIB + 513)
    first = pair.source.job("backup", "--job", "disk", *sealed(), "--as", "image", image)
    assert first["bytes_total"] == 128 * MIB + 513
    assert first["bytes_sent"] < 6 * MIB, "holes and zeros must not travel"
    out = tmp_path / "out"
    pair.source.job("restore", "disk", "latest", "--output", out)
    (restored,) = out.iterdir()
    assert restored.name == "disk.img"
    with image.open("rb") as one, restored.open("rb") as two:
        assert all(one.read(MIB) == two.read(MIB) for _ in range(129))
        assert two.read(1) == b""
    assert restored.stat().st_size == image.stat().st_size
    assert blocks(restored) <= blocks(image) - 3 * MIB, "zeros are a hole in the restored image"

    with image.open("r+b") as file:
        file.seek(2 * MIB + 17)
        file.write(b"changed")
    second = pair.source.job("run", "disk")
    assert second["bytes_new"] < 2 * MIB
    pair.source.job("verify", "disk")


def test_a_stream_from_stdin_comes_back(pair, tmp_path):
    data = noise(3_000_000, 9) + words(2_000_000, 9)
    with (tmp_path / "dump").open("wb") as file:
        file.write(data)
    options = ("backup", "--job", "dump", *sealed(), "--stdin-name", "db.sql", "-")
    for kind in ("full", "incremental"):
        with (tmp_path / "dump").open("rb") as file:
            done = pair.source.outside(*options, stdin=file)
        assert done.status == 0, done.err
        assert done.finished["kind"] == kind
        assert done.finished["bytes_total"] == len(data)
    assert done.finished["bytes_new"] < 100_000
    pair.source.job("restore", "dump", "latest", "--output", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["db.sql"]
    assert (tmp_path / "out" / "db.sql").read_bytes() == data


def test_a_stream_whose_command_dies_is_still_what_came(pair, tmp_path):
    process = pair.source.spawn("backup", "--job", "broken-dump", *sealed(), "-", stdin=-1)
    process.stdin.write(b"half a dump")
    process.stdin.close()
    process.stdin = None
    done = ended(process)
    assert done.status == 0
    assert done.finished["bytes_total"] == len(b"half a dump")


# Of the whole session, as the pair is: the tests of a module may come in parts, and a job is defined once.
@pytest.fixture(scope="session")
def restorable(pair, tmp_path_factory):
    tree = small_tree(tmp_path_factory.mktemp("restorable") / "tree")
    (tree / "folder-1" / "deep").mkdir()
    (tree / "folder-1" / "deep" / "file-99.txt").write_text("deep")
    pair.source.job("backup", "--job", "restorable", *sealed(), tree)
    return tree


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["big.bin"], ["big.bin"]),
        (["folder-1/**"], None),
        (["**/file-0?.txt"], [f"folder-{at % 4}/file-{at:02}.txt" for at in range(10)]),
        (["folder-2/file-02.txt", "big.bin"], ["big.bin", "folder-2/file-02.txt"]),
    ],
)
def test_a_part_is_restored_by_glob(pair, restorable, tmp_path, globs, expected):
    out = tmp_path / "out"
    include = [word for glob in globs for word in ("--include", glob)]
    pair.source.job("restore", "restorable", "latest", "--output", out, *include)
    if expected is None:
        expected = [f"folder-1/{name}" for name in names(restorable / "folder-1")]
    assert names(out) == sorted(expected)
    for name in expected:
        assert (out / name).read_bytes() == (restorable / name).read_bytes()
        assert (out / name).stat().st_mtime_ns == (restorable / name).stat().st_mtime_ns


def test_a_glob_that_matches_nothing_says_so(pair, restorable, tmp_path):
    done = pair.source("restore", "restorable", "latest", "--output", tmp_path / "out", "--include", "*.nothing")
    assert done.status == 2
    assert "nothing in the restore point" in done.err
    assert not (tmp_path / "out").exists()


def test_overwrite_replaces_what_differs_and_leaves_the_rest(pair, restorable, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(restorable, out)
    (out / "big.bin").write_bytes(b"older")
    (out / "folder-0" / "file-00.txt").unlink()
    (out / "mine").write_text("not in the point")
    refused = pair.source("restore", "restorable", "latest", "--output", out)
    assert (refused.status, refused.failed["code"]) == (2, "usage")
    assert "is not empty" in refused.err
    assert (out / "big.bin").read_bytes() == b"older"
    pair.source.job("restore", "restorable", "latest", "--output", out, "--overwrite")
    assert (out / "mine").read_text() == "not in the point"
    (out / "mine").unlink()
    os.utime(out, ns=(0, restorable.stat().st_mtime_ns))
    assert_same(restorable, out)


def test_several_roots_are_restored_beside_each_other(pair, tmp_path):
    for name in ("one", "two"):
        small_tree(tmp_path / name, seed=len(name) + ord(name[0]))
    pair.source.job("backup", "--job", "roots", *sealed(), tmp_path / "one", tmp_path / "two")
    out = tmp_path / "out"
    pair.source.job("restore", "roots", "latest", "--output", out)
    assert sorted(path.name for path in out.iterdir()) == ["one", "two"]
    for name in ("one", "two"):
        assert_same(tmp_path / name, out / name)


def test_an_empty_folder_is_a_point_too(pair, tmp_path):
    (tmp_path / "empty").mkdir()
    done = pair.source.job("backup", "--job", "empty", *sealed(), tmp_path / "empty")
    assert (done["files"], done["bytes_total"]) == (0, 0)
    pair.source.job("verify", "empty")
    pair.source.job("restore", "empty", "latest", "--output", tmp_path / "out")
    assert_same(tmp_path / "empty", tmp_path / "out")

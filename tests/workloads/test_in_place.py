"""Restores in place: afterwards the output is the point, whatever it was before; what was right was left alone."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transporter.errors import DamagedData, UsageError
from transporter.workloads.entry import UNTRUSTED, Entry
from transporter.workloads.selection import Selection
from transporter.workloads.tree_restore import TreeWriter


def id_of(data) -> bytes:
    return hashlib.sha256(data).digest()


class Restored:
    """What a restore in place did."""

    def __init__(self, copy, output, **how):
        self.fetched = 0
        how = {"in_place": True, "id_of": id_of, **how}
        with TreeWriter(output, "point", copy.roots, **how) as writer:
            for group in writer.plan(iter(copy.entries)):
                self.fetched += 1
                writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
            writer.finish()
            writer.publish()
        self.notes = writer.take_notes()
        self.writer = writer
        self.codes = sorted(note.code for note in self.notes)

    @property
    def planned(self) -> list[tuple[str, str]]:
        return sorted((note.text, os.fsdecode(note.path)) for note in self.notes if note.code == "planned")


@pytest.fixture
def pair(tree, tmp_path, backup):
    """A tree, its point, and a restored copy of it."""
    rng = random.Random(4)
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "sub" / "empty").mkdir()
    for number in range(30):
        (tree / "sub" / f"small-{number:02}").write_bytes(rng.randbytes(rng.randrange(1, 9000)))
    (tree / "sub" / "deep" / "large").write_bytes(rng.randbytes(3 << 20))
    (tree / "sub" / "deep" / "sparse").write_bytes(b"x" * 5000)
    os.truncate(tree / "sub" / "deep" / "sparse", 2 << 20)
    (tree / "link").symlink_to("sub")
    os.link(tree / "sub" / "small-00", tree / "twin")
    os.mkfifo(tree / "pipe")
    for number, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        os.utime(path, ns=(number * 10**9 + 7, number * 10**9 + 7), follow_symlinks=False)
    copy = backup(tree, chunk_length=1 << 16)
    for entry in copy.entries:
        entry.flags &= ~UNTRUSTED  # what was changed within the last tick of the clock is read again in any case
    out = tmp_path / "out"
    Restored(copy, out)
    return tree, copy, out


def inodes(root: Path) -> dict[str, tuple[int, int]]:
    """Which files stand for each path, and when they were last touched."""
    states = {str(p.relative_to(root)): p.lstat() for p in root.rglob("*")}
    return {path: (state.st_ino, state.st_ctime_ns) for path, state in states.items()}


@pytest.mark.parametrize("compare", [False, True])
def test_what_is_right_is_left_alone(pair, differences, compare):
    tree, copy, out = pair
    assert differences(tree, out) == []
    before = {p: s for p, s in inodes(out).items() if not (out / p).is_dir() or (out / p).is_symlink()}
    done = Restored(copy, out, compare=compare, delete=True)
    assert (done.fetched, done.notes, done.writer.bytes_written) == (0, [], 0)
    after = inodes(out)
    assert {p: after[p] for p in before} == before
    assert done.writer.files == sum(1 for p in out.rglob("*") if p.is_file() and not p.is_symlink())
    assert differences(tree, out) == []


def test_a_record_that_does_not_fit_together_is_refused_although_the_file_is_kept(pair):
    """What a manifest says is checked whether or not anything of it is fetched."""
    _tree, copy, out = pair
    kept = next(entry for entry in copy.entries if entry.path.endswith(b"small-03"))
    kept.packed_extents = kept.packed_extents[:-4] + bytes((0, 0, 0, 1))
    with pytest.raises(DamagedData, match=r"not as long as the file|leaves its chunk"):
        Restored(copy, out)


def test_only_what_differs_is_written(pair, differences):
    tree, copy, out = pair
    (out / "sub" / "small-05").write_bytes(b"changed")
    (out / "sub" / "small-06").unlink()
    (out / "sub" / "small-07").chmod(0o640)
    before = inodes(out)
    done = Restored(copy, out)
    assert 1 <= done.fetched <= 4
    assert done.notes == []
    assert differences(tree, out) == []
    changed = {p for p, s in inodes(out).items() if before.get(p) != s and not (out / p).is_dir()}
    assert changed == {"sub/small-05", "sub/small-06", "sub/small-07"}
    assert before["sub/small-07"][0] == inodes(out)["sub/small-07"][0]  # metadata alone: the file is the same


def test_a_large_file_is_put_together_from_what_is_there(pair, differences):
    tree, copy, out = pair
    large = out / "sub" / "deep" / "large"
    with large.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"ransom")
    inode = large.stat().st_ino
    done = Restored(copy, out)
    assert done.fetched == 1  # of 48 chunks
    assert differences(tree, out) == []
    assert large.stat().st_ino != inode  # beside it, then renamed: never half of each


def test_a_large_file_of_another_length(pair, differences):
    tree, copy, out = pair
    large = out / "sub" / "deep" / "large"
    os.truncate(large, (2 << 20) + 5)
    assert Restored(copy, out).fetched < 20
    assert differences(tree, out) == []
    with large.open("ab") as file:
        file.write(b"more")
    assert Restored(copy, out).fetched <= 1
    assert differences(tree, out) == []


def test_holes_that_were_filled(pair, differences):
    tree, copy, out = pair
    with (out / "sub" / "deep" / "sparse").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"filled")
    Restored(copy, out)
    assert differences(tree, out) == []


def test_touched_files_are_read_not_fetched(pair, differences):
    tree, copy, out = pair
    for path in out.rglob("*"):
        os.utime(path, follow_symlinks=False)
    done = Restored(copy, out)
    assert (done.fetched, done.writer.bytes_written) == (0, 0)
    assert differences(tree, out) == []


def forge(path: Path) -> None:
    """Other content, same size and time."""
    state = path.stat()
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))


def test_forged_times_are_seen_with_checksum(pair, differences):
    tree, copy, out = pair
    forge(out / "sub" / "small-11")
    Restored(copy, out)
    assert differences(tree, out) != []
    Restored(copy, out, compare=True)
    assert differences(tree, out) == []


def test_forged_times_of_the_very_files_that_were_backed_up_are_always_seen(pair, differences, tmp_path):
    tree, copy, out = pair
    original = (tree / "sub" / "small-11").read_bytes()
    forge(tree / "sub" / "small-11")
    done = Restored(copy, tree)
    assert done.fetched == 1
    assert (tree / "sub" / "small-11").read_bytes() == original
    assert differences(out, tree) == []


def test_without_delete_what_is_more_stays(pair):
    _tree, copy, out = pair
    (out / "sub" / "mine").write_bytes(b"m")
    assert Restored(copy, out).notes == []
    assert (out / "sub" / "mine").read_bytes() == b"m"


def test_delete(pair, differences):
    tree, copy, out = pair
    (out / "aaa").write_bytes(b"m")
    (out / "sub" / "mine" / "deep").mkdir(parents=True)
    (out / "sub" / "mine" / "deep" / "file").write_bytes(b"m")
    (out / "sub" / "zzz").symlink_to("/etc")
    (out / "sub" / "empty" / "x").write_bytes(b"m")
    shutil.rmtree(out / "sub" / "deep")
    (out / "sub" / "deep").write_bytes(b"a file where a folder was")
    (out / "sub" / "small-03").unlink()
    (out / "sub" / "small-03" / "full").mkdir(parents=True)
    assert Restored(copy, out, delete=True).notes == []
    assert differences(tree, out) == []


def test_a_folder_that_is_not_empty_stays_in_the_way_without_delete(pair):
    _tree, copy, out = pair
    (out / "sub" / "small-03").unlink()
    (out / "sub" / "small-03" / "full").mkdir(parents=True)
    assert Restored(copy, out).codes == ["in-the-way"]
    assert (out / "sub" / "small-03" / "full").is_dir()


def test_delete_spares_what_is_excluded_or_not_asked_for(pair):
    _tree, copy, out = pair
    for name in ("keep.log", "sub/keep.log", "sub/gone", "mine"):
        (out / name).write_bytes(b"m")
    Restored(copy, out, delete=True, selection=Selection(["sub"], ["*.log"]))
    assert (out / "keep.log").exists() and (out / "sub" / "keep.log").exists() and (out / "mine").exists()
    assert not (out / "sub" / "gone").exists()


def test_delete_follows_no_link(pair, tmp_path):
    _tree, copy, out = pair
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"p")
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(elsewhere)
    (out / "also").symlink_to(elsewhere)
    Restored(copy, out, delete=True)
    assert (elsewhere / "precious").read_bytes() == b"p"
    assert os.listdir(elsewhere) == ["precious"]
    assert (out / "sub").is_dir() and not (out / "sub").is_symlink() and not (out / "also").is_symlink()


def test_dry_run(pair):
    _tree, copy, out = pair
    (out / "sub" / "small-05").write_bytes(b"changed")
    (out / "sub" / "small-06").unlink()
    (out / "sub" / "small-07").chmod(0o640)
    os.truncate(out / "sub" / "deep" / "large", 2 << 20)
    os.utime(out / "sub" / "small-08")
    forge(out / "sub" / "small-09")
    (out / "sub" / "mine").write_bytes(b"m")
    (out / "link").unlink()
    (out / "twin").unlink()
    before = inodes(out)
    mtime = out.stat().st_mtime_ns
    done = Restored(copy, out, delete=True, dry_run=True, compare=True)
    root = os.fsdecode(copy.roots[0])
    assert done.planned == sorted(
        [
            ("changed", f"{root}/sub/small-05"),
            ("changed", f"{root}/sub/deep/large"),
            ("changed", f"{root}/sub/small-09"),
            ("linked", f"{root}/twin"),
            ("metadata", f"{root}/sub"),
            ("metadata", f"{root}/sub/small-07"),
            ("metadata", f"{root}/sub/small-08"),
            ("new", f"{root}/link"),
            ("new", f"{root}/sub/small-06"),
            ("removed", f"{root}/sub/mine"),
        ]
    )
    assert inodes(out) == before
    assert out.stat().st_mtime_ns == mtime


def test_hard_links(tmp_path, tree, backup, differences):
    (tree / "a").write_bytes(b"one" * 100)
    os.link(tree / "a", tree / "b")
    os.link(tree / "a", tree / "c")
    (tree / "d").write_bytes(b"two" * 100)
    os.utime(tree / "d", ns=(tree.stat().st_mtime_ns,) * 2)
    os.utime(tree / "a", ns=(tree.stat().st_mtime_ns,) * 2)
    copy = backup(tree)
    out = tmp_path / "out"
    Restored(copy, out)
    (out / "b").unlink()
    (out / "b").write_bytes(b"one" * 100)  # a file of its own now
    (out / "c").unlink()
    (out / "d").unlink()
    os.link(out / "a", out / "d")  # one file with what it should not share
    assert Restored(copy, out).notes == []
    assert differences(tree, out) == []
    assert len({(out / name).stat().st_ino for name in "abc"}) == 1


def test_a_file_that_changes_while_it_is_compared_is_left_out(pair):
    _tree, copy, out = pair
    path = out / "sub" / "deep" / "large"
    os.utime(path)
    with TreeWriter(out, "p", copy.roots, in_place=True) as writer:  # no ids: everything is fetched and compared
        for number, group in enumerate(writer.plan(iter(copy.entries))):
            if number == 5:
                with path.open("r+b") as file:
                    file.write(b"just now")
            writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    assert [(note.code, note.gap) for note in writer.take_notes()] == [("not-restored", True)]
    assert path.read_bytes()[:8] == b"just now"


def test_a_failure_leaves_everything_as_it_was(pair):
    _tree, copy, out = pair
    (out / "sub" / "small-05").write_bytes(b"changed")
    (out / "mine").write_bytes(b"m")
    before, mtime = inodes(out), out.stat().st_mtime_ns
    entries = [*copy.entries, Entry(b"zzz-elsewhere", "f")]
    with pytest.raises(DamagedData), TreeWriter(out, "p", copy.roots, in_place=True, delete=True) as writer:
        for group in writer.plan(iter(entries)):
            writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
    assert inodes(out) == before
    assert out.stat().st_mtime_ns == mtime


def test_several_roots(tmp_path, tree, backup):
    for name in ("one", "two"):
        (tree / name).mkdir()
        (tree / name / "file").write_bytes(name.encode())
    copy = backup(tree / "one", tree / "two")
    out = tmp_path / "out"
    Restored(copy, out)
    (out / "beside").write_bytes(b"b")
    (out / "one" / "more").write_bytes(b"m")
    (out / "two" / "file").unlink()
    Restored(copy, out, delete=True)
    # What lies beside the roots is none of theirs.
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == ["beside", "one", "one/file", "two", "two/file"]


def test_what_met_nothing_is_said(pair):
    _tree, copy, out = pair
    done = Restored(copy, out, selection=Selection(["small-0*", "*.nope"], [], [b"sub/deep", b"./sub/none", b"/link"]))
    assert [(n.code, n.path, n.gap) for n in done.notes] == [
        ("not-found", b"*.nope", True),
        ("not-found", b"./sub/none", True),
        ("not-found", b"/link", True),
    ]
    with pytest.raises(UsageError, match="nothing in the restore point"):
        Restored(copy, out, selection=Selection(["*.nope"]))


# -- any tree, any differences

NAMES = st.sampled_from(["a", "b", "a-", "b.x", "ä", "c"])
CONTENT = st.one_of(
    st.binary(max_size=40), st.integers(0, 7).map(lambda seed: random.Random(seed).randbytes(200_000 * (seed % 3)))
)
THING = st.deferred(
    lambda: st.one_of(
        CONTENT,
        st.sampled_from(["fifo", "link to a", "link to nowhere", "hard link", "xattr"]),
        st.dictionaries(NAMES, THING, max_size=4),
    )
)
TREES = st.dictionaries(NAMES, THING, max_size=5)


def build(root: Path, tree: dict, rng: random.Random, files: list[Path]) -> None:
    for name, thing in sorted(tree.items()):
        path = root / name
        if isinstance(thing, dict):
            path.mkdir()
            build(path, thing, rng, files)
        elif isinstance(thing, bytes):
            path.write_bytes(thing)
            files.append(path)
        elif thing == "fifo":
            os.mkfifo(path)
        elif thing == "hard link" and files:
            os.link(rng.choice(files), path)
        elif thing == "xattr":
            path.write_bytes(b"x")
            with suppress(OSError):
                os.setxattr(path, "user.test", b"1")
        else:
            path.symlink_to(thing.rpartition(" ")[2])
        os.chmod(path, rng.choice([0o755, 0o700, 0o644])) if not path.is_symlink() else None
        os.utime(path, ns=(rng.randrange(3) * 10**9,) * 2, follow_symlinks=False)


def disturb(root: Path, rng: random.Random) -> None:
    """A few random changes."""
    for _ in range(rng.randrange(6)):
        paths = [root, *sorted(root.rglob("*"))]
        path = rng.choice(paths)
        kind = rng.randrange(8)
        if path == root or (path.is_dir() and not path.is_symlink() and kind < 4):
            with suppress(OSError):
                (path / f"new-{rng.randrange(3)}").write_bytes(b"n")
        elif kind < 2:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif kind == 2:
            os.utime(path, follow_symlinks=False)
        elif kind == 3 and path.is_file() and not path.is_symlink():
            with path.open("r+b") as file:
                file.write(b"disturbed")
        elif kind == 4:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            rng.choice([Path.mkdir, Path.touch, link_away, socket_at])(path)
        elif kind == 5 and not path.is_symlink():
            path.chmod(0o777)
        elif kind == 6:
            with suppress(OSError):
                os.setxattr(path, "user.more", b"2", follow_symlinks=False)
        elif not path.is_dir() or path.is_symlink():
            with suppress(OSError):
                os.link(path, path.with_name("another"), follow_symlinks=False)


def link_away(path: Path) -> None:
    path.symlink_to("/etc")


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            sock.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, seed=st.integers(0, 2**32), compare=st.booleans(), proved=st.booleans())
def test_any_tree_whatever_was_done_to_it(tmp_path_factory, backup, differences, tree, seed, compare, proved):
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("any")
    try:
        root, out = folder / "root", folder / "out"
        root.mkdir()
        build(root, tree, rng, [])
        copy = backup(root, chunk_length=50_000)
        Restored(copy, out)
        assert differences(root, out) == []
        disturb(out, rng)
        done = Restored(copy, out, delete=True, compare=compare, id_of=id_of if proved else None)
        assert [note for note in done.notes if note.gap] == []
        assert differences(root, out) == []
    finally:
        shutil.rmtree(folder)

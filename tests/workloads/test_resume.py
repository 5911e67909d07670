"""An interrupted restore is taken up: at whatever step it was killed, and what is whole is not asked for again."""

from __future__ import annotations

import hashlib
import os
import random
import signal

import pytest

from transporter.errors import UsageError
from transporter.workloads.entry import UNTRUSTED
from transporter.workloads.tree_restore import TreeWriter


def id_of(data) -> bytes:
    return hashlib.sha256(data).digest()


def run(copy, out, *, order="o", stop=None, **how):
    """Restore, or only so many groups of it; return the number of groups that were asked for."""
    asked = 0
    writer = TreeWriter(out, "point", copy.roots, order=order, id_of=id_of, **how)
    try:
        for group in writer.plan(iter(copy.entries)):
            if asked == stop:
                writer.abort(keep=True)
                return asked
            asked += 1
            writer.write_group(group, memoryview(copy.chunks[group.chunk_id]))
        writer.finish()
        writer.publish()
    except BaseException:
        writer.abort(keep=True)
        raise
    run.notes = writer.take_notes()
    run.resumed = writer.resumed
    return asked


@pytest.fixture
def copy(tree, backup):
    rng = random.Random(6)
    (tree / "sub" / "deep").mkdir(parents=True)
    for number in range(40):
        (tree / "sub" / f"small-{number:02}").write_bytes(rng.randbytes(rng.randrange(1, 9000)))
    (tree / "sub" / "deep" / "large").write_bytes(rng.randbytes(2 << 20))
    (tree / "sub" / "deep" / "sparse").write_bytes(b"x" * 5000)
    os.truncate(tree / "sub" / "deep" / "sparse", 1 << 20)
    (tree / "sub" / "link").symlink_to("deep")
    os.link(tree / "sub" / "small-03", tree / "twin")
    os.mkfifo(tree / "pipe")
    (tree / "sub").chmod(0o555)
    copy = backup(tree, chunk_length=1 << 16)
    for entry in copy.entries:
        entry.flags &= ~UNTRUSTED  # what was changed within the last tick of the clock is read again in any case
    return copy


@pytest.mark.parametrize("stop", [1, 5, 20, 33])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_whole_is_not_asked_for_again(tmp_path, tree, copy, differences, stop, in_place):
    out = tmp_path / "out"
    everything = run(copy, tmp_path / "other")
    assert run(copy, out, stop=stop, in_place=in_place) == stop
    (left,) = os.listdir(out)
    assert left.startswith(".transporter-restore-point-o")
    # One chunk may have been shared by files on both sides of the cut.
    assert run(copy, out, in_place=in_place) <= everything - stop + 1
    assert run.resumed and run.notes == []
    assert differences(tree, out) == []


def test_what_was_altered_meanwhile_is_restored_anew(tmp_path, tree, copy, differences):
    out = tmp_path / "out"
    run(copy, out, stop=33)
    (left,) = (path for path in out.iterdir())
    with (left / "sub" / "deep" / "large").open("r+b") as file:
        file.seek(300_000)
        file.write(b"flipped")
    (left / "sub" / "more").write_bytes(b"not ours")
    (left / "stray").mkdir()
    with (left / "sub" / "deep" / "sparse").open("r+b") as file:
        file.seek(500_000)
        file.write(b"not zero")
    run(copy, out)
    assert differences(tree, out) == []


def test_another_order_does_not_take_it_up(tmp_path, tree, copy, differences):
    out = tmp_path / "out"
    everything = run(copy, tmp_path / "other")
    run(copy, out, stop=20)
    assert run(copy, out, order="p") == everything
    assert not run.resumed
    assert differences(tree, out) == []


def test_a_dry_run_leaves_it_alone(tmp_path, copy):
    out = tmp_path / "out"
    run(copy, out, stop=20, in_place=True)
    before = os.listdir(out)
    run(copy, out, in_place=True, dry_run=True)
    assert os.listdir(out) == before


@pytest.mark.parametrize("delete", [False, True])
def test_what_is_right_in_the_output_by_now_is_not_replaced(tmp_path, tree, copy, differences, delete):
    """A leftover that is not wanted any more is never published: it may be half of a file."""
    out = tmp_path / "out"
    run(copy, out)
    large = out / "sub" / "deep" / "large"
    state = large.stat()
    data = large.read_bytes()
    large.write_bytes(bytes(len(data)))
    run(copy, out, stop=3, in_place=True, delete=delete)
    assert len(list(out.glob(".transporter-restore-*"))) == 1
    large.write_bytes(data)
    os.utime(large, ns=(state.st_mtime_ns, state.st_mtime_ns))
    inode = large.stat().st_ino
    assert run(copy, out, in_place=True, delete=delete) == 0
    assert large.stat().st_ino == inode
    assert differences(tree, out) == []


STEPS = [
    *("mkdir", "open", "pwrite", "symlink", "link", "chmod", "fchmod", "utime", "mkfifo", "rename", "rmdir", "unlink"),
    *("fsync", "setxattr"),
]


def killed_at(step, count, act):
    """Run ``act`` in a child that kills itself at the ``count``-th call of a system call; tell whether it did."""
    child = os.fork()
    if not child:
        real, calls = getattr(os, step), 0

        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, step, counted)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["plain", "in place", "delete"])
def test_killed_at_every_step(tmp_path, tree, copy, differences, step, how):
    """kill -9 at any system call that changes something: no half file has its final name, and the same goes on."""
    options = {} if how == "plain" else {"in_place": True, "delete": how == "delete"}
    counts = [1, 2, 5, 13, 40]
    for count in counts:
        out = tmp_path / f"out-{count}"
        if how != "plain":
            run(copy, out)
            (out / "sub").chmod(0o755)
            (out / "sub" / "small-05").write_bytes(b"changed")
            (out / "sub" / "small-09").chmod(0o600)
            (out / "sub" / "small-11").unlink()
            with (out / "sub" / "deep" / "large").open("r+b") as file:
                file.write(b"changed")
            (out / "sub" / "mine").mkdir()
            (out / "sub" / "mine" / "file").write_bytes(b"m")
        if not killed_at(step, count, lambda out=out: run(copy, out, **options)):
            break
        whole_or_old(tree, out)
        run(copy, out, **options)
        if how != "in place":
            assert differences(tree, out) == []
        else:
            assert [line for line in differences(tree, out) if "mine" not in line and not line.startswith(".d")] == []
        assert list(out.glob(".transporter-*")) == []


def whole_or_old(tree, out):
    """Nothing under its final name is half of anything."""
    for path in out.rglob("*"):
        inner = path.relative_to(out)
        if inner.parts[0].startswith(".transporter") or not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        if inner.name == "large":
            original = (tree / inner).read_bytes()
            assert data in {original, b"changed" + original[7:]}
        elif (tree / inner).exists():
            assert data in {(tree / inner).read_bytes(), b"changed"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_person_put_there_meanwhile_is_not_replaced(tmp_path, tree, copy):
    out = tmp_path / "out"
    assert killed_at("rename", 2, lambda: run(copy, out))  # the first says that all is whole, the second would move
    assert [path.suffix for path in out.iterdir()] == [".whole"]
    (out / "pipe").write_bytes(b"mine")
    run(copy, out)
    assert [(note.code, note.gap) for note in run.notes] == [("in-the-way", True)]
    assert (out / "pipe").read_bytes() == b"mine"
    assert (out / "twin").exists()
    with pytest.raises(UsageError, match="not empty"):
        run(copy, out)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).with_name("demo.py")
REVERSED = Path(__file__).with_name("demo_reverse.py")
RECOVERY = Path(__file__).with_name("demo_recovery.py")
# The first demo is run as it is for people. The others' commands are forked: that they start was seen by then.
FORKED = [sys.executable, str(Path(__file__).with_name("forked_demo.py"))]


@pytest.fixture
def tmp_path(on_disk):
    """The trees of these tests lie on a disk: what its file system keeps, and how, is what they are about."""
    return on_disk


@pytest.fixture
def compare():
    sys.path.insert(0, str(DEMO.parent))
    try:
        import compare_trees

        yield lambda one, two: sorted(compare_trees.differences(one, two))
    finally:
        sys.path.remove(str(DEMO.parent))


def test_the_demo_shows_what_it_promises(tmp_path):
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    (data / "folder" / "code.py").write_text("print('hello')\n" * 5000)
    (data / "big").write_bytes(os.urandom(5_000_000))
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    command = [sys.executable, str(DEMO), "--data", str(data), "--work", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The copy is complete and identical" in done.stdout
    assert done.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_reversed_demo_shows_what_it_promises(tmp_path):
    """Office, offsite and relay; neither office nor offsite listens; backup, restore, compare."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "code.py").write_text("print('hello')\n" * 5000)
    (data / "big").write_bytes(os.urandom(3_000_000))
    command = [*FORKED, REVERSED.stem, "--data", str(data), "--work", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "neither office nor offsite listens on any port" in done.stdout
    assert "The copy is complete and identical" in done.stdout
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_demo_of_a_recovery_shows_what_it_promises(tmp_path):
    """Node destroyed, password forgotten; recovered by a keyset, and compared."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "code.py").write_text("print('hello')\n" * 5000)
    (data / "big").write_bytes(os.urandom(1_000_000))
    command = [*FORKED, RECOVERY.stem, "--data", str(data), "--work", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is refused") == 3
    assert "for one node, once" in done.stdout
    # What the escrow is asked to decide on is said whatever else is quiet.
    assert "asks for the key of one restore point" in done.stderr
    assert all(line.startswith("transporter: ") for line in done.stderr.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("demo", [DEMO, REVERSED, RECOVERY], ids=["demo", "reversed", "recovery"])
def test_the_demo_needs_data(tmp_path, demo):
    command = [sys.executable, str(demo), "--data", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make demo" in done.stderr and "DATA=" in done.stderr


CHANGES = {
    "contents": lambda tree: (tree / "file").write_bytes(b"cXntents"),
    "size": lambda tree: os.truncate(tree / "file", 3),
    "mode": lambda tree: (tree / "file").chmod(0o600),
    "time": lambda tree: os.utime(tree / "file", ns=(0, 1)),
    "folder time": lambda tree: os.utime(tree / "folder", ns=(0, 1)),
    "link target": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("elsewhere")),
    "hard link": lambda tree: ((tree / "two").unlink(), (tree / "two").write_bytes((tree / "one").read_bytes())),
    "missing": lambda tree: (tree / "folder" / "inner").unlink(),
    "added": lambda tree: (tree / "folder" / "more").touch(),
    "type": lambda tree: ((tree / "file").unlink(), os.mkfifo(tree / "file")),
    "xattr": lambda tree: os.setxattr(tree / "file", "user.a", b"2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_comparison_sees_every_kind_of_difference(compare, tmp_path, change):
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "file").write_bytes(b"contents")
    try:
        os.setxattr(tree / "file", "user.a", b"1")
    except OSError:
        if change == "xattr":
            pytest.skip("this file system has no extended attributes")
    (tree / "folder" / "inner").touch()
    (tree / "one").write_bytes(b"linked")
    os.link(tree / "one", tree / "two")
    (tree / "link").symlink_to("file")
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", tree, other], check=True)
    assert compare(tree, other) == []
    times = {path: path.lstat().st_mtime_ns for path in (other, other / "folder", other / "file", other / "link")}
    CHANGES[change](other)
    if "time" not in change:
        for path, at in times.items():
            if os.path.lexists(path):
                os.utime(path, ns=(at, at), follow_symlinks=False)
    assert compare(tree, other)

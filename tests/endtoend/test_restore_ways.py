"""The ways to restore, by the program itself: in place, by list, to stdout, and after a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from e2e_node import ended, sealed, wait_until
from e2e_trees import assert_same, noise, small_tree


@pytest.fixture
def tree(tmp_path):
    return small_tree(tmp_path / "tree")


def test_in_place_where_it_was(pair, tree, tmp_path):
    pair.source.job("backup", "--job", "in-place", *sealed(), tree)
    subprocess.run(["cp", "-a", tree, tmp_path / "before"], check=True)
    (tree / "big.bin").write_bytes(noise(tree.joinpath("big.bin").stat().st_size, 77))
    (tree / "folder-0" / "file-00.txt").unlink()
    (tree / "ransom-note").write_text("pay")
    restore = ("restore", "in-place", "latest", "--in-place", "--delete")
    done = pair.source.ok(*restore, "--dry-run")
    root = str(tree).lstrip("/")
    said = {(event["what"], event["path"].removeprefix(f"{root}/")) for event in done.events("file_planned")}
    assert {("changed", "big.bin"), ("new", "folder-0/file-00.txt"), ("removed", "ransom-note")} <= said
    assert (tree / "ransom-note").exists()
    done = pair.source.job(*restore)
    assert done["files_unchanged"] == done["files"] - 2
    assert_same(tmp_path / "before", tree)


def test_a_list_of_paths_says_what_is_not_there(pair, tree, tmp_path):
    pair.source.job("backup", "--job", "listed", *sealed(), tree)
    listed = tmp_path / "list"
    listed.write_bytes(b"folder-0/file-00.txt\0none\0")
    restore = ("restore", "listed", "latest", "--output", tmp_path / "out", "--files-from")
    done = pair.source(*restore, listed)
    assert (done.status, [event["path"] for event in done.events("file_skipped")]) == (8, ["none"])
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.txt")] == ["folder-0/file-00.txt"]


def test_to_stdout(pair, tree, tmp_path):
    pair.source.job("backup", "--job", "streamed", *sealed(), tree)
    (tmp_path / "out").mkdir()
    tar = pair.source.command("restore", "streamed", "latest", "--tar", options=())
    with pair.source.start(tar, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        subprocess.run(["tar", "-C", tmp_path / "out", "-xp"], stdin=process.stdout, check=True)
        words = process.stderr.read()
    assert (process.returncode, b"restored" in words) == (0, True)
    assert_same(tree, tmp_path / "out")
    one = pair.source.command("restore", "streamed", "latest", "--stdout", "--include", "big.bin")
    done = subprocess.run(one, capture_output=True, check=True)
    assert done.stdout == (tree / "big.bin").read_bytes()
    assert b'"event": "job_finished"' in done.stderr


def test_a_restore_that_was_killed_goes_on(new_pair, tmp_path):
    """Command and writer are killed together, as by a power cut; the same command fetches only what is missing."""
    pair = new_pair()
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"file-{number}").write_bytes(noise(3 << 20, number))
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    out = tmp_path / "out"
    pair.source.ok("throttle", "set", "--job", "docs", "4MB/s")
    process = pair.source.spawn("restore", "docs", "latest", "--output", out, start_new_session=True)
    wait_until(lambda: len(list(out.glob(".transporter-restore-*/file-[2-9]"))) > 0, "some files to be there")
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    pair.source.ok("throttle", "clear", "--job", "docs")
    done = pair.source.ok("restore", "docs", "latest", "--output", out)
    assert done.finished["bytes_received"] < 22 << 20
    assert [note for note in done.events("note") if "goes on with what" in note["text"]]
    assert_same(tree, out)

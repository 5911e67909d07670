"""How jobs run: by the home's own daemon or without one, once at a time, interrupted and gone on with, watched."""

from __future__ import annotations

import os
import signal

import pytest
from e2e_node import ended, sealed, wait_until
from e2e_relay import Fault
from e2e_trees import MIB, assert_same, large_tree, small_tree


@pytest.fixture
def tree(tmp_path):
    return small_tree(tmp_path / "tree")


@pytest.fixture
def served(new_pair):
    """A pair with a daemon at both ends."""
    pair = new_pair()
    pair.source.serve()
    return pair


@pytest.fixture(params=["by the daemon", "without a daemon"])
def either(request, new_pair, relay):
    """A pair with a relay between, and perhaps a daemon at the source."""
    pair = new_pair()
    line = relay(pair)
    if request.param == "by the daemon":
        pair.source.serve()
    return pair, line


def test_a_job_is_handed_to_the_daemon_of_the_home(served, tree, tmp_path):
    source = served.source
    done = source.ok("backup", "--job", "docs", *sealed(), tree)
    kinds = [each["event"] for each in done.objects if each["event"] != "progress"]  # that one comes by the clock
    assert kinds[:2] == ["job_started", "link_up"]
    assert kinds[-2:] == ["point_committed", "job_finished"]
    assert done.finished["files"] == 41
    source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    assert source.job("verify", "docs")["files"] == 41
    assert [row["point"] for row in source.points("docs")] == [done.finished["point"]]
    with source.catalog as catalog:
        runs = catalog.runs("docs")
    assert [(run.operation, run.exit_status) for run in runs] == [("verify", 0), ("restore", 0), ("backup", 0)]
    assert runs[-1].point.hex() == done.finished["point"]
    assert runs[-1].statistics["bytes_sent"] == done.finished["bytes_sent"]


def test_errors_of_a_job_that_was_handed_over_keep_their_exit_status(served, tree):
    done = served.source(
        "backup", "--job", "docs", "--to", "offsite/main", "--encrypt", "target", "--password", "x", tree
    )
    assert (done.status, done.failed["code"]) == (6, "unknown-password")
    assert done.err.count("\n") == 1


def test_two_runs_of_one_job_do_not_meet(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", 6)
    stall = line.plan(Fault("stall", after=2 * MIB))
    first = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(stall.fired.is_set, "the first run to be under way")
    second = pair.source("run", "docs")
    assert (second.status, second.failed["code"]) == (1, "job-busy")
    assert "another run of job 'docs' is under way" in second.err
    stall.released.set()
    assert ended(first).status == 0
    assert pair.source.job("run", "docs")["kind"] == "incremental"
    assert len(pair.source.points("docs")) == 2


def test_ctrl_c_ends_with_130_and_the_next_run_sends_only_the_rest(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", 24)
    stall = line.plan(Fault("stall", after=20 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(lambda: pair.target.stored > 10 * MIB, "some chunks to be written")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.status == 130
    assert done.err.strip().splitlines() == [done.err.strip()], "one line says it"
    assert "interrupted" in done.err
    assert pair.source.points("docs") == []
    line.cut()
    stall.released.set()
    before = line.up
    again = pair.source.job("run", "docs")
    assert again["kind"] == "full"
    assert line.up - before < 18 * MIB
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    with pair.source.catalog as catalog:
        assert [run.exit_status for run in catalog.runs("docs")][1:] == [0, 130]


def test_status_shows_what_goes_on_at_both_ends(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", 4)
    stall = line.plan(Fault("stall", after=2 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(stall.fired.is_set, "the run to be under way")

    (there,) = pair.target.ok("status").objects
    assert there["daemon"] is True
    (session,) = there["sessions"]
    assert (session["peer"], session["job"], session["purpose"]) == ("office", "docs", "backup")
    wait_until(lambda: pair.target.ok("status").objects[0]["sessions"][0]["bytes"] >= MIB, "bytes to be counted there")
    (here,) = pair.source.ok("status").objects
    assert here["daemon"] is (pair.source.daemon is not None)
    if pair.source.daemon is not None:
        (job,) = here["running"]
        assert (job["job"], job["operation"]) == ("docs", "backup")
        wait_until(lambda: pair.source.ok("status").objects[0]["running"][0]["bytes"] >= MIB, "bytes to be counted")
    text = pair.target.ok("status", options=()).out
    assert "office" in text and "docs" in text

    stall.released.set()
    assert ended(process).status == 0
    (after,) = pair.source.ok("status").objects
    (row,) = after["jobs"]
    assert row["job"] == "docs"
    assert wait_until(lambda: pair.target.ok("status").objects[0]["sessions"] == [], "the session to end")


def test_one_daemon_serves_several_jobs_at_once(served, tmp_path):
    trees = [small_tree(tmp_path / f"tree-{at}", seed=at) for at in range(3)]
    runs = [served.source.spawn("backup", "--job", f"job-{at}", *sealed(), tree) for at, tree in enumerate(trees)]
    for at, run in enumerate(runs):
        assert ended(run).status == 0
        served.source.job("restore", f"job-{at}", "latest", "--output", tmp_path / f"out-{at}")
        assert_same(trees[at], tmp_path / f"out-{at}")


def test_a_daemon_that_ends_stops_its_jobs_in_order(served, relay, tmp_path):
    line = relay(served)
    tree = large_tree(tmp_path / "tree", 6)
    stall = line.plan(Fault("stall", after=2 * MIB))
    process = served.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(stall.fired.is_set, "the run to be under way")
    served.source.stop()
    done = ended(process)
    assert done.status != 0
    assert len(done.err.strip().splitlines()) == 1
    stall.released.set()
    assert served.source.job("run", "docs")["kind"] == "full"


def test_a_second_daemon_of_one_home_is_refused(served):
    done = served.target.outside("serve")
    assert done.status == 1
    assert "a daemon of this home is running already" in done.err


def test_plain_output_is_for_people_and_quiet_prints_the_point(pair, tree):
    done = pair.source.ok("backup", "--job", "words", *sealed(), tree, options=())
    assert "is committed" in done.out
    quiet = pair.source.ok("run", "words", options=("--quiet",))
    assert quiet.out.strip() == pair.source.points("words")[-1]["point"]
    assert quiet.err == ""


def test_the_program_leaves_nothing_open(pair, tree):
    pair.source.job("backup", "--job", "leaks", *sealed(), tree)
    files = os.listdir("/proc/self/fd")
    there = os.listdir(f"/proc/{pair.target.running.pid}/fd")
    for _ in range(3):
        pair.source.job("run", "leaks")
    assert len(os.listdir("/proc/self/fd")) <= len(files)
    assert wait_until(
        lambda: len(os.listdir(f"/proc/{pair.target.running.pid}/fd")) <= len(there) + 1, "the daemon to close files"
    )

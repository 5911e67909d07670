"""Jobs are paused, resumed and cancelled from the command line, whoever runs them."""

from __future__ import annotations

import pytest
from e2e_node import ended, sealed, wait_until
from e2e_relay import Fault
from e2e_trees import MIB, assert_same, large_tree

SIZE = 24


@pytest.fixture(params=["by the daemon", "without a daemon"])
def either(request, new_pair, relay):
    """A pair with a relay between, and perhaps a daemon at the source."""
    pair = new_pair()
    line = relay(pair)
    if request.param == "by the daemon":
        pair.source.serve()
    return pair, line


def running(source):
    """What runs at a node."""
    return source.ok("status").objects[0]["running"]


def stands_still(line):
    """Wait until no chunk is on its way any more; return how many bytes have passed until then."""
    seen = [-1]

    def still():
        seen.append(line.passed["up", "data"] + line.passed["down", "data"])
        # A second: on a busy machine nobody may have had his turn for half of one.
        return len(seen) > 200 and seen[-200] == seen[-1]

    wait_until(still, "what was on its way to arrive")
    return seen[-1]


def paused(pair, line, stall, process):
    """Pause the job while the line stalls, and let the line go: return how far it came."""
    wait_until(stall.fired.is_set, "the run to be under way")
    (done,) = pair.source.ok("job", "pause", "docs").objects
    assert (done["job"], done["action"], len(done["operations"])) == ("docs", "pause", 1)
    stall.released.set()
    moved = stands_still(line)
    assert process.poll() is None
    (row,) = running(pair.source)
    assert (row["job"], row["paused"]) == ("docs", True)
    assert "paused" in pair.source.ok("status", options=()).out
    assert stands_still(line) == moved, "nothing moves"
    return moved


def names(done):
    """The events of a job that are about its pauses, in order."""
    return [each["event"] for each in done.objects if each["event"] in {"job_paused", "job_resumed"}]


def test_a_backup_is_paused_and_resumed(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", SIZE)
    stall = line.plan(Fault("stall", after=2 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    assert paused(pair, line, stall, process) < SIZE * MIB
    assert pair.source.points("docs") == []
    pair.source.ok("job", "pause", "docs")
    assert pair.source.ok("job", "resume", "docs", options=()).out == "resumed: backup of docs\n"
    done = ended(process)
    assert done.status == 0
    assert names(done) == ["job_paused", "job_resumed"], "pausing twice is pausing once"
    assert running(pair.source) == []
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


@pytest.mark.parametrize("operation", ["restore", "verify"])
def test_a_restore_and_a_verify_are_paused_and_resumed(either, tmp_path, operation):
    pair, line = either
    # More than is asked for ahead.
    tree = large_tree(tmp_path / "tree", 48)
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    sent = line.passed["up", "data"]
    stall = line.plan(Fault("stall", after=2 * MIB, direction="down"))
    output = ("latest", "--output", tmp_path / "out") if operation == "restore" else ()
    process = pair.source.spawn(operation, "docs", *output)
    moved = paused(pair, line, stall, process) - sent
    assert moved < 40 * MIB
    (done,) = pair.source.ok("job", "resume", "docs").objects
    assert done["operations"] == [operation]
    assert ended(process).status == 0
    if operation == "restore":
        assert_same(tree, tmp_path / "out")


def test_a_link_that_is_lost_during_a_pause_comes_back_and_the_pause_goes_on(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", SIZE)
    stall = line.plan(Fault("stall", after=2 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    before = paused(pair, line, stall, process)
    accepted = line.accepted
    line.cut()
    # Control and two data channels.
    wait_until(lambda: line.accepted >= accepted + 3, "the link to come back")
    # Openings and goodbyes of channels, no chunks.
    assert stands_still(line) - before < 100_000
    (row,) = running(pair.source)
    assert row["paused"] is True
    pair.source.ok("job", "resume", "docs")
    done = ended(process)
    assert done.status == 0 and done.finished["redials"] == 1
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


@pytest.mark.parametrize("pause_first", [False, True], ids=["under way", "paused"])
def test_a_job_is_cancelled_and_the_next_run_sends_only_the_rest(either, tmp_path, pause_first):
    pair, line = either
    tree = large_tree(tmp_path / "tree", SIZE)
    stall = line.plan(Fault("stall", after=20 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(lambda: pair.target.stored > 10 * MIB, "some chunks to be written")
    if pause_first:
        pair.source.ok("job", "pause", "docs")
    assert pair.source.ok("job", "cancel", "docs", options=()).out == "cancelled: backup of docs\n"
    done = ended(process)
    assert done.status == 130
    assert done.failed["code"] == "interrupted"
    assert done.err.strip() == "transporter: the job was cancelled (run it again: what was sent already is used)"
    assert pair.source.points("docs") == []
    line.cut()
    stall.released.set()
    before = line.up
    assert pair.source.job("run", "docs")["kind"] == "full"
    assert line.up - before < 18 * MIB
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")
    with pair.source.catalog as catalog:
        assert [run.exit_status for run in catalog.runs("docs")][1:] == [0, 130]


def test_a_restore_that_is_cancelled_leaves_nothing(either, tmp_path):
    pair, line = either
    pair.source.job("backup", "--job", "docs", *sealed(), large_tree(tmp_path / "tree", SIZE))
    stall = line.plan(Fault("stall", after=4 * MIB, direction="down"))
    process = pair.source.spawn("restore", "docs", "latest", "--output", tmp_path / "out")
    wait_until(stall.fired.is_set, "the run to be under way")
    (done,) = pair.source.ok("job", "cancel", "docs").objects
    assert done["operations"] == ["restore"]
    stall.released.set()
    assert ended(process).status == 130
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_two_runs_of_one_job_are_steered_together(either, tmp_path):
    pair, line = either
    tree = large_tree(tmp_path / "tree", SIZE)
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    stall = line.plan(Fault("stall", after=MIB, direction="down"))
    runs = [pair.source.spawn("restore", "docs", "latest", "--output", tmp_path / f"out-{at}") for at in range(2)]
    wait_until(lambda: len(running(pair.source)) == 2 and stall.fired.is_set(), "both to be under way")
    (done,) = pair.source.ok("job", "cancel", "docs").objects
    assert done["operations"] == ["restore", "restore"]
    stall.released.set()
    assert [ended(run).status for run in runs] == [130, 130]


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_job_that_does_not_run(either, action):
    pair, _ = either
    done = pair.source("job", action, "docs")
    assert (done.status, done.failed["code"]) == (1, "not-running")
    assert done.failed["what"] == "no run of job 'docs' is under way"
    assert "transporter status" in done.failed["remedy"]


def test_a_run_that_was_killed_leaves_a_socket_that_disturbs_nobody(new_pair, relay, tmp_path):
    pair = new_pair()
    line = relay(pair)
    stall = line.plan(Fault("stall", after=2 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *sealed(), large_tree(tmp_path / "tree", 6))
    wait_until(stall.fired.is_set, "the run to be under way")
    (socket,) = (pair.source.home / "run").iterdir()
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    process.kill()
    process.wait()
    assert running(pair.source) == []
    assert pair.source("job", "pause", "docs").failed["code"] == "not-running"
    assert list((pair.source.home / "run").iterdir()) == []
    stall.released.set()
    line.cut()
    assert pair.source.job("run", "docs")["kind"] == "full"
    assert list((pair.source.home / "run").iterdir()) == []

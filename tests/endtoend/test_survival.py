"""What a job survives: the loss of its link, the death of either daemon; and what it must not survive: tampering."""

from __future__ import annotations

import json
import socket

import pytest
import trio
from e2e_node import ended, sealed, wait_until
from e2e_relay import Fault
from e2e_trees import MIB, assert_same, large_tree

from transporter.link.carrier import SocketCarrier

ZONES = {
    "source": ("--to", "offsite/main", "--encrypt", "source", "--password", "office"),
    "target": ("--to", "offsite/main", "--encrypt", "target", "--password", "vault"),
    "none": ("--to", "offsite/main", "--encrypt", "none"),
    "at rest": ("--to", "offsite/rest", "--encrypt", "none"),
}
SIZE = 24
"""MiB of incompressible data: small enough to be fast, large enough to be cut in the middle of."""
STALL = 20 * MIB
WRITTEN = 10 * MIB
"""Where the line stalls, and what the target surely has written by then: a chunk of up to 4 MiB is on its way on each
of the two data channels."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return large_tree(tmp_path_factory.mktemp("large") / "tree", SIZE)


@pytest.fixture
def line(new_pair, relay):
    """A pair with a relay between."""
    pair = new_pair()
    return pair, relay(pair)


@pytest.fixture
def short_line(monkeypatch):
    """However busy the machine is, its loopback counts as a short line, which begins with two channels."""
    monkeypatch.setattr("transporter.link.open_session.SHORT_LINE_SECONDS", 60.0)
    monkeypatch.setattr("transporter.link.striping.SHORT_LINE_SECONDS", 60.0)


def stored(repository):
    """Bytes of packs, published or not."""
    return sum(path.stat().st_size for name in ("journal/*", "packs/*/*") for path in repository.glob(name))


def under_way(pair, relay, tree):
    """Start a backup and stop its line where the target has written a part of it: how fast that is, is chance."""
    relay.plan(Fault("stall", after=STALL))
    run = pair.source.spawn("backup", "--job", "docs", *sealed(), tree)
    wait_until(lambda: stored(pair.target.repository) > WRITTEN, "some chunks to be written")
    return run


def said_by(node, what):
    lines = (json.loads(text) for text in node.log_text().splitlines(keepends=True) if text[:1] + text[-2:] == "{}\n")
    return [event for event in lines if event["event"] == what]


def restored_is(pair, job, tree, tmp_path):
    pair.source.job("verify", job)
    pair.source.job("restore", job, "latest", "--output", tmp_path / "restored")
    assert_same(tree, tmp_path / "restored")


# --- the link --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_a_backup_goes_on_when_the_line_is_cut_again_and_again(line, tree, tmp_path, zone):
    pair, relay = line
    cuts = [relay.plan(Fault("cut", after=at * MIB)) for at in (3, 7, 11)]
    done = pair.source.job("backup", "--job", "docs", *ZONES[zone], tree)
    assert all(cut.fired.is_set() for cut in cuts)
    assert done["redials"] == 3
    assert len(pair.source.points("docs")) == 1
    restored_is(pair, "docs", tree, tmp_path)


def test_what_the_target_has_is_not_sent_again_after_a_cut(line, tree, tmp_path):
    pair, relay = line
    run = under_way(pair, relay, tree)
    relay.cut()
    relay.release()
    done = ended(run)
    assert (done.status, done.finished["redials"]) == (0, 1), done
    # What was on its way is lost with the line, no more: all again would be 1.8.
    assert relay.up < 1.5 * SIZE * MIB


@pytest.mark.parametrize("kind", ["control", "data"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_on_any_connection_in_any_direction_is_survived(short_line, line, tmp_path, kind, direction):
    """Before a first session stands, a job says at once that it cannot connect; from then on it redials."""
    pair, relay = line
    tree = large_tree(tmp_path / "tree", 4)
    pair.source.job("backup", "--job", "before", *sealed(), tree)
    whole = relay.passed[direction, kind]
    statuses = set()
    for at in range(1, whole - whole // 10, whole // 5):
        job = f"{kind}-{direction}-{at}"
        cut = relay.plan(Fault("cut", after=at, direction=direction, kind=kind))
        done = pair.source("backup", "--job", job, *sealed(), tree)
        assert cut.fired.is_set()
        assert (done.status, done.failed["code"] if done.status else "") in {(0, ""), (4, "cannot-connect")}, done
        statuses.add(done.status)
        if done.status:
            assert done.err.count("\n") == 1
            done = pair.source.ok("run", job)
        else:
            assert done.finished["redials"] <= 1
        assert len(pair.source.points(job)) == 1
        pair.source.job("verify", job)
    assert 4 in statuses
    assert (0 in statuses) or kind == "control"


def test_a_line_that_is_down_for_a_while_is_dialled_until_it_is_back(line, tree, tmp_path):
    pair, relay = line
    cut = relay.plan(Fault("cut", after=5 * MIB, refuse=3))
    done = pair.source.ok("backup", "--job", "docs", *sealed(), tree)
    assert cut.fired.is_set() and relay.refused == 3
    assert len(done.events("link_lost")) >= 1
    assert len(done.events("link_up")) == 2
    restored_is(pair, "docs", tree, tmp_path)


def test_a_line_that_does_not_come_back_ends_the_job_with_link_lost(line, tree):
    pair, relay = line
    pair.source.limit('redial_for = "1s"')
    run = under_way(pair, relay, tree)
    relay.cut(refuse=1_000_000)
    relay.release()
    done = ended(run)
    assert (done.status, done.failed["code"]) == (1, "link-lost")
    assert "run the job again" in done.failed["remedy"]
    relay.cut(refuse=0)
    assert pair.source.points("docs") == []
    before = relay.up
    pair.source.job("run", "docs")
    assert relay.up - before < (SIZE - 5) * MIB


def test_a_restore_goes_on_when_the_line_is_cut(line, tree, tmp_path):
    pair, relay = line
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    cuts = [relay.plan(Fault("cut", after=at * MIB, direction="down")) for at in (3, 9)]
    before = relay.total
    done = pair.source.job("restore", "docs", "latest", "--output", tmp_path / "restored")
    assert all(cut.fired.is_set() for cut in cuts)
    assert done["redials"] == 2
    assert relay.total - before < 2 * SIZE * MIB
    assert_same(tree, tmp_path / "restored")
    for cut in (relay.plan(Fault("cut", after=4 * MIB, direction="down")),):
        pair.source.job("verify", "docs")
        assert cut.fired.is_set()


def test_the_answer_to_a_commit_may_get_lost(line, tmp_path):
    """Cut at every stretch of the conversation's end: one point, whatever the source heard of its commit."""
    pair, relay = line
    tree = large_tree(tmp_path / "tree", 1)
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    before = relay.passed["down", "control"]
    pair.source.job("run", "docs")
    whole = relay.passed["down", "control"] - before
    for at in range(60, whole, max(whole // 12, 1)):
        count = len(pair.source.points("docs"))
        # "points" dials, too: count from after its answer.
        cut = relay.plan(Fault("cut", after=at, direction="down", kind="control"))
        done = pair.source("run", "docs")
        if done.status:
            assert (done.status, done.failed["code"]) == (4, "cannot-connect"), "cut before the session began"
        assert cut.fired.is_set()
        points = pair.source.points("docs")
        assert len(points) == count + (done.status == 0)
    assert len({point["parent"] for point in points}) == len(points), "the chain has no fork"
    restored_is(pair, "docs", tree, tmp_path)


# --- tampering -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["flip", "repeat", "swap"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_tampered_line_ends_the_job_and_is_never_retried(short_line, new_pair, relay, tree, tmp_path, act, direction):
    pair = new_pair()
    line = relay(pair)
    if direction == "down":
        pair.source.job("backup", "--job", "docs", *sealed(), tree)
    job = (
        ("backup", "--job", "docs", *sealed(), tree)
        if direction == "up"
        else ("restore", "docs", "latest", "--output", tmp_path / "restored")
    )
    accepted = line.accepted
    fault = line.plan(Fault(act, after=5 * MIB, direction=direction))
    done = pair.source(*job)
    assert fault.fired.is_set()
    assert (done.status, done.failed["code"]) == (5, "tampering")
    assert [event for event in done.objects if event["event"] in {"link_lost", "redialling"}] == []
    assert line.accepted - accepted <= 1 + 1 + 2, "the list of points, one session, its two data channels: no retry"
    if direction == "up":
        # The target says so in its log before or after the refusal reaches the source.
        (event,) = wait_until(lambda: said_by(pair.target, "tampering"), "the target to log it")
        assert event["level"] == "error"
        assert pair.source.points("docs") == []
    else:
        assert done.events("security_event")
        assert not (tmp_path / "restored").exists() or not list((tmp_path / "restored").iterdir())


def test_a_flipped_bit_on_the_control_connection_is_no_mere_loss(line, tree):
    pair, relay = line
    fault = relay.plan(Fault("flip", after=3000, direction="up", kind="control"))
    done = pair.source("backup", "--job", "docs", *sealed(), tree)
    assert fault.fired.is_set()
    # TLS tells the two ends of a bad record; whichever way the job ends, nothing altered was believed.
    assert done.status in {0, 4, 5}, done
    assert len(pair.source.points("docs")) == (done.status == 0)


# --- the daemons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_a_job_goes_on_when_the_targets_daemon_was_killed_and_came_back(line, tree, tmp_path, zone):
    pair, relay = line
    stall = relay.plan(Fault("stall", after=STALL))
    run = pair.source.spawn("backup", "--job", "docs", *ZONES[zone], tree)
    repository = pair.target.home / "repositories" / ("rest" if zone == "at rest" else "main")
    wait_until(lambda: stored(repository) > WRITTEN, "some chunks to be written")
    pair.target.kill()
    pair.target.serve()
    relay.target_port = pair.target.port
    stall.released.set()
    done = ended(run)
    assert done.status == 0, done.err
    assert done.finished["redials"] >= 1
    assert relay.up < 1.5 * SIZE * MIB
    assert len(pair.source.points("docs")) == 1
    restored_is(pair, "docs", tree, tmp_path)
    pair.target.ok("scrub", "main")


def test_after_the_source_was_killed_the_next_run_sends_only_the_rest(line, tree, tmp_path):
    pair, relay = line
    run = under_way(pair, relay, tree)
    run.kill()
    run.communicate()
    relay.cut()  # what was on its way is lost
    relay.release()
    assert pair.source.points("docs") == [], "never a partial point"
    pair.source.job("run", "docs")
    assert relay.up < 1.5 * SIZE * MIB
    restored_is(pair, "docs", tree, tmp_path)
    assert len(pair.source.points("docs")) == 1


def test_points_that_were_committed_outlive_every_kill(line, tmp_path):
    pair, relay = line
    trees = []
    for at in range(3):
        trees.append(large_tree(tmp_path / f"tree-{at}", 2, seed=50 + at))
        pair.source.job("backup", "--job", f"job-{at}", *sealed(), trees[-1])
        stall = relay.plan(Fault("stall", after=MIB))
        other = large_tree(tmp_path / f"other-{at}", 2, seed=90 + at)
        run = pair.source.spawn("backup", "--job", f"lost-{at}", *sealed(), other)
        wait_until(stall.fired.is_set, "the run to be under way")
        (pair.target if at % 2 else pair.source).kill()
        run.kill()
        run.communicate()
        stall.released.set()
        if pair.target.daemon is None:
            pair.target.serve()
            relay.target_port = pair.target.port
    listed = pair.source.ok("points").objects
    assert sorted(point["job"] for point in listed) == ["job-0", "job-1", "job-2"]
    for at, tree in enumerate(trees):
        pair.source.job("restore", f"job-{at}", "latest", "--output", tmp_path / f"out-{at}")
        assert_same(tree, tmp_path / f"out-{at}")
    pair.target.ok("scrub", "main")


def test_a_run_that_lost_its_keys_does_not_spoil_the_next(line, tree, tmp_path):
    """Orphan chunks whose key nobody has any more (a home put back from a copy) must not end up in a point."""
    pair, relay = line
    small = large_tree(tmp_path / "small", 1)
    pair.source.job("backup", "--job", "docs", *sealed(), small)
    copy = {path.name: path.read_bytes() for path in pair.source.home.glob("*.db*")}
    for at in range(6):
        (small / f"more-{at}").write_bytes((tree / f"part-{at:03}").read_bytes())
    stall = relay.plan(Fault("stall", after=4 * MIB))
    run = pair.source.spawn("run", "docs")
    wait_until(stall.fired.is_set, "the run to be under way")
    run.kill()
    run.communicate()
    stall.released.set()
    for path in pair.source.home.glob("*.db*"):
        path.unlink()
    for name, content in copy.items():
        (pair.source.home / name).write_bytes(content)
        (pair.source.home / name).chmod(0o600)
    pair.source.job("run", "docs")
    restored_is(pair, "docs", small, tmp_path)


# --- one end alone ---------------------------------------------------------------------------------------------


async def test_the_end_of_a_frame_is_received_although_nothing_follows_it():
    """The buffer is longer than the frame by a length word: waiting for all of it would be waiting for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    listener.close()
    for length in (1, 4, 5, 200_000, 262_144, 262_146):
        buffer = memoryview(bytearray(length + 4))
        carrier = SocketCarrier(trio.socket.from_stdlib_socket(receiver.dup()))
        got = 0
        with trio.fail_after(5):
            sender.sendall(bytes(length // 2))
            while got < length // 2:
                got += await carrier.receive_into(buffer[got:])
            sender.sendall(bytes(length - length // 2))
            while got < length:
                got += await carrier.receive_into(buffer[got:])
        await carrier.aclose()
    sender.close()
    receiver.close()

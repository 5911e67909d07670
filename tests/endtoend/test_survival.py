"""What a job survives: the loss of its link, the death of either daemon; and what it must not survive: tampering."""

from __future__ import annotations

import contextlib
import json
import socket
import zlib

import pytest
import trio
from e2e_node import ended, sealed, wait_until
from e2e_relay import Fault, Relay
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


@pytest.fixture(scope="module")
def shared_line(paired_homes, tmp_path_factory):
    pair = paired_homes.copy(tmp_path_factory.mktemp("line"))
    pair.serve()
    relay = Relay(pair.target.port)
    pair.source.dials("offsite", relay.port)
    yield pair, relay
    pair.kill()
    relay.close()


@pytest.fixture
def line(shared_line):
    """A pair with a relay between; sound again after each test, whatever that did."""
    pair, relay = shared_line
    settings = (pair.source.home / "config.toml").read_text()
    relay.counted_from_now()
    yield pair, relay
    relay.forgive()
    if pair.target.daemon is None:
        pair.target.serve()
    relay.target_port = pair.target.port
    (pair.source.home / "config.toml").write_text(settings)


@pytest.fixture
def job(request):
    """A job of this test alone."""
    return f"job-{zlib.crc32(request.node.name.encode()):08x}"


def stored(pair):
    """Bytes of packs at the target, published or not."""
    names = ("*/journal/*", "*/packs/*/*")
    sizes = 0
    for path in (path for name in names for path in (pair.target.home / "repositories").glob(name)):
        with contextlib.suppress(FileNotFoundError):  # published meanwhile
            sizes += path.stat().st_size
    return sizes


def restored_is(pair, job, tree, tmp_path):
    pair.source.job("verify", job)
    pair.source.job("restore", job, "latest", "--output", tmp_path / "restored")
    assert_same(tree, tmp_path / "restored")


# --- the link --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_a_backup_goes_on_when_the_line_is_cut_again_and_again(line, job, tree, tmp_path, zone):
    pair, relay = line
    cuts = [relay.plan(Fault("cut", after=at * MIB)) for at in (3, 7, 11)]
    done = pair.source.job("backup", "--job", job, *ZONES[zone], tree)
    assert all(cut.fired.is_set() for cut in cuts)
    assert done["redials"] == 3
    assert len(pair.source.points(job)) == 1
    restored_is(pair, job, tree, tmp_path)


def test_what_the_target_has_is_not_sent_again_after_a_cut(line, job, tree, tmp_path):
    pair, relay = line
    relay.plan(Fault("cut", after=STALL))
    pair.source.job("backup", "--job", job, *sealed(), tree)
    # What was on its way is lost with the line, no more: all again would be 1.8.
    assert relay.up < 1.5 * SIZE * MIB


@pytest.mark.parametrize("kind", ["control", "data"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_on_any_connection_in_any_direction_is_survived(line, tmp_path, kind, direction):
    """Before a first session stands, a job says at once that it cannot connect; from then on it redials."""
    pair, relay = line
    tree = large_tree(tmp_path / "tree", 4)
    pair.source.job("backup", "--job", "before", *sealed(), tree)
    whole = relay.passed[direction, kind]
    statuses = set()
    for at in range(1, whole * 3 // 4, whole // 5):
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


def test_a_line_that_is_down_for_a_while_is_dialled_until_it_is_back(line, job, tree, tmp_path):
    pair, relay = line
    cut = relay.plan(Fault("cut", after=5 * MIB, refuse=3))
    done = pair.source.ok("backup", "--job", job, *sealed(), tree)
    assert cut.fired.is_set() and relay.refused == 3
    assert len(done.events("link_lost")) >= 1
    assert len(done.events("link_up")) == 2
    restored_is(pair, job, tree, tmp_path)


def test_a_line_that_does_not_come_back_ends_the_job_with_link_lost(line, job, tree):
    pair, relay = line
    pair.source.limit('redial_for = "1s"')
    relay.plan(Fault("cut", after=STALL, refuse=1_000_000))
    done = pair.source("backup", "--job", job, *sealed(), tree)
    assert (done.status, done.failed["code"]) == (1, "link-lost")
    assert "run the job again" in done.failed["remedy"]
    relay.cut(refuse=0)
    assert pair.source.points(job) == []
    before = relay.up
    pair.source.job("run", job)
    assert relay.up - before < (SIZE - 5) * MIB


def test_a_restore_goes_on_when_the_line_is_cut(line, job, tree, tmp_path):
    pair, relay = line
    pair.source.job("backup", "--job", job, *sealed(), tree)
    cuts = [relay.plan(Fault("cut", after=at * MIB, direction="down")) for at in (3, 9)]
    before = relay.total
    done = pair.source.job("restore", job, "latest", "--output", tmp_path / "restored")
    assert all(cut.fired.is_set() for cut in cuts)
    assert done["redials"] == 2
    assert relay.total - before < 2 * SIZE * MIB
    assert_same(tree, tmp_path / "restored")
    for cut in (relay.plan(Fault("cut", after=4 * MIB, direction="down")),):
        pair.source.job("verify", job)
        assert cut.fired.is_set()


def test_the_answer_to_a_commit_may_get_lost(line, job, tmp_path):
    """Cut at every stretch of the conversation's end: one point, whatever the source heard of its commit."""
    pair, relay = line
    tree = large_tree(tmp_path / "tree", 1)
    pair.source.job("backup", "--job", job, *sealed(), tree)
    before = relay.passed["down", "control"]
    pair.source.job("run", job)
    whole = relay.passed["down", "control"] - before
    for at in range(60, whole, max(whole // 12, 1)):
        count = len(pair.source.points(job))
        # "points" dials, too: count from after its answer.
        cut = relay.plan(Fault("cut", after=at, direction="down", kind="control"))
        done = pair.source("run", job)
        if done.status:
            assert (done.status, done.failed["code"]) == (4, "cannot-connect"), "cut before the session began"
        assert cut.fired.is_set()
        points = pair.source.points(job)
        assert len(points) == count + (done.status == 0)
    assert len({point["parent"] for point in points}) == len(points), "the chain has no fork"
    restored_is(pair, job, tree, tmp_path)


# --- tampering -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["flip", "repeat", "swap"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_tampered_line_ends_the_job_and_is_never_retried(line, job, tree, tmp_path, act, direction):
    pair, relay = line
    command = ("backup", "--job", job, *sealed(), tree)
    if direction == "down":
        pair.source.job(*command)
        command = ("restore", job, "latest", "--output", tmp_path / "restored")
    accepted, said = relay.accepted, len(pair.target.log_text())
    fault = relay.plan(Fault(act, after=5 * MIB, direction=direction))
    done = pair.source(*command)
    assert fault.fired.is_set()
    assert (done.status, done.failed["code"]) == (5, "tampering")
    assert [event for event in done.objects if event["event"] in {"link_lost", "redialling"}] == []
    assert relay.accepted - accepted <= 1 + 1 + 2, "the list of points, one session, its two data channels: no retry"
    if direction == "up":
        lines = pair.target.log_text()[said:].splitlines()
        events = [json.loads(text) for text in lines if text.startswith("{")]
        assert [event["level"] for event in events if event["event"] == "tampering"] == ["error"]
        assert pair.source.points(job) == []
    else:
        assert done.events("security_event")
        assert not (tmp_path / "restored").exists() or not list((tmp_path / "restored").iterdir())


def test_a_flipped_bit_on_the_control_connection_is_no_mere_loss(line, job, tree):
    pair, relay = line
    fault = relay.plan(Fault("flip", after=3000, direction="up", kind="control"))
    done = pair.source("backup", "--job", job, *sealed(), tree)
    assert fault.fired.is_set()
    # TLS tells the two ends of a bad record; whichever way the job ends, nothing altered was believed.
    assert done.status in {0, 4, 5}, done
    assert len(pair.source.points(job)) == (done.status == 0)


# --- the daemons -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_a_job_goes_on_when_the_targets_daemon_was_killed_and_came_back(line, job, tree, tmp_path, zone):
    pair, relay = line
    stall, before = relay.plan(Fault("stall", after=STALL)), stored(pair)
    run = pair.source.spawn("backup", "--job", job, *ZONES[zone], tree)
    wait_until(lambda: stored(pair) - before > WRITTEN, "some chunks to be written")
    pair.target.kill()
    pair.target.serve()
    relay.target_port = pair.target.port
    stall.released.set()
    done = ended(run)
    assert done.status == 0, done.err
    assert done.finished["redials"] >= 1
    assert relay.up < 1.5 * SIZE * MIB
    assert len(pair.source.points(job)) == 1
    restored_is(pair, job, tree, tmp_path)
    pair.target.ok("scrub", "main")


def test_after_the_source_was_killed_the_next_run_sends_only_the_rest(line, job, tree, tmp_path):
    pair, relay = line
    stall, before = relay.plan(Fault("stall", after=STALL)), stored(pair)
    run = pair.source.spawn("backup", "--job", job, *sealed(), tree)
    wait_until(lambda: stored(pair) - before > WRITTEN, "some chunks to be written")
    run.kill()
    run.communicate()
    relay.cut()  # what was on its way is lost
    stall.released.set()
    assert pair.source.points(job) == [], "never a partial point"
    pair.source.job("run", job)
    assert relay.up < 1.5 * SIZE * MIB
    restored_is(pair, job, tree, tmp_path)
    assert len(pair.source.points(job)) == 1


def test_points_that_were_committed_outlive_every_kill(line, job, tmp_path):
    pair, relay = line
    trees = []
    for at in range(3):
        trees.append(large_tree(tmp_path / f"tree-{at}", 2, seed=50 + at))
        pair.source.job("backup", "--job", f"{job}-{at}", *sealed(), trees[-1])
        stall = relay.plan(Fault("stall", after=MIB))
        other = large_tree(tmp_path / f"other-{at}", 2, seed=90 + at)
        run = pair.source.spawn("backup", "--job", f"{job}-lost-{at}", *sealed(), other)
        wait_until(stall.fired.is_set, "the run to be under way")
        (pair.target if at % 2 else pair.source).kill()
        run.kill()
        run.communicate()
        stall.released.set()
        if pair.target.daemon is None:
            pair.target.serve()
            relay.target_port = pair.target.port
    listed = [point["job"] for point in pair.source.ok("points").objects if point["job"].startswith(job)]
    assert sorted(listed) == [f"{job}-0", f"{job}-1", f"{job}-2"]
    for at, tree in enumerate(trees):
        pair.source.job("restore", f"{job}-{at}", "latest", "--output", tmp_path / f"out-{at}")
        assert_same(tree, tmp_path / f"out-{at}")
    pair.target.ok("scrub", "main")


def test_a_run_that_lost_its_keys_does_not_spoil_the_next(line, job, tree, tmp_path):
    """Orphan chunks whose key nobody has any more (a home put back from a copy) must not end up in a point."""
    pair, relay = line
    small = large_tree(tmp_path / "small", 1)
    pair.source.job("backup", "--job", job, *sealed(), small)
    copy = {path.name: path.read_bytes() for path in pair.source.home.glob("*.db*")}
    for at in range(6):
        (small / f"more-{at}").write_bytes((tree / f"part-{at:03}").read_bytes())
    stall = relay.plan(Fault("stall", after=4 * MIB))
    run = pair.source.spawn("run", job)
    wait_until(stall.fired.is_set, "the run to be under way")
    run.kill()
    run.communicate()
    stall.released.set()
    for path in pair.source.home.glob("*.db*"):
        path.unlink()
    for name, content in copy.items():
        (pair.source.home / name).write_bytes(content)
        (pair.source.home / name).chmod(0o600)
    pair.source.job("run", job)
    restored_is(pair, job, small, tmp_path)


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

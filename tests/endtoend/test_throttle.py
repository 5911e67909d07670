"""Limits between real daemons: what a relay on the line sees, second by second."""

from __future__ import annotations

import time

import pytest
from e2e_node import Done, ended, wait_until
from e2e_relay import Relay
from e2e_trees import MIB, assert_same, large_tree

RATE = 2 * MIB
LIMIT = "2MiB/s"
SIZE = 6


class TimedRelay(Relay):
    """Notes when how many bytes pass, each way."""

    def __init__(self, port):
        self.series = {"up": [], "down": []}
        super().__init__(port)

    def _through(self, connection, way, block):
        self.series[way].append((time.monotonic(), len(block)))
        yield from super()._through(connection, way, block)

    def busiest_second(self, way):
        """The most bytes that passed in any one second."""
        most = moving = first = 0
        series = self.series[way]
        for at, count in series:
            moving += count
            while series[first][0] <= at - 1.0:
                moving -= series[first][1]
                first += 1
            most = max(most, moving)
        return most

    def seconds(self, way):
        """How long bytes have passed."""
        return self.series[way][-1][0] - self.series[way][0][0]


@pytest.fixture
def served(new_pair):
    """A pair with a daemon at both ends, and a relay between."""
    pair = new_pair()
    relay = TimedRelay(pair.target.port)
    pair.source.dials("offsite", relay.port)
    pair.source.serve()
    yield pair, relay
    relay.close()


def kept(relay, way):
    """Fail unless pacing shows: a line without it passes these bytes within a second or two.

    On a busy machine the relay itself may be held up, and then see more than a second's bytes at once: half as much
    again is no proof of anything. Smoothness itself is measured on a clock of its own, in tests/throttle.
    """
    assert relay.busiest_second(way) <= 1.5 * RATE
    # The whole, at the limit, less what a burst and rounding may be.
    assert sum(count for _, count in relay.series[way]) <= 1.1 * RATE * (relay.seconds(way) + 0.1)


def define(node, tree):
    """Write a job into the configuration, as a person does."""
    with (node.home / "config.toml").open("a") as file:
        file.write(f'\n[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["{tree}"]\n')


def limit(node, *on_and_rate):
    """Set a limit, and wait until the daemon of the node has seen it."""
    node.ok("throttle", "set", *on_and_rate)
    wait_until(lambda: node.ok("status").objects[0]["limits"], "the daemon to see the limit")


@pytest.mark.parametrize(
    ("who", "on", "by"),
    [
        ("source", ("--job", "docs"), "job"),
        ("source", ("--peer", "offsite"), "peer"),
        ("source", ("--daemon",), "daemon"),
        ("target", ("--peer", "office"), "asked"),
        ("target", ("--daemon",), "asked"),
    ],
    ids=["job", "peer", "daemon", "peer of the target", "target"],
)
def test_a_backup_keeps_to_the_limit_of_whoever_has_one(served, tmp_path, who, on, by):
    pair, relay = served
    define(pair.source, large_tree(tmp_path / "tree", SIZE))
    limit(getattr(pair, who), *on, LIMIT)
    done = pair.source.ok("run", "docs")
    kept(relay, "up")
    event = next(each for each in done.events("limit_in_force") if each["direction"] == "send")
    assert (event["bytes_per_second"], event["by"], event["job"]) == (RATE, by, "docs")


@pytest.mark.parametrize("who", ["source", "target"])
def test_a_restore_keeps_to_the_limit_of_whoever_has_one(served, tmp_path, who):
    pair, relay = served
    tree = large_tree(tmp_path / "tree", SIZE)
    define(pair.source, tree)
    pair.source.job("run", "docs")
    limit(getattr(pair, who), "--daemon", LIMIT)
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    kept(relay, "down")
    assert_same(tree, tmp_path / "out")


def test_a_job_without_a_daemon_keeps_to_its_limit(new_pair, tmp_path):
    pair = new_pair()
    relay = TimedRelay(pair.target.port)
    try:
        pair.source.dials("offsite", relay.port)
        define(pair.source, large_tree(tmp_path / "tree", SIZE))
        pair.source.ok("throttle", "set", "--job", "docs", LIMIT)
        assert pair.source.outside("run", "docs").status == 0
        kept(relay, "up")
    finally:
        relay.close()


@pytest.mark.parametrize("how", ["by the daemon", "without a daemon"])
def test_a_limit_is_changed_while_a_job_runs(new_pair, tmp_path, how):
    """At 64 kbit/s this tree would take ten minutes: the job can only end because the limit is lifted."""
    pair = new_pair()
    source = pair.source
    tree = large_tree(tmp_path / "tree", SIZE)
    define(source, tree)
    source.ok("throttle", "set", "--job", "docs", "64kbit")
    if how == "by the daemon":
        source.serve()
    said = tmp_path / "said"
    with said.open("wb") as file:
        process = source.spawn("run", "docs", stdout=file)
    wait_until(lambda: said.read_text().count("limit_in_force") == 2, "both directions to be limited")
    # A wrong file changes nothing, and ends nothing.
    path = source.home / "config.toml"
    good = path.read_text()
    path.write_text(good.replace("64kbit", "64kbits"))
    if how == "by the daemon":
        wait_until(lambda: "limits stay as they were" in source.log_text(), "the daemon to see the wrong file")
    else:
        wait_until(lambda: "limits stay as they were" in said.read_text(), "the job to see the wrong file")
    assert process.poll() is None
    path.write_text(good)
    assert source.ok("throttle", "clear", "--job", "docs").objects == [
        {"on": "job", "name": "docs", "window": None, "bytes_per_second": 0}
    ]
    assert ended(process).status == 0
    done = Done(0, said.read_text(), "")
    assert [each["bytes_per_second"] for each in done.events("limit_in_force")] == [8000, 8000, 0, 0]
    source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_limits_are_shown(served, tmp_path):
    pair, _ = served
    source = pair.source
    define(source, tmp_path)
    source.ok("throttle", "set", "--daemon", "--window", "00:00-24:00", "20Mbit")
    source.ok("throttle", "set", "--daemon", "unlimited")
    limit(source, "--job", "docs", "2.5MB/s")
    rows = [(row["on"], row["name"], row["window"], row["bytes_per_second"], row["in_force"])
            for row in source.ok("throttle", "show").objects]  # fmt: skip
    assert rows == [
        ("daemon", "", "00:00-24:00", 2_500_000, True),
        ("daemon", "", "always", 0, False),
        ("job", "docs", "always", 2_500_000, True),
    ]
    in_force = [{"on": "daemon", "name": "", "bytes_per_second": 2_500_000}]
    in_force.append({"on": "job", "name": "docs", "bytes_per_second": 2_500_000})
    wait_until(lambda: source.ok("status").objects[0]["limits"] == in_force, "the daemon to see both")
    text = source.ok("throttle", options=()).out
    assert [line.split() for line in text.splitlines()][1:] == [
        ["daemon", "00:00-24:00", "20", "Mbit/s", "now"],
        ["daemon", "always", "unlimited"],
        ["job", "docs", "always", "20", "Mbit/s", "now"],
    ]
    assert "limit on job docs: 20 Mbit/s" in source.ok("status", options=()).out
    source.stop()
    assert source.ok("status").objects[0]["limits"] == in_force


@pytest.mark.parametrize(
    ("words", "status", "what"),
    [
        (("set", "20Mbit"), 2, "a limit is on one thing"),
        (("set", "--daemon", "--job", "docs", "20Mbit"), 2, "a limit is on one thing"),
        (("set", "--daemon", "20Mb"), 2, "'20Mb' is not a rate"),
        (("set", "--daemon", "--window", "Mon", "20Mbit"), 2, "'Mon' is not a window"),
        (("set", "--job", "none", "20Mbit"), 3, "there is no job 'none'"),
        (("set", "--peer", "none", "20Mbit"), 3, "there is no peer 'none'"),
        (("clear", "--daemon"), 2, "there is no limit on daemon"),
    ],
)
def test_what_cannot_be_limited(paired_homes, words, status, what):
    before = (paired_homes.source.home / "config.toml").read_text()
    done = paired_homes.source("throttle", *words)
    assert done.status == status
    assert what in done.failed["what"]
    assert done.failed["remedy"]
    assert (paired_homes.source.home / "config.toml").read_text() == before

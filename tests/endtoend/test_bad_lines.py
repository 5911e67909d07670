"""Lines that are not broken, but bad: one that flaps, one that swallows long packets. The job goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading

import pytest
from compare_trees import differences
from e2e_node import Node, sealed, wait_until

from loadtest.wan.line import Line, reason_against, wan_line

EVERY_SECONDS = 1.0
TIMES = 5
CHUNKS = 100_000

# The program as ever, but for how long it waits for an answer that does not come: not ten seconds.
HASTY = """
from transporter.cli.main import main
from transporter.link import control_link

control_link.HANDSHAKE_SECONDS = 3.0
main()
"""


def test_a_line_that_flaps_every_second(new_pair, relay, tmp_path):
    pair = new_pair()
    line = relay(pair)
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(24):
        (tree / f"file-{number}").write_bytes(os.urandom(1 << 20))
    # Slow enough that the line goes down several times while the job runs.
    pair.source.ok("throttle", "set", "--peer", "offsite", "3MB/s")
    ended = threading.Event()
    cuts = []

    def flap():
        moved = 0
        while len(cuts) < TIMES and not ended.wait(EVERY_SECONDS):
            # A cut that meets a session which is only being opened would be no loss of one.
            while line.passed["up", "data"] < moved + CHUNKS and not ended.wait(0.01):
                pass
            moved = line.passed["up", "data"]
            line.cut()
            cuts.append(moved)

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        done = pair.source.job("backup", "--job", "flapping", *sealed(), tree)
    finally:
        ended.set()
        flapping.join()
    assert len(cuts) == TIMES
    assert done["redials"] >= TIMES
    assert len(pair.source.points("flapping")) == 1
    pair.source.ok("throttle", "clear", "--peer", "offsite")
    pair.source.ok("restore", "flapping", "latest", "--output", tmp_path / "out")
    assert not list(differences(tree, tmp_path / "out"))


@pytest.mark.skipif(reason_against() is not None, reason=f"no line can be emulated here: {reason_against()}")
def test_a_line_that_swallows_long_packets(paired_homes, tmp_path):
    """Handshakes hang there, until segments are short: found out once, and said in the log."""
    pair = paired_homes.copy(tmp_path / "pair")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3 << 20))
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(wan_line(Line(rtt=0.002, largest=1280)))
        pair.target.configure('listen = "127.0.0.1:0"', f'listen = "{wan.far.address}:6180"')
        with pair.source.catalog as catalog:
            catalog.put_peer(dataclasses.replace(catalog.peer("offsite"), address=f"{wan.far.address}:6180"))
        stack.callback(pair.kill)
        start(pair.target, wan.far.prefix)
        for arguments in (
            ("backup", "--job", "swallowed", *sealed(), str(tree)),
            ("restore", "swallowed", "latest", "--output", str(tmp_path / "out")),
        ):
            python, _module, _name, *words = pair.source.command(*arguments)
            command = [*wan.near.prefix, python, "-c", HASTY, *words]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "long packets do not get through" in ran.stdout
    assert not list(differences(tree, tmp_path / "out"))


def start(node: Node, before: tuple[str, ...]) -> None:
    """Start a daemon in another network namespace; return when it is ready."""
    with node.log.open("ab") as log:
        words = [*before, *node.command("serve", options=("--log-format", "json"))]
        node.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    wait_until(lambda: "transporter: ready" in node.log_text(), "the daemon to be ready")

"""Kill -9 of either daemon at random moments of a backup, again and again; then look at what is left.

Each round is one new set of data under one more job: run it, kill one end at a random moment (source and target take
turns), start that end again, and let the job go on: by itself when the target died, by a next run when the source
died. Then: no partial point is listed, the new point restores byte by byte, and all that was sent, counted on the line
over every attempt, is compared with one clean run. At the end of each group of rounds every point of it is restored
once more, the repository is scrubbed, and the group begins anew on empty disks.

    python tests/crash/campaign_kill.py --rounds 100 --megabytes 400 --out docs/campaigns/kill.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "endtoend"))

from e2e_node import Node, Pair, sealed, set_up_pair, wait_until
from e2e_relay import Relay
from e2e_trees import MIB

GROUP = 5
AFTER = "after its end"
MOST = 1.2
"""What all attempts of a round may send, in clean runs."""

RUN_SECONDS = 300.0
SIZES = (2_000, 40 * MIB, 30_000, 5 * MIB, 400_000, 200, 12 * MIB, 1_000_000)


@dataclass
class Round:
    """What happened in one round."""

    number: int
    victim: str
    clean: int
    moment: float
    sent: int = 0
    at_kill: int = 0
    runs: int = 1
    seconds: float = 0.0
    outcome: str = "in the middle"
    faults: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Bytes sent over all attempts, in clean runs."""
        return self.sent / self.clean


class Campaign:
    """Runs rounds; keeps what it found."""

    def __init__(self, work: Path, megabytes: int, seed: int) -> None:
        self.work = work
        self.megabytes = megabytes
        self.random = random.Random(seed)
        self.rounds: list[Round] = []
        self.clean = 0
        self.clean_seconds = 1.0
        self.pair: Pair | None = None
        self.relay: Relay | None = None
        self.members: list[tuple[str, Path]] = []
        # The job of each point that must be listed.
        self.expected: list[str] = []

    # --- a group of rounds on fresh homes ---------------------------------------------------------------------

    def open_group(self, number: int) -> None:
        """Two new homes; a clean run of the same amount of data is the measure."""
        pair = self.pair = set_up_pair(self.work / f"group-{number}")
        pair.target.serve()
        pair.source.serve()
        self.relay = Relay(pair.target.port)
        pair.source.dials("offsite", self.relay.port)
        tree = self.make_tree("clean")
        before, began = self.relay.up, time.monotonic()
        self.must(pair.source.spawn("backup", "--job", "clean", *sealed(), tree))
        self.clean, self.clean_seconds = self.relay.up - before, time.monotonic() - began
        self.members, self.expected = [("clean", tree)], ["clean"]

    def close_group(self, last: Round) -> None:
        """Every point that was committed restores, and the repository is sound."""
        assert self.pair is not None and self.relay is not None
        try:
            listed = sorted(row["job"] for row in self.pair.source.ok("points").objects)
            if listed != sorted(self.expected):
                last.faults.append(f"points listed: {listed}")
            for job, tree in self.members:
                self.restore(job, tree, last)
            scrubbed = self.pair.target("scrub", "main")
            if scrubbed.status:
                last.faults.append(f"scrub ended with {scrubbed.status}: {scrubbed.err.strip()}")
        finally:
            self.pair.kill()
            self.relay.close()
            shutil.rmtree(self.pair.folder)

    # --- one round --------------------------------------------------------------------------------------------

    def round(self, number: int) -> Round:
        """Run, kill, go on, look."""
        assert self.pair is not None and self.relay is not None
        pair, relay = self.pair, self.relay
        victim = ("source", "target")[number % 2]
        one = Round(number, victim, self.clean, self.random.random())
        attempt = len(self.rounds)
        tree, job = self.make_tree(f"tree-{attempt}"), f"job-{attempt}"
        before, began = relay.up, time.monotonic()
        run = pair.source.spawn("backup", "--job", job, *sealed(), tree)
        self.wait_for_moment(run, relay, before, one)
        one.at_kill = relay.up - before
        over_already = run.poll() is not None
        (pair.source if victim == "source" else pair.target).kill_daemon()
        if victim == "target":
            self.restart_target(pair, relay)
        else:
            pair.source.serve()
        run_status = self.finish(run)
        if run_status != 0:
            if victim == "source" and any(row["job"] == job for row in self.points()):
                one.outcome = "after its commit"
            one.runs += 1
            again = pair.source("run", job)
            if again.status:
                one.faults.append(f"the next run ended with {again.status}: {again.err.strip()}")
        elif over_already:
            one.outcome = AFTER
        one.sent, one.seconds = relay.up - before, time.monotonic() - began
        self.look(one, job, tree, relay)
        self.members.append((job, tree))
        # The next run after a kill that came behind the commit makes a second point.
        self.expected += [job] * (1 + (one.outcome == "after its commit"))
        self.rounds.append(one)
        return one

    def wait_for_moment(self, run: subprocess.Popen[bytes], relay: Relay, before: int, one: Round) -> None:
        """Half of the moments are a share of the bytes, half a share of the time, so that the end is met, too."""
        wait_until(lambda: relay.up > before, "the run to begin", RUN_SECONDS)
        if one.number % 4 < 2:
            share = one.moment * self.clean
            wait_until(lambda: relay.up - before >= share or run.poll() is not None, "the moment", RUN_SECONDS)
        else:
            until = time.monotonic() + one.moment * 1.1 * self.clean_seconds
            wait_until(lambda: time.monotonic() >= until, "the moment", RUN_SECONDS)

    @staticmethod
    def restart_target(pair: Pair, relay: Relay) -> None:
        """Start the target again, behind the same address."""
        pair.target.serve()
        relay.target_port = pair.target.port

    def finish(self, run: subprocess.Popen[bytes]) -> int:
        """Wait for the command of a round."""
        run.communicate(timeout=RUN_SECONDS)
        return run.returncode

    def points(self) -> list[dict[str, object]]:
        """All points."""
        assert self.pair is not None
        return self.pair.source.ok("points").objects

    def look(self, one: Round, job: str, tree: Path, relay: Relay) -> None:
        """One point (two where the kill came after the commit), whole, and little sent twice."""
        count = sum(row["job"] == job for row in self.points())
        if count != 1 + (one.outcome == "after its commit"):
            one.faults.append(f"{count} points are listed")
        self.restore(job, tree, one)
        if one.ratio > MOST:
            one.faults.append(f"sent {one.ratio:.3f} of a clean run")

    def restore(self, job: str, tree: Path, one: Round) -> None:
        """Restore the newest point of a job and compare it."""
        assert self.pair is not None
        out = self.work / "restored"
        done = self.pair.source("restore", job, "latest", "--output", out)
        if done.status:
            one.faults.append(f"restoring {job} ended with {done.status}: {done.err.strip()}")
        elif subprocess.run(["diff", "-r", "-q", tree, out], check=False, capture_output=True).returncode:
            one.faults.append(f"{job} came back different")
        shutil.rmtree(out, ignore_errors=True)

    def must(self, run: subprocess.Popen[bytes]) -> None:
        """Run a command that has to end well."""
        _, err = run.communicate(timeout=RUN_SECONDS)
        if run.returncode:
            raise SystemExit(f"a clean run ended with {run.returncode}: {err.decode()}")

    def make_tree(self, name: str) -> Path:
        """New data of mixed compressibility: large files, small files, text and noise."""
        assert self.pair is not None
        tree = self.pair.folder / name
        left = self.megabytes * MIB
        block = self.random.randbytes(8 * MIB)
        text = b" ".join(self.random.randbytes(3).hex().encode() for _ in range(150_000))
        number = pieces = 0
        while left > 0:
            size = min(left, SIZES[number % len(SIZES)])
            path = tree / f"{number % 17}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                # A counter in each piece makes it new; noise is three quarters of all.
                for at in range(0, size, MIB):
                    pieces += 1
                    piece = block if pieces % 4 else text
                    start = self.random.randrange(len(piece) - 1000)
                    part = (piece[start:] + piece[:start])[: min(MIB, size - at)]
                    file.write(self.random.randbytes(16) + part[16:] if len(part) > 16 else part)
            left -= size
            number += 1
        return tree


def report(campaign: Campaign, megabytes: int, seconds: float) -> str:
    """The table that goes into docs/."""
    rounds = campaign.rounds
    ratios = [one.ratio for one in rounds]
    hits = [one for one in rounds if one.outcome != AFTER]
    faults = [one for one in rounds if one.faults]
    lines = [
        "# Campaign: kill -9 of either daemon during a backup",
        "",
        "Made by `tests/crash/campaign_kill.py`; what a round is stands there.",
        "",
        f"{len(hits)} kills in the middle of a run, and {len(rounds) - len(hits)} that came too late. Each run is on"
        f" {megabytes} MB of new data (three quarters of it incompressible), zone source, fsync on, {os.cpu_count()}"
        f" processors, Python {platform.python_version()}; {seconds / 60:.0f} minutes in all.",
        "",
        "| | rounds | with a fault | sent, median | sent, worst |",
        "| --- | --- | --- | --- | --- |",
    ]
    for victim in ("source", "target"):
        mine = [one for one in rounds if one.victim == victim]
        if mine:
            lines.append(
                f"| {victim} killed | {len(mine)} | {sum(bool(one.faults) for one in mine)}"
                f" | {statistics.median(one.ratio for one in mine):.3f} | {max(one.ratio for one in mine):.3f} |"
            )
    lines += [
        "",
        "*sent*: bytes on the line from source to target over all attempts of a round, TLS and frames included, in"
        f" units of a clean run of the same amount of data. The bound is {MOST}.",
        "",
        f"Worst of all: {max(ratios):.3f}. Rounds with a fault: {len(faults)}.",
        "",
        "| round | killed | when | sent by then | sent in all | runs | seconds | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rounds:
        result = "; ".join(one.faults) or "whole"
        lines.append(
            f"| {one.number} | {one.victim} | {one.outcome} | {one.at_kill / one.clean:.2f} | {one.ratio:.3f}"
            f" | {one.runs} | {one.seconds:.1f} | {result} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign; exit status 1 when a round had a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=400, help="data of one round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument("--out", type=Path, help="write the table there")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="campaign-kill-", dir=options.work))
    campaign = Campaign(work, options.megabytes, options.seed)
    began = time.monotonic()
    try:
        for start in range(0, options.rounds, GROUP):
            campaign.open_group(start // GROUP)
            for number in range(start, min(start + GROUP, options.rounds)):
                one = campaign.round(number)
                while one.outcome == AFTER:  # it killed nothing that ran: kept in the table, but not counted
                    one = campaign.round(number)
                print(f"{number} {one.victim} {one.ratio:.3f} {one.seconds:.1f}s {one.faults}", flush=True)
            campaign.close_group(campaign.rounds[-1])
    finally:
        with contextlib.suppress(Exception):
            if campaign.pair is not None:
                campaign.pair.kill()
        shutil.rmtree(work, ignore_errors=True)
    text = report(campaign, options.megabytes, time.monotonic() - began)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    else:
        print(text)
    return int(any(one.faults for one in campaign.rounds))


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["Campaign", "Node", "Round", "report"]

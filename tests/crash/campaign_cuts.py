"""Cut the link at random bytes, again and again, during one single backup; then look at what is left.

Two real homes, and a relay between them that counts what passes. First the same data goes through the same relay
undisturbed, in a job of its own at a target of its own: its `bytes_sent` is the measure. Then one job runs while the
relay cuts all connections of the link at once, each time after a random number of bytes. At the end: one restore
point, which restores byte by byte, and a job that sent no more than it may.

    python tests/crash/campaign_cuts.py --cuts 200 --megabytes 3000 --out docs/campaigns/cuts.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "endtoend"))

from e2e_node import Pair, sealed, set_up_pair
from e2e_relay import RandomCuts, Relay
from e2e_trees import MIB

MOST = 1.1
"""What the job may send, in undisturbed runs."""

CONNECTIONS = 2
"""Data channels, which share the bytes: each draws its own number, the smallest of them cuts."""

WINDOW = 256 << 10
"""Bytes that the relay's sockets hold for each connection and direction, about: a line holds a bandwidth-delay product,
not the megabytes that the kernel gives to loopback."""

RUN_SECONDS = 3600.0


@dataclass
class Outcome:
    """What the campaign found."""

    cuts: int
    megabytes: int
    plain: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    passed: int = 0
    passed_plain: int = 0
    done: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Bytes sent as the job counts them, in undisturbed runs."""
        return float(self.job["bytes_sent"]) / float(self.plain["bytes_sent"])

    @property
    def passed_ratio(self) -> float:
        """Bytes that passed the relay on their way to the target, in undisturbed runs."""
        return self.passed / self.passed_plain


def make_tree(tree: Path, megabytes: int, seed: int) -> None:
    """New data: three quarters of it incompressible, one quarter text; large and small files; nothing twice."""
    chooser = random.Random(seed)
    sizes = (40 * MIB, 2_000, 30_000, 5 * MIB, 400_000, 200, 12 * MIB, 1_000_000)
    lexicon = [chooser.randbytes(4).hex().encode() for _ in range(300)]
    left, number = megabytes * MIB, 0
    while left > 0:
        size = min(left, sizes[number % len(sizes)])
        path = tree / f"{number % 17}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for at in range(0, size, MIB):
                length = min(MIB, size - at)
                if chooser.random() < 0.75:
                    file.write(chooser.randbytes(length))
                else:
                    file.write(b" ".join(chooser.choices(lexicon, k=length // 9 + 1))[:length])
        left -= size
        number += 1


def run_job(pair: Pair, job: str, tree: Path) -> dict[str, Any]:
    """Run a job to its end in the source's daemon; return its last event."""
    run = pair.source.spawn("backup", "--job", job, *sealed(), tree)
    out, err = run.communicate(timeout=RUN_SECONDS)
    lines = [json.loads(line) for line in out.splitlines()]
    finished: list[dict[str, Any]] = [line for line in lines if line["event"] == "job_finished"]
    if run.returncode or len(finished) != 1:
        raise SystemExit(f"the job {job} ended with {run.returncode}: {err.decode()[-2000:]}")
    return finished[0]


def one_run(folder: Path, tree: Path, cuts: RandomCuts | None, **line: Any) -> tuple[Pair, Relay, dict[str, Any]]:
    """Make two homes with a relay between, and run one job through it. The caller ends the pair and the relay."""
    pair = set_up_pair(folder)
    pair.target.serve()
    pair.source.serve()
    relay = Relay(pair.target.port, window=WINDOW, **line)
    try:
        pair.source.dials("offsite", relay.port)
        if cuts is not None:
            relay.cut_at_random(cuts)
        return pair, relay, run_job(pair, "data", tree)
    except BaseException:
        pair.kill()
        relay.close()
        raise


def campaign(work: Path, cuts: int, megabytes: int, seed: int, **line: Any) -> Outcome:
    """Run both jobs; return what came of it."""
    outcome = Outcome(cuts, megabytes)
    tree = work / "tree"
    make_tree(tree, megabytes, seed)
    pair, relay, outcome.plain = one_run(work / "undisturbed", tree, None, **line)
    outcome.passed_plain = relay.up
    pair.kill()
    relay.close()
    shutil.rmtree(pair.folder)
    # The smallest of n numbers below `most` is most / (n + 1) on average, and n connections pass so much meanwhile. A
    # tenth less, so that the last cut comes before the end of the job.
    mean = 0.9 * outcome.passed_plain / cuts
    random_cuts = RandomCuts(cuts, round(mean * (CONNECTIONS + 1) / CONNECTIONS), seed, alone=False)
    pair, relay, outcome.job = one_run(work / "cut", tree, random_cuts, **line)
    try:
        outcome.passed, outcome.done = relay.up, random_cuts.done
        look(outcome, pair, tree, work / "restored")
    finally:
        pair.kill()
        relay.close()
    return outcome


def look(outcome: Outcome, pair: Pair, tree: Path, restored: Path) -> None:
    """Every cut happened; one point, whole; little sent twice."""
    if outcome.done != outcome.cuts:
        outcome.faults.append(f"only {outcome.done} cuts happened")
    points = pair.source.ok("points").objects
    if len(points) != 1:
        outcome.faults.append(f"{len(points)} points are listed")
    done = pair.source("restore", "data", "latest", "--output", restored)
    if done.status:
        outcome.faults.append(f"the restore ended with {done.status}: {done.err.strip()}")
    elif subprocess.run(["diff", "-r", "-q", tree, restored], check=False, capture_output=True).returncode:
        outcome.faults.append("the point came back different")
    if outcome.ratio > MOST:
        outcome.faults.append(f"sent {outcome.ratio:.3f} of an undisturbed run")


def report(outcome: Outcome, seconds: float) -> str:
    """The table that goes into docs/."""
    plain, job = outcome.plain, outcome.job
    cuts = max(1, outcome.done)
    extra = (job["bytes_sent"] - plain["bytes_sent"]) / cuts
    extra_passed = (outcome.passed - outcome.passed_plain) / cuts
    rows = (
        ("cuts of all connections of the link", "0", f"{outcome.done}"),
        ("sessions", "1", f"{job['redials'] + 1}"),
        ("bytes_sent, MB", f"{plain['bytes_sent'] / 1e6:.1f}", f"{job['bytes_sent'] / 1e6:.1f}"),
        (
            "bytes that passed the relay towards the target, MB",
            f"{outcome.passed_plain / 1e6:.1f}",
            f"{outcome.passed / 1e6:.1f}",
        ),
        ("seconds", f"{plain['seconds']:.1f}", f"{job['seconds']:.1f}"),
        ("restore points", "1", "1" if not any("points" in fault for fault in outcome.faults) else "not 1"),
    )
    lines = [
        f"# Campaign: {outcome.cuts} cuts of the link during one backup",
        "",
        "Made by `tests/crash/campaign_cuts.py`; what it does stands there.",
        "",
        f"One job over {outcome.megabytes} MiB of new data (three quarters of it incompressible), zone source, fsync"
        f" on, {os.cpu_count()} processors, Python {platform.python_version()}; {seconds / 60:.0f} minutes in all."
        f" The relay between the homes holds about {WINDOW >> 10} KiB for each connection and direction.",
        "",
        "| | undisturbed | cut |",
        "| --- | ---: | ---: |",
        *[f"| {name} | {one} | {other} |" for name, one, other in rows],
        "",
        f"Sent as the job counts it: {outcome.ratio:.3f} of the undisturbed run, {extra / 1e6:.2f} MB more for each"
        f" cut; the bound is {MOST}. Counted at the relay, with the frames that a cut left unfinished:"
        f" {outcome.passed_ratio:.3f}, {extra_passed / 1e6:.2f} MB more for each cut.",
        "",
        f"Result: {'; '.join(outcome.faults) or 'one restore point, byte-identical when restored'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the campaign; exit status 1 when something was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds, each way")
    parser.add_argument("--work", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument("--out", type=Path, help="write the table there")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="campaign-cuts-", dir=options.work))
    began = time.monotonic()
    try:
        outcome = campaign(work, options.cuts, options.megabytes, options.seed, delay=options.delay)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = report(outcome, time.monotonic() - began)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    print(text)
    return int(bool(outcome.faults))


if __name__ == "__main__":
    sys.exit(main())

"""What a restore in place costs beside a whole one: one tree, one pair, one run, by the product's commands.

Both go to the same disk over loopback. Times are the command's, from its start to its end; it syncs what it wrote.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .corpus import Corpora
from .figures import Verdict
from .machine import describe
from .measure import BenchError
from .peers.ours import SourceMode, Transporter

FILES = 20_000
QUICK_FILES = 300
RATIO = 0.25
"""What a restore in place with one file in a hundred changed may take of the whole restore's time."""
SHARE = 100
DEPTH = 40
LARGE = 24 << 20
WORKS = (
    ("full", "to an empty folder"),
    ("nothing", "in place, nothing changed"),
    ("one percent", "in place, 1 % of the files changed"),
    ("checksum", "in place with `--checksum`, 1 % changed"),
)


@dataclass(frozen=True)
class Round:
    """Seconds of each work, by its name, processor seconds of all processes, and bytes that came over the line."""

    seconds: dict[str, float]
    cpu: dict[str, float]
    received: dict[str, int]


def make_tree(root: Path, files: int, rng: random.Random) -> int:
    """Make files of 1 byte to 64 KiB and a few large ones; return their bytes."""
    total = 0
    for number in range(files):
        folder = root / f"dept-{number // (DEPTH * DEPTH):03}" / f"project-{number // DEPTH:05}"
        if not number % DEPTH:
            folder.mkdir(parents=True, exist_ok=True)
        data = rng.randbytes(1 << rng.randrange(17) >> 1)
        (folder / f"file-{number:07}").write_bytes(data)
        total += len(data)
    for number in range(4):
        (root / f"large-{number}").write_bytes(rng.randbytes(LARGE))
        total += LARGE
    return total


def change(root: Path, rng: random.Random) -> int:
    """Change one file in a hundred, large ones in a few bytes; return how many."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    chosen = rng.sample(paths, max(1, len(paths) // SHARE))
    for path in chosen:
        with path.open("r+b") as file:
            file.seek(rng.randrange(max(1, path.stat().st_size)))
            file.write(rng.randbytes(10))
    return len(chosen)


def measure(folder: Path, files: int, runs: int, say: Callable[[str], None]) -> tuple[list[Round], int]:
    """Return the rounds, and the bytes of the tree. Raises ``BenchError``."""
    rng = random.Random(1)
    tree = folder / "tree"
    size = make_tree(tree, files, rng)
    rounds = []
    ends = folder / "pair"
    ends.mkdir()
    with SourceMode(ends, Corpora(tree, tree, "made up", files, size, 0), None) as pair:
        pair.copy("tree", tree)
        for number in range(runs):
            rounds.append(one_round(pair, folder / f"out-{number}", rng))
            say(", ".join(f"{work} {seconds:.2f} s" for work, seconds in rounds[-1].seconds.items()))
    return rounds, size


def one_round(pair: Transporter, out: Path, rng: random.Random) -> Round:
    """Restore everything, then the same in place."""
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    received: dict[str, int] = {}

    def restore(work: str, *options: str) -> None:
        seconds[work], cpu[work], received[work] = pair.restore_with("tree", out, *options)

    restore("full")
    restore("nothing", "--in-place")
    change(out, rng)
    restore("one percent", "--in-place", "--delete")
    pair.check("tree", out)
    change(out, rng)
    restore("checksum", "--in-place", "--delete", "--checksum")
    pair.check("tree", out)
    shutil.rmtree(out)
    return Round(seconds, cpu, received)


def table(rounds: list[Round], files: int, size: int, machine: dict[str, str]) -> str:
    """Return the report."""
    ratios = [one.seconds["one percent"] / one.seconds["full"] for one in rounds]
    ratio = statistics.median(ratios)
    lines = [
        "# Benchmark of restores in place",
        "",
        "Made by `make bench-restore` (loadtest/restoring.py): job in the source's daemon, sealed at the source, over",
        "loopback to one disk. Medians over the rounds; the ratio is taken within each round.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine over one minute, before and after: {machine['before']}, {machine['after']}",
        f"- tree: {files:,} files and {len(rounds)} rounds; {size / (1 << 20):,.0f} MiB",
        "",
        "| restore | seconds | of the whole one | processor, s | of the whole one | received, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for work, words in WORKS:
        seconds = statistics.median(one.seconds[work] for one in rounds)
        share = statistics.median(one.seconds[work] / one.seconds["full"] for one in rounds)
        cpu = statistics.median(one.cpu[work] for one in rounds)
        cpu_share = statistics.median(one.cpu[work] / one.cpu["full"] for one in rounds)
        received = statistics.median(one.received[work] for one in rounds) / (1 << 20)
        lines.append(f"| {words} | {seconds:.2f} | {share:.2f} | {cpu:.2f} | {cpu_share:.2f} | {received:,.1f} |")
    verdict = "reached" if ratio <= RATIO else "**missed**"
    shown = ", ".join(f"{each:.2f}" for each in ratios)
    lines += ["", f"Must: with 1 % changed ≤ {RATIO} of the whole restore: {ratio:.2f} ({shown}): {verdict}."]
    return "\n".join(lines) + "\n"


def verdicts(rounds: list[Round]) -> list[Verdict]:
    """Return the figures."""
    ratio = statistics.median(one.seconds["one percent"] / one.seconds["full"] for one in rounds)
    title = "restore in place, 1 % changed: share of the time of a whole one"
    return [Verdict(title, f"≤ {RATIO:g}", f"{ratio:.2f}", ratio <= RATIO)]


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-restore.md and its section of docs/benchmarks.md."""
    from . import sections

    parser = argparse.ArgumentParser(prog="python -m loadtest restore", description="restores in place")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES} files, once; judges nothing")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.files, chosen.runs = QUICK_FILES, 1
    if chosen.runs < 1 or chosen.files < 1:
        raise BenchError("--runs and --files are at least 1")
    folder = Path(tempfile.mkdtemp(prefix="transporter-restore-", dir=chosen.work))
    before = os.getloadavg()[0]
    try:
        rounds, size = measure(folder, chosen.files, chosen.runs, print)
        machine = {**describe(folder), "before": f"{before:.1f}", "after": f"{os.getloadavg()[0]:.1f}"}
        text = table(rounds, chosen.files, size, machine)
    finally:
        shutil.rmtree(folder)
    (chosen.out / "bench-restore.md").write_text(text)
    sections.put(chosen.out, "restore", verdicts(rounds), quick=chosen.quick)
    print(text)
    return int(not chosen.quick and "missed" in text)

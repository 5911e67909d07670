"""What a restore in place costs beside a whole one: one pair for each tree, one run, by the product's commands.

Both go to the same disk over loopback. Times are the command's, from its start to its end; it syncs what it wrote.

Nothing is removed before the last restore, and what is judged goes by the quickest whole one: where trees were removed
a moment ago (`bench.QuietTime` says why) a whole restore takes five times as long, and one in place looks cheap.
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

from .bench import QuietTime
from .corpus import Corpora, fetch_linux_source, library_tree, warm
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
    ("full", "to an empty folder (the quickest)"),
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


@dataclass(frozen=True)
class Measured:
    """What came of one tree: what it is, its rounds."""

    title: str
    rounds: list[Round]

    @property
    def ratios(self) -> list[float]:
        """Of each round: a restore in place with 1 % changed, to the quickest whole one."""
        quickest = min(one.seconds["full"] for one in self.rounds)
        return [one.seconds["one percent"] / quickest for one in self.rounds]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)


def measure(folder: Path, title: str, tree: Path, runs: int, say: Callable[[str], None]) -> Measured:
    """Restore one tree again and again. Raises ``BenchError``."""
    rng = random.Random(1)
    rounds = []
    entries, size = warm(tree)
    folder.mkdir()
    ends = folder / "pair"
    ends.mkdir()
    title = f"{title}: {entries:,} entries, {size / (1 << 20):,.0f} MiB"
    say(title)
    with SourceMode(ends, Corpora(tree, tree, title, entries, size, 0), None) as pair:
        pair.copy("tree", tree)
        for number in range(runs):
            rounds.append(one_round(pair, folder / f"out-{number}", rng))
            say(", ".join(f"{work} {seconds:.2f} s" for work, seconds in rounds[-1].seconds.items()))
    return Measured(title, rounds)


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
    return Round(seconds, cpu, received)


def table(trees: list[Measured], machine: dict[str, str]) -> str:
    """Return the report."""
    lines = [
        "# Benchmark of restores in place",
        "",
        "Made by `make bench-restore` (loadtest/restoring.py): job in the source's daemon, sealed at the source, over",
        "loopback to one disk. Medians over the rounds; what is judged goes by the quickest whole restore, as ext4",
        "makes files slowly for some minutes after others were removed.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine over one minute, before and after: {machine['before']}, {machine['after']}",
        f"- {len(trees[0].rounds)} rounds; of the files one in a hundred is changed, at random all over the tree",
    ]
    for tree in trees:
        lines += ["", f"## {tree.title}", "", *_rows(tree.rounds), "", _judged(tree)]
    return "\n".join(lines) + "\n"


def _rows(rounds: list[Round]) -> list[str]:
    quickest = min(rounds, key=lambda one: one.seconds["full"])
    lines = [
        "| restore | seconds | of the whole one | processor, s | of the whole one | received, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for work, words in WORKS:
        judged = [quickest] if work == "full" else rounds
        seconds = statistics.median(one.seconds[work] for one in judged)
        cpu = statistics.median(one.cpu[work] for one in judged)
        received = statistics.median(one.received[work] for one in judged) / (1 << 20)
        shares = f"{seconds / quickest.seconds['full']:.2f} | {cpu:.2f} | {cpu / quickest.cpu['full']:.2f}"
        lines.append(f"| {words} | {seconds:.2f} | {shares} | {received:,.1f} |")
    return lines


def _judged(tree: Measured) -> str:
    verdict = "reached" if tree.ratio <= RATIO else "**missed**"
    shown = ", ".join(f"{each:.2f}" for each in tree.ratios)
    return f"Must: with 1 % changed ≤ {RATIO} of the whole restore: {tree.ratio:.2f} ({shown}): {verdict}."


def verdicts(trees: list[Measured]) -> list[Verdict]:
    """Return the figures."""
    title = "restore in place, 1 % changed: share of the time of a whole one"
    return [
        Verdict(f"{title}; {tree.title}", f"≤ {RATIO:g}", f"{tree.ratio:.2f}", tree.ratio <= RATIO) for tree in trees
    ]


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-restore.md and its section of docs/benchmarks.md."""
    from . import sections
    from .__main__ import default_cache

    parser = argparse.ArgumentParser(prog="python -m loadtest restore", description="restores in place")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the large tree is kept")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_FILES} files and a small tree, once; judges nothing"
    )
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.files, chosen.runs = QUICK_FILES, 1
    if chosen.runs < 1 or chosen.files < 1:
        raise BenchError("--runs and --files are at least 1")
    folder = Path(tempfile.mkdtemp(prefix="transporter-restore-", dir=chosen.work))
    before = os.getloadavg()[0]
    try:
        made_up = folder / "tree"
        make_tree(made_up, chosen.files, random.Random(1))
        large = library_tree(chosen.cache) if chosen.quick else fetch_linux_source(chosen.cache)
        if not chosen.quick:
            # By the bench before this one, for all that is known here.
            quiet = QuietTime()
            quiet.removed()
            quiet.wait()
        trees = [
            measure(folder / name, title, tree, chosen.runs, print)
            for name, title, tree in (("large", large.name, large), ("small", "made up", made_up))
        ]
        machine = {**describe(folder), "before": f"{before:.1f}", "after": f"{os.getloadavg()[0]:.1f}"}
        text = table(trees, machine)
    finally:
        shutil.rmtree(folder)
    (chosen.out / "bench-restore.md").write_text(text)
    sections.put(chosen.out, "restore", verdicts(trees), quick=chosen.quick)
    print(text)
    return int(not chosen.quick and "missed" in text)

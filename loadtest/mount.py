"""A mounted point: how fast a large file is read from it, and how long `find` takes, over loopback."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .corpus import Corpora, prepare
from .figures import Verdict
from .machine import describe
from .measure import BenchError, DaemonMeter, background
from .peers.ours import SourceMode, Transporter
from .ssh import wait_for_line

READ_MB = 200.0
FIND_SECONDS = 5.0
_READER = """
import sys, time
buffer = bytearray(1 << 20)
began, total = time.monotonic(), 0
with open(sys.argv[1], "rb", buffering=0) as file:
    while some := file.readinto(buffer):
        total += some
print(total, time.monotonic() - began)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One piece of work. ``reached``: None where nothing is demanded. Seconds; processor seconds of either end."""

    what: str
    result: str
    seconds: float
    mount_cpu: float
    target_cpu: float
    peak: int
    reached: bool | None = None


class Bench:
    """A pair with the points, and one mount after the other."""

    def __init__(self, peer: Transporter, folder: Path, say: Callable[[str], None]) -> None:
        """Prepare."""
        self._peer = peer
        self._folder = folder
        self._say = say
        self._mount_pid = 0
        self.rows: list[Row] = []

    @contextlib.contextmanager
    def mounted(self, job: str) -> Iterator[Path]:
        """Mount the newest point of a job anew, so that nothing of it is in any cache."""
        place = self._folder / f"mount-{time.monotonic_ns()}"
        place.mkdir()
        log = place.with_suffix(".log")
        began = time.monotonic()
        with background(self._peer.line("A", "--json", "mount", job, str(place)), log) as process:
            wait_for_line(log, b'"mounted"', process)
            self._mount_pid = process.pid
            self._say(f"{job}: mounted in {time.monotonic() - began:.2f} s")
            if not self.rows or not any(row.what.startswith(f"mount of {job}") for row in self.rows):
                self.rows.append(Row(f"mount of {job}: ready", "", time.monotonic() - began, 0, 0, 0))
            yield place
        if os.path.ismount(place):
            raise BenchError(f"{place} is still mounted")

    def work(self, what: str, command: list[str], judge: Callable[[float, str], tuple[str, bool | None]]) -> None:
        """Run a command that uses a mount."""
        with DaemonMeter(self._mount_pid) as mount, DaemonMeter(self._peer.daemon("B")) as target:
            began = time.monotonic()
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            seconds = time.monotonic() - began
        if done.returncode:
            raise BenchError(f"{what}: {command[0]} ended with {done.returncode}")
        result, reached = judge(seconds, done.stdout.decode(errors="replace"))
        row = Row(what, result, seconds, mount.usage.cpu, target.usage.cpu, mount.usage.peak, reached)
        self.rows.append(row)
        self._say(f"{what}: {result}, {seconds:.2f} s, processor {row.mount_cpu:.2f} / {row.target_cpu:.2f} s")


def _rate(seconds: float, output: str) -> tuple[str, bool | None]:
    total, took = output.split()
    del seconds
    rate = int(total) / float(took) / 1e6
    return f"{rate:.0f} MB/s", rate >= READ_MB


def _unjudged_rate(seconds: float, output: str) -> tuple[str, bool | None]:
    return _rate(seconds, output)[0], None


def _found(least: int) -> Callable[[float, str], tuple[str, bool | None]]:
    def judge(seconds: float, output: str) -> tuple[str, bool | None]:
        if int(output) < least:
            raise BenchError(f"find saw {output.strip()} of {least} entries")
        return f"{int(output):,} entries", seconds <= FIND_SECONDS

    return judge


def measure(corpora: Corpora, folder: Path, rounds: int, every: bool, say: Callable[[str], None]) -> list[Row]:
    """Copy the corpora, mount the points, and use them."""
    with SourceMode(folder, corpora, None) as peer:
        peer.copy("image", corpora.image)
        peer.copy("tree", corpora.tree)
        bench = Bench(peer, folder, say)
        read = [sys.executable, "-c", _READER]
        for turn in range(rounds):
            with bench.mounted("image") as place:
                (image,) = place.iterdir()
                bench.work(f"sequential read, {turn + 1}", [*read, str(image)], _rate)
                if not turn:
                    bench.work("… again, from the kernel's cache", [*read, str(image)], _unjudged_rate)
            with bench.mounted("tree") as place:
                count = ["sh", "-c", f"find '{place}' | wc -l"]
                bench.work(f"find, {turn + 1}", count, _found(corpora.tree_files))
                if turn:
                    continue
                bench.work("… again", count, lambda seconds, output: (_found(0)(seconds, output)[0], None))
                if not every:
                    continue
                tar = ["sh", "-c", f"tar -cf - -C '{place}' . | wc -c"]
                bench.work("every file read by tar", tar, lambda s, output: (f"{int(output) / s / 1e6:.0f} MB/s", None))
        return bench.rows


def table(rows: list[Row], corpora: Corpora, machine: dict[str, str], load: tuple[str, str]) -> str:
    """Return the report."""
    lines = [
        "# Benchmark of mounted points",
        "",
        "Made by `make bench-mount` (loadtest/mount.py): a pair over loopback, mode `source`; each round mounts anew,",
        "with empty caches in the mount and in the kernel's cache of it. The target's packs are in its kernel's cache.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine over one minute, before and after: {load[0]}, {load[1]} (the bench makes some 2 of it)",
        f"- tree: {corpora.tree_label}, {corpora.tree_files:,} entries; image: its tar, "
        f"{corpora.image_bytes / 1e9:.2f} GB",
        "",
        "Both ends, the kernel and the program that reads share the processors. On a machine that does other work,",
        "too, seconds say how much of it was left to them; the processor times say what it costs.",
        "",
        f"Must: sequential read ≥ {READ_MB:.0f} MB/s, `find` ≤ {FIND_SECONDS:.0f} s.",
        "",
        "| work | result | seconds | processor of the mount, s | of the target, s | memory of the mount | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    words = {None: "not judged", True: "reached", False: "**missed**"}
    for row in rows:
        peak = f"{row.peak / (1 << 20):.0f} MiB" if row.peak else ""
        figures = f"{row.seconds:.2f} | {row.mount_cpu:.2f} | {row.target_cpu:.2f} | {peak}"
        lines.append(f"| {row.what} | {row.result} | {figures} | {words[row.reached]} |")
    return "\n".join(lines) + "\n"


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Return the figures: of every round."""
    found = []
    for row in rows:
        if row.reached is not None:
            reads = row.what.startswith("sequential")
            must = f"≥ {READ_MB:.0f} MB/s" if reads else f"≤ {FIND_SECONDS:.0f} s"
            seen = row.result if reads else f"{row.seconds:.1f} s for {row.result}"
            found.append(Verdict(f"mount: {row.what}", must, seen, row.reached))
    return found


def _load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-mount.md and its section of docs/benchmarks.md."""
    from . import sections
    from .__main__ import default_cache

    parser = argparse.ArgumentParser(prog="python -m loadtest mount", description="reading from a mounted point")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small corpora, once; judges nothing")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    parser.add_argument("--tar", action="store_true", help="also read every file of the tree")
    chosen = parser.parse_args(arguments)
    corpora = prepare(chosen.cache, None, None, quick=chosen.quick)
    folder = Path(tempfile.mkdtemp(prefix="transporter-mount-", dir=chosen.work))
    before = _load()
    try:
        rows = measure(corpora, folder, 1 if chosen.quick else max(1, chosen.rounds), chosen.tar, print)
        text = table(rows, corpora, describe(folder), (before, _load()))
    finally:
        if not chosen.keep:
            shutil.rmtree(folder)
    (chosen.out / "bench-mount.md").write_text(text)
    sections.put(chosen.out, "mount", verdicts(rows), quick=chosen.quick)
    print(text)
    return int(not chosen.quick and "missed" in text)

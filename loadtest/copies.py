"""What a backup copy job costs beside the first backup of the same data: three homes, three daemons, loopback.

A backs up to B, B copies from its repository to C's, each round under a new job so that nothing is known before. What
is compared is plain bytes a second of the jobs' own clocks. A further row copies from B to C at A's command (the data
goes from B to A to C), and one has everything there already.

All of it once in memory and once on the disk. Packs are written past the page cache: a copy reads its source from the
disk, writes, and reads back from the disk: three times the traffic of a first backup, here all of it on one disk, where
the two repositories of a copy lie at two sites. What that disk takes to store as many bytes once stands beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .figures import Verdict
from .machine import describe
from .measure import BenchError, DaemonMeter, background
from .measure import run as run_command
from .peers.ours import job_finished, program
from .ssh import free_port, wait_for_line

MIB = 1 << 20
SIZE_MIB = 1024
QUICK_MIB = 16
FACTOR = 1.2
HOMES = {"A": "office", "B": "offsite", "C": "second"}
FIRST, COPY, THROUGH, AGAIN = "first backup", "copy, from the target", "copy, through the source", "copy, nothing new"


@dataclass(frozen=True)
class Row:
    """One work: plain bytes gone through, the seconds of each round, and processor seconds of all three daemons."""

    work: str
    size: int
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    stored: int = 0

    @property
    def rate(self) -> float:
        """Bytes a second, by the median."""
        return self.size / statistics.median(self.seconds)


def make_image(path: Path, size_mib: int) -> None:
    """Write an image that compresses to about half: words and noise, a MiB in turn, none of them twice."""
    chance = random.Random(5)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randrange(3, 9))) for _ in range(4096)]
    with path.open("wb") as file:
        for number in range(size_mib):
            if number % 2:
                file.write(os.urandom(MIB))
                continue
            text = b" ".join(chance.choices(words, k=MIB // 5))
            file.write(text[:MIB].ljust(MIB, b"."))


class Trio:
    """Three homes with their daemons, paired: A with B and C, B with C."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._daemons: list[int] = []

    def call(self, home: str, *arguments: str) -> str:
        """Run a command of a home; return what it prints."""
        return run_command([*program(), "--home", str(self.folder / home), *arguments]).output.strip()

    def job(self, home: str, *arguments: str) -> dict[str, Any]:
        """Run a job; return its last event."""
        with contextlib.ExitStack() as stack:
            meters = [stack.enter_context(DaemonMeter(pid)) for pid in self._daemons]
            finished = job_finished(self.call(home, "--json", *arguments))
        if not finished:
            raise BenchError(f"{arguments[0]} did not finish")
        return {**finished, "cpu": sum(meter.usage.cpu for meter in meters)}

    def __enter__(self) -> Trio:
        """Set up and serve."""
        with contextlib.ExitStack() as stack:
            for home, name in HOMES.items():
                self.call(home, "init", "--name", name, "--listen", f"127.0.0.1:{free_port()}")
            for home in ("B", "C"):
                self.call(home, "repository", "add", "main", "--path", str(self.folder / f"repository-{home}"))
            password = self.folder / "password"
            password.write_text("of the bench")
            password.chmod(0o600)
            self.call("A", "password", "add", "office", "--from-file", str(password))
            for home in ("B", "C"):
                self._serve(stack, home)
            for joins, to in (("A", "B"), ("A", "C"), ("B", "C")):
                self.call(joins, "join", self.call(to, "--quiet", "invite", "--repository", "main"))
            self._serve(stack, "A")
            self._stack = stack.pop_all()
        return self

    def _serve(self, stack: contextlib.ExitStack, home: str) -> None:
        log = self.folder / f"log-{home}"
        command = [*program(), "--home", str(self.folder / home), "serve"]
        process = stack.enter_context(background(command, log))
        wait_for_line(log, b"ready", process)
        self._daemons.append(process.pid)

    def __exit__(self, *_: object) -> None:
        """End the daemons."""
        self._stack.close()


def disk_alone(folder: Path, size: int) -> float:
    """Return the seconds that writing ``size`` bytes and making them durable takes, by the plainest program."""
    noise = os.urandom(MIB)
    path = folder / "alone"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(max(1, size // MIB)):
            file.write(noise)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def measure(folder: Path, size_mib: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Back up and copy ``rounds`` times, in turn."""
    image = folder / "image"
    make_image(image, size_mib)
    size = image.stat().st_size
    times: dict[str, list[float]] = {FIRST: [], COPY: [], THROUGH: [], AGAIN: []}
    cpu: dict[str, list[float]] = {work: [] for work in times}
    stored = 0
    with Trio(folder) as pair:
        pair.job(
            "A", "backup", "--job", "warm", "--to", "offsite/main", "--password", "office", str(folder / "password")
        )
        for number in range(rounds):
            job = f"image-{number}"
            how = ("--to", "offsite/main", "--encrypt", "source", "--password", "office", "--as", "image")
            done = {
                FIRST: pair.job("A", "backup", "--job", job, *how, "--as", "image", str(image)),
                COPY: pair.job("B", "copy", job, "--from", "main", "--to", "second/main"),
                THROUGH: pair.job("A", "copy", job, "--to", "second/main", "--through"),
                AGAIN: pair.job("A", "copy", job, "--to", "second/main"),
            }
            for work, row in done.items():
                if work != FIRST:
                    _check(row, size, new=work != AGAIN)
                    stored = max(stored, row["bytes_written"])
                times[work].append(row["seconds"])
                cpu[work].append(row["cpu"])
            say(f"round {number + 1}: " + ", ".join(f"{work} {row['seconds']:.2f} s" for work, row in done.items()))
    return [Row(work, size, tuple(times[work]), tuple(cpu[work]), stored) for work in times]


def _check(copied: dict[str, Any], size: int, *, new: bool) -> None:
    if copied["points"] != int(new) or (new and copied["bytes_new"] < size):
        raise BenchError(f"a copy of {size} bytes copied {copied['bytes_new']}")


@dataclass(frozen=True)
class Place:
    """Where it was measured. ``alone``: seconds that the place itself takes to store as many bytes, by round."""

    name: str
    rows: list[Row]
    alone: tuple[float, ...] = ()


def table(places: list[Place], rounds: int, machine: dict[str, str]) -> str:
    """Return the report."""
    first = places[0].rows[0]
    lines = [
        "# Benchmark of copying",
        "",
        "Made by `make bench-copy` (loadtest/copies.py): three homes with their daemons on loopback; an image of",
        f"{first.size // MIB:,} MiB, of which {first.stored // MIB:,} MiB are stored, sealed at the source; medians of",
        f"{rounds} rounds. A copy reads back and compares all that it stored before its point appears. Processor",
        "seconds are those of the daemons (without the worker process that reads for a backup).",
        "",
        "In memory the ratio is judged: there the programs are what is measured. On the disk it is told. Packs are",
        "written past the page cache, so a copy reads its source from the disk and reads back from the disk what it",
        "wrote: three times the traffic of a first backup, here all of it on one disk, and not on those of two sites.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine before and after, over one minute: {machine['load']}",
    ]
    for place in places:
        lines += ["", f"## {place.name}", ""]
        if place.alone:
            median = statistics.median(place.alone)
            lines += [f"The disk alone takes {median:.2f} s for as many bytes ({_list(place.alone)}).", ""]
        lines += _rows(place)
    return "\n".join(lines) + "\n"


def _rows(place: Place) -> list[str]:
    first = next(row for row in place.rows if row.work == FIRST)
    lines = [
        "| work | seconds | by round | processor, s | MB/s of plain data | of the first backup | must | |",
        "| --- | ---: | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for row in place.rows:
        share = row.rate / first.rate
        must = f"≥ {FACTOR}" if row.work == COPY and not place.alone else ""
        verdict = ("reached" if share >= FACTOR else "**missed**") if must else ""
        seconds = f"{statistics.median(row.seconds):.2f} | {_list(row.seconds)}"
        figures = f"{statistics.median(row.cpu):.2f} | {row.rate / 1e6:,.0f} | {share:.2f}"
        lines.append(f"| {row.work} | {seconds} | {figures} | {must} | {verdict} |")
    return lines


def _list(seconds: tuple[float, ...]) -> str:
    return ", ".join(f"{one:.2f}" for one in seconds)


def measure_in(name: str, work: Path, size_mib: int, rounds: int, *, disk: bool) -> tuple[Place, dict[str, str]]:
    """Measure in a folder of ``work``; return what was found, and what the machine is."""
    folder = Path(tempfile.mkdtemp(prefix="transporter-copy-", dir=work))
    try:
        rows = measure(folder, size_mib, rounds, print)
        alone = tuple(disk_alone(folder, rows[0].stored) for _ in range(rounds)) if disk else ()
        return Place(name, rows, alone), describe(folder)
    finally:
        shutil.rmtree(folder)


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Return the figures."""
    rates = {row.work: row.rate for row in rows}
    share = rates[COPY] / rates[FIRST]
    title = "copy of a sealed repository, in memory: speed against the first backup"
    return [Verdict(title, f"≥ {FACTOR:g} ×", f"{share:.2f} ×", share >= FACTOR)]


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-copy.md and its section of docs/benchmarks.md."""
    from . import sections

    parser = argparse.ArgumentParser(prog="python -m loadtest copy", description="copies of a sealed repository")
    parser.add_argument("--mib", type=int, default=SIZE_MIB)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="a folder on a disk")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder in memory")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MIB} MiB, once; judges nothing")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.mib, chosen.runs = QUICK_MIB, 1
    before = _load()
    in_memory, _ = measure_in("In memory", chosen.memory, chosen.mib, chosen.runs, disk=False)
    on_disk, machine = measure_in("On the disk", chosen.work, chosen.mib, chosen.runs, disk=True)
    text = table([in_memory, on_disk], chosen.runs, {**machine, "load": f"{before}, {_load()}"})
    (chosen.out / "bench-copy.md").write_text(text)
    sections.put(chosen.out, "copy", verdicts(in_memory.rows), quick=chosen.quick)
    print(text)
    return int(not chosen.quick and "missed" in text)


def _load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]

"""How fast a repository is scrubbed, against hashing the same files with all cores.

The packs are written by the product's own writer, of random bytes. Both read what is in the page cache, as far as there
is room: what is compared is the work, not the disk. Rounds alternate, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from transporter.clock import SystemClock
from transporter.home import Home
from transporter.link.identity import create_identity
from transporter.repository import ChunkRecord, Repository

from .figures import Verdict
from .machine import describe
from .measure import run as run_command

MIB = 1 << 20
QUICK_MIB = 8
LEAST_RATIO = 0.6
PEAK_MIB = 160
DOMAIN, TENANT, JOB = b"D" * 16, "bench", "job"


@dataclass(frozen=True)
class Shape:
    """A repository that is measured: so many MiB in chunks of ``smallest`` … ``largest`` bytes."""

    what: str
    mib: int
    smallest: int
    largest: int
    judged: bool = True


SHAPES = (
    Shape("chunks of 0.25 … 2 MiB, as of large files", 1536, MIB // 4, 2 * MIB),
    Shape("chunks of 64 … 256 KiB", 768, 64 << 10, 256 << 10, judged=False),
    Shape("chunks of 4 … 12 KiB, as of small files alone", 256, 4 << 10, 12 << 10, judged=False),
)


@dataclass
class Row:
    """MB/s, round by round, and the largest memory of a scrub in bytes."""

    shape: Shape
    bytes: int
    packs: int
    chunks: int
    hashing: list[float]
    scrub: list[float]
    command: list[float]
    peak: int

    @property
    def ratio(self) -> float:
        """Return the speed of scrub over that of hashing, the median of the rounds."""
        return statistics.median(mine / other for mine, other in zip(self.scrub, self.hashing, strict=True))


def fill(place: Path, shape: Shape, seed: int = 1) -> int:
    """Write the repository, with one point that needs every chunk; return how many chunks it has."""
    draw = random.Random(seed)
    noise = draw.randbytes(4 * MIB)
    count = 0
    left = shape.mib * MIB
    needs = bytearray()
    with Repository.create(place, clock=SystemClock()) as repository:
        writer = repository.writer(DOMAIN, TENANT)
        while left > 0:
            size = draw.randrange(shape.smallest, shape.largest)
            start = draw.randrange(len(noise) - size)
            chunk_id = blake3(count.to_bytes(8, "big")).digest()
            writer.append(ChunkRecord(chunk_id, b"K" * 32, 0, size, memoryview(noise)[start : start + size]))
            needs += chunk_id
            count += 1
            left -= size
        writer.close()
        repository.commit_point(TENANT, JOB, b"p" * 16, b"head", bytes(needs), domain=DOMAIN)
    return count


def packs_of(place: Path) -> list[Path]:
    """Return the packs of a repository."""
    return sorted((place / "packs").glob("*/*"))


def hash_by_files(paths: list[Path], cores: int) -> None:
    """Hash files with a thread for each core: each reads a file from end to end."""
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(_hash_file, paths))


def _hash_file(path: Path) -> bytes:
    hasher = blake3()
    buffer = bytearray(MIB)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(view[:count])
    return hasher.digest()


def hash_as_b3sum(paths: list[Path]) -> None:
    """Hash files one after the other, each mapped into memory and by all cores, as b3sum does."""
    for path in paths:
        blake3(max_threads=blake3.AUTO).update_mmap(path).digest()


def best_hashing(paths: list[Path], size: int, cores: int) -> float:
    """Return the MB/s of the faster of two ways to hash files with all cores."""
    return max(_rate(size, lambda: hash_by_files(paths, cores)), _rate(size, lambda: hash_as_b3sum(paths)))


def _rate(size: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return size / 1e6 / (time.perf_counter() - began)


def measure(shape: Shape, folder: Path, rounds: int) -> Row:
    """Measure one repository."""
    home = Home.create(folder / "home")
    create_identity(home.path, "bench", SystemClock())
    home.config_path.write_text('[node]\nname = "bench"\n[repositories.main]\n')
    place = home.repository_path("main")
    chunks = fill(place, shape)
    paths = packs_of(place)
    size = sum(path.stat().st_size for path in paths)
    cores = len(os.sched_getaffinity(0))
    row = Row(shape, size, len(paths), chunks, [], [], [], 0)
    best_hashing(paths, size, cores)  # into the page cache, as far as there is room
    for _ in range(rounds):
        row.hashing.append(best_hashing(paths, size, cores))
        done = run_command([sys.executable, "-m", "transporter", "--home", str(home.path), "--json", "scrub", "main"])
        inner = float(json.loads(done.output.splitlines()[-1])["seconds"])
        row.scrub.append(size / 1e6 / inner)
        row.command.append(size / 1e6 / done.seconds)
        row.peak = max(row.peak, done.usage.peak)
    return row


def table(rows: list[Row], rounds: int, machine: dict[str, str]) -> str:
    """Return the report."""
    lines = [
        "# Benchmark of scrub",
        "",
        "Made by `make bench-scrub` (loadtest/scrub.py): the packs of a repository are hashed with all cores, by the",
        "faster of two ways (a thread for each core, each with its own files; every file mapped and hashed by",
        "all cores, as b3sum does), and then scrubbed by `transporter scrub`, round after round. Both find the packs",
        "in the page cache, as far as there is room. A scrub hashes the same bytes, and compares every record with the",
        "index and every need of a point with what is stored. The ratio is the median over the rounds, of the scrub",
        "without the start of its process; *command* has that in it. Speeds mean little on a machine that is busy.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine, over a minute: {machine['before']} before, {machine['after']} after; rounds: {rounds}",
        "",
        f"Must: scrub ≥ {LEAST_RATIO} of hashing, memory ≤ {PEAK_MIB} MiB.",
        "",
        "| repository | packs | chunks | hashing, MB/s | scrub, MB/s | command, MB/s | ratio | memory | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        hashing, mine, command = (statistics.median(rates) for rates in (row.hashing, row.scrub, row.command))
        figures = f"{hashing:.0f} | {mine:.0f} | {command:.0f} | {row.ratio:.2f} | {row.peak / MIB:.0f} MiB"
        lines.append(f"| {row.shape.what} | {row.packs:,} | {row.chunks:,} | {figures} | {_verdict(row)} |")
    return "\n".join(lines) + "\n"


def _verdict(row: Row) -> str:
    if not row.shape.judged:
        return "not judged"
    missed = [
        name for name, well in (("ratio", row.ratio >= LEAST_RATIO), ("memory", row.peak <= PEAK_MIB * MIB)) if not well
    ]
    return f"**missed**: {', '.join(missed)}" if missed else "reached"


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Return the figures."""
    found = []
    for row in rows:
        if row.shape.judged:
            fast, small = row.ratio >= LEAST_RATIO, row.peak <= PEAK_MIB * MIB
            found += [
                Verdict("scrub: speed against hashing", f"≥ {LEAST_RATIO:g} ×", f"{row.ratio:.2f} ×", fast),
                Verdict("scrub: memory", f"≤ {PEAK_MIB} MiB", f"{row.peak / MIB:.0f} MiB", small),
            ]
    return found


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-scrub.md and its section of docs/benchmarks.md."""
    from . import sections

    parser = argparse.ArgumentParser(prog="python -m loadtest scrub", description="scrub against hashing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=0, help="size of each repository instead of the usual ones")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MIB} MiB each, once; judges nothing")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.mib, chosen.rounds = QUICK_MIB, 1
    before = _load()
    rows = []
    for shape in SHAPES:
        folder = Path(tempfile.mkdtemp(prefix="transporter-scrub-", dir=chosen.work))
        try:
            rows.append(measure(replace(shape, mib=chosen.mib or shape.mib), folder, chosen.rounds))
            machine = describe(folder)
        finally:
            shutil.rmtree(folder)
    text = table(rows, chosen.rounds, {**machine, "before": before, "after": _load()})
    (chosen.out / "bench-scrub.md").write_text(text)
    sections.put(chosen.out, "scrub", verdicts(rows), quick=chosen.quick)
    print(text)
    return int(not chosen.quick and "missed" in text)


def _load() -> str:
    return Path("/proc/loadavg").read_text().split()[0]

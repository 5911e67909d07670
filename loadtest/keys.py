"""What years of restore points cost when a password changes, and in a drill: one home, its own repository, on the disk.

The points are put into the repository as files, without the syncs of a commit, since nobody measures that here; what is
measured is the product's own code, with every flush that it makes: `rewrap` and `drill`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio
from blake3 import blake3

from transporter.catalog import Catalog
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.context import JobContext
from transporter.jobs.drill import drill
from transporter.jobs.rewrap import rewrap
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.password import UserKey
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.link.identity import create_identity
from transporter.points.assemble import Place, PointFacts, assemble_sealed
from transporter.points.run_keys import RunKeys
from transporter.repository import PointRef, Repository
from transporter.repository import points as point_files
from transporter.repository.layout import Layout

from .machine import describe
from .measure import BenchError

REWRAP_A_SECOND = 2000
DRILL_SECONDS = 60.0
DRILL_POINTS = 10_000
TENANTS, JOBS = 4, 5
CONFIG = '[node]\nname = "offsite"\n[repositories.main]\nencrypt_at_rest = "vault"\n'


@dataclass(frozen=True)
class Row:
    """One work: points gone through, and the seconds of each round."""

    work: str
    points: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Points a second, by the median."""
        return self.points / self.median


def fill(store: Repository, user_key: UserKey, count: int) -> None:
    """Put ``count`` sealed points of some tenants and jobs into a repository, each with one slot and a ring of five."""
    clock, layout = SystemClock(), Layout(store.path)
    for number in range(count):
        tenant, job = f"tenant-{number % TENANTS}", f"job-{number // TENANTS % JOBS}"
        keys = RunKeys(ChunkIdKey.generate(clock), SessionKey.generate(clock), MetaKey.generate(clock))
        for _ in range(2):
            older = SessionKey.generate(clock)
            keys.older_session_keys[older.key_id] = older
        place = Place(tenant, job, store.repository_id, clock.random_bytes(16), b"D" * 16, "target")
        facts = PointFacts(
            kind="full",
            created_ns=clock.now_ns(),
            workload="tree",
            manifest=[],
            needs_hash=blake3(b"").digest(),
            statistics={"bytes": 0, "files": 0},
        )
        head, slots, _ = assemble_sealed(place, facts, keys, user_key, clock)
        ref = PointRef(tenant, job, place.point_id, place.domain, clock.now_ns(), 0, b"")
        path = layout.point(tenant, job, place.point_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(point_files.point_parts(store.repository_id, ref, head, ())))
        for slot_id, slot in slots:
            path = layout.slot(place.point_id, slot_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(point_files.encode_slot(place.point_id, slot_id, slot))


def measure(folder: Path, count: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Change the password ``rounds`` times, with a drill after each; every point must be met, and open, each time."""
    clock = SystemClock()
    home = Home.create(folder / "home")
    home.config_path.write_text(CONFIG)
    identity = create_identity(home.path, "offsite", clock)
    with ExitStack() as stack:
        catalog = stack.enter_context(Catalog(home.catalog_db))
        keys = stack.enter_context(KeyDatabase(home.keys_db, clock=clock))
        context = JobContext(home, load_config(home.config_path), identity, catalog, keys, clock, EventBus())
        with Repository.create(home.repository_path("main"), clock=clock, encrypted=True) as store:
            say(f"{count:,} points …")
            fill(store, keys.add_password("vault", b"the first"), count)
        times: dict[str, list[float]] = {"change a password": [], "drill": []}
        for number in range(rounds):
            keys.change_password("vault", f"password {number}".encode())
            began = time.monotonic()
            report = trio.run(rewrap, context)
            times["change a password"].append(time.monotonic() - began)
            if report.replaced != count:
                raise BenchError(f"{report.replaced} of {count} slots were replaced")
            began = time.monotonic()
            found = trio.run(drill, context)
            times["drill"].append(time.monotonic() - began)
            if found.points != count or found.closed:
                raise BenchError(f"the drill met {found.points} of {count} points, {len(found.closed)} do not open")
            say(f"round {number + 1}: " + ", ".join(f"{work} {row[-1]:.2f} s" for work, row in times.items()))
    return [Row(work, count, tuple(row)) for work, row in times.items()]


def table(rows: list[Row], machine: dict[str, str]) -> str:
    """Return the report; ``machine``: what is said of it."""
    change, drilled = rows
    lines = [
        "# Benchmark of keys",
        "",
        "Made by `make bench-keys` (loadtest/keys.py): a home that seals, a repository on the disk, all flushes made;",
        f"{change.points:,} points of {TENANTS} tenants and {TENANTS * JOBS} jobs; medians of {len(change.seconds)}.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        "",
        "| work | seconds | points a second | must | |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    reached = {
        change.work: (f"≥ {REWRAP_A_SECOND:,} points a second", change.rate >= REWRAP_A_SECOND),
        drilled.work: (
            f"{DRILL_POINTS:,} points in ≤ {DRILL_SECONDS:.0f} s",
            DRILL_POINTS / drilled.rate <= DRILL_SECONDS,
        ),
    }
    for row in rows:
        must, well = reached[row.work]
        verdict = "reached" if well else "**missed**"
        lines.append(f"| {row.work} | {row.median:.2f} | {row.rate:,.0f} | {must} | {verdict} |")
    return "\n".join(lines) + "\n"


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-keys.md."""
    parser = argparse.ArgumentParser(prog="python -m loadtest keys", description="a password's change, and a drill")
    parser.add_argument("--points", type=int, default=DRILL_POINTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="transporter-keys-", dir=chosen.work))
    try:
        text = table(measure(folder, chosen.points, chosen.runs, print), describe(folder))
    finally:
        shutil.rmtree(folder)
    (chosen.out / "bench-keys.md").write_text(text)
    print(text)
    return int("missed" in text)

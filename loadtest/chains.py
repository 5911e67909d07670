"""What retention, transform and a copy cost over a long chain: a source and a target's daemon, loopback, real points.

The points are sealed by the product's own code, a session's keys each, as after so many runs of a job on a small tree.
What is measured is the command as a person gives it, from its start to its end; everything is on the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from transporter.catalog import Catalog
from transporter.catalog_chain import ChainPoint
from transporter.clock import SystemClock
from transporter.points.assemble import Place, PointFacts, assemble_sealed
from transporter.points.run_keys import begin_run
from transporter.repository import PointRef, Repository
from transporter.repository import points as point_files
from transporter.repository.layout import Layout
from transporter.repository.point_head import decode_head

from .machine import describe
from .measure import BenchError, DaemonMeter, read_log, wrapped
from .search import Filling, make_pair, serving

POINTS, FILES = 1_000, 20
SECONDS = 10.0
JOB, DESTINATION, COPIED_TO = "docs", "offsite/main", "here"


@dataclass(frozen=True)
class Row:
    """One command: points before and after, its seconds, processor seconds of itself and of the target's daemon."""

    work: str
    before: int
    after: int
    seconds: float
    cpu: float
    target_cpu: float
    peak: int
    load: float


COMMANDS = {
    "retention, says what goes": ("retention", JOB, "--keep-last", "1", "--dry-run"),
    "retention, all but one go": ("retention", JOB, "--keep-last", "1"),
    "transform, all but one are folded": ("transform", JOB, "--keep", "1"),
    "copy, all to a repository of the source's node": ("copy", JOB, "--from", DESTINATION, "--to", COPIED_TO),
}


GOING = ("retention, all but one go",)
# Each point is durable by itself, a few flushes each, and so the disk's: its time must go with the number, no more.
TOLD = ("copy, all to a repository of the source's node",)


def make(folder: Path, points: int, say: Callable[[str], None]) -> None:
    """Make both homes; the source may remove points at the target, and remembers all that it committed."""
    began = time.monotonic()
    far, _near = make_pair(folder, FILES, 1, say, lambda far: lengthen(far, points - 1))
    with Catalog(folder / "B" / "catalog.db") as catalog:
        catalog.set_may_remove("office", "main", allowed=True)
    words = ("--home", str(folder / "A"), "repository", "add", COPIED_TO)
    subprocess.run([sys.executable, "-m", "transporter", *words], check=True, capture_output=True)
    with Repository.open(folder / "B" / "repositories" / "main", SystemClock(), writable=False) as store:
        rows = [ChainPoint(ref.point_id, ref.hash, ref.committed_ns) for ref in store.points(far.tenant, JOB)]
    with Catalog(folder / "A" / "catalog.db") as catalog:
        catalog.put_chain(DESTINATION, JOB, rows)
    say(f"{len(rows)} points in {time.monotonic() - began:.0f} s")


def lengthen(far: Filling, count: int) -> None:
    """Add points of runs that found nothing new: each sealed by a session of its own, with the keys of the one before.

    They are put there as files, without the syncs of a commit, since nobody measures that here.
    """
    store, clock, keys = far.store, far.clock, far.keys
    (first,) = store.points(far.tenant, far.job)
    head = decode_head(store.read_head(far.tenant, far.job, first.point_id))
    needs = b"".join(store.read_needs(far.tenant, far.job, first.point_id))
    user_key, layout = keys.user_key(far.password), Layout(store.path)
    facts = PointFacts(
        kind="incremental",
        created_ns=head.created_ns,
        workload=head.workload,
        manifest=head.manifest,
        needs_hash=head.needs_hash,
        statistics=head.statistics,
        fsi=[] if head.fsi is msgspec.UNSET else head.fsi,
    )
    label, parent = f"{DESTINATION}/{far.job}", (first.point_id, first.hash)
    for number in range(count):
        point = clock.random_bytes(16)
        run = begin_run(keys, user_key, label, point, far.ring, clock)
        place = Place(far.tenant, far.job, store.repository_id, point, first.domain, far.zone, *parent)
        sealed, slots, storage_key = assemble_sealed(place, facts, run, user_key, clock)
        keys.put_storage_key(point, storage_key, user_key)
        keys.forget_runs(label)
        ref = PointRef(far.tenant, far.job, point, first.domain, first.committed_ns + (number + 1) * 10**6, 0, b"")
        content = b"".join(point_files.point_parts(store.repository_id, ref, sealed, (needs,)))
        layout.point(far.tenant, far.job, point).write_bytes(content)
        for slot_id, slot in slots:
            path = layout.slot(point, slot_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(point_files.encode_slot(point, slot_id, slot))
        parent = (point, content[-32:])


def measure(folder: Path, points: int, say: Callable[[str], None]) -> list[Row]:
    """Carry out each command on a chain of its own."""
    make(folder / "made", points, say)
    rows = []
    for number, (work, command) in enumerate(COMMANDS.items()):
        homes = Path(shutil.copytree(folder / "made", folder / f"tried-{number}"))
        os.sync()
        rows.append(one(homes, work, command, points))
        say(f"{work}: {rows[-1].seconds:.2f} s, processor {rows[-1].cpu:.2f} and {rows[-1].target_cpu:.2f} s")
        shutil.rmtree(homes)
    return rows


def one(homes: Path, work: str, command: tuple[str, ...], points: int) -> Row:
    """Run a command at the source."""
    with serving(homes / "B") as (daemon, port):
        with Catalog(homes / "A" / "catalog.db") as catalog:
            peer = catalog.peer("offsite")
            assert peer is not None
            catalog.put_peer(replace(peer, address=f"127.0.0.1:{port}"))
        with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
            log = Path(scratch, "usage")
            words = [sys.executable, "-m", "transporter", "--home", str(homes / "A"), *command]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            with DaemonMeter(daemon) as meter:
                began = time.monotonic()
                done = subprocess.run(wrapped(log, words), capture_output=True, env=environment, check=False)
                seconds = time.monotonic() - began
            if done.returncode:
                raise BenchError(f"{work} ended with {done.returncode}: {done.stderr[-2000:].decode(errors='replace')}")
            (usage,) = read_log(log)
    place = homes / "A" / "repositories" / COPIED_TO if "copy" in command else homes / "B" / "repositories" / "main"
    with Repository.open(place, SystemClock(), writable=False) as store:
        (tenant,) = store.tenants()
        after = len(store.points(tenant, JOB))
    expected = 2 if "transform" in command else 1 if work in GOING else points
    if after != expected:
        raise BenchError(f"{work}: {after} points are left, and should be {expected}")
    return Row(work, points, after, seconds, usage.cpu, meter.usage.cpu, usage.peak, os.getloadavg()[0])


def table(rows: list[Row], machine: dict[str, str]) -> str:
    """Return the page."""
    lines = [
        "# Benchmark of long chains",
        "",
        "Made by `make bench-chain` (loadtest/chains.py): a job's restore points at a target, sealed at the source,",
        "each of a session of its own; the source remembers every one, and has its storage key. Each command is given",
        "as a person does, the target's daemon runs, the source's does not; what goes is gone at once, durably at both",
        "ends (no recycle bin).",
        "A machine that others use shows more seconds than processor seconds: the load stands beside each.",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        "",
        f"Must: {POINTS:,} points in ≤ {SECONDS:.0f} s; the copy is told: each of its points is durable by itself.",
        "",
        "| work | points before, after | seconds | processor: command, s | target's daemon, s | memory | load | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        verdict = "told" if row.work in TOLD else "reached" if row.seconds <= SECONDS else "**missed**"
        lines.append(
            f"| {row.work} | {row.before:,}, {row.after:,} | {row.seconds:.2f} | {row.cpu:.2f} | {row.target_cpu:.2f} |"
            f" {row.peak / (1 << 20):.0f} MiB | {row.load:.1f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-chain.md."""
    parser = argparse.ArgumentParser(prog="python -m loadtest chain", description=__doc__)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the report (default docs)")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), help="where to work (default /var/tmp)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-chain-", dir=chosen.work) as folder:
        rows = measure(Path(folder), chosen.points, lambda line: print(line, flush=True))
        text = table(rows, describe(Path(folder)))
    (chosen.out / "bench-chain.md").write_text(text, encoding="utf-8")
    print(text)
    return int("**missed**" in text)

"""What a search costs: a tree of many files in several points, searched by a process that has just been started.

The files are made up, but everything that is searched is written by the product's own code: the manifest and its
file-system index, cut, named, packed, sealed and committed as in a backup. Only the tree is not read, and chunks do not
cross a line on their way in. Searched is with the product's command: near (in the node's own repository) and far (at a
peer, over loopback).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from pipeline.compress import compress
from transporter.catalog import Catalog, Peer
from transporter.clock import Clock, SystemClock
from transporter.home import Home
from transporter.jobs.manifest_stream import ManifestStream
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import MetadataChunk
from transporter.keys.database import KeyDatabase
from transporter.keys.key_ring import KeyRing
from transporter.link.identity import create_identity
from transporter.points.assemble import Place, PointFacts, assemble_sealed
from transporter.points.domain import domain_of
from transporter.points.run_keys import RunKeys, begin_run
from transporter.repository import ChunkRecord, Repository
from transporter.workloads.cached_manifest import CachedManifest
from transporter.workloads.entry import Entry, pack_extents

from .machine import describe
from .measure import BenchError, background, read_log, wrapped

# In all a million indexed files.
FILES, POINTS = 200_000, 5
FIRST_SECONDS, ALL_SECONDS, PEAK_MIB = 0.5, 5.0, 160
FILES_IN_FOLDER = 30
# Of each folder one file in three changes where anything does: a hundredth of the folders between two runs.
CHANGED_FOLDERS = 100
BATCH = 8192
CONTENT = b"what every file of the made-up tree holds"
DAY_NS = 86_400 * 10**9
START_NS = 1_767_225_600 * 10**9
KINDS = ("txt", "pdf", "jpg", "odt", "c", "h", "py", "html", "log", "xlsx")
WORDS = ("report", "invoice", "draft", "photo", "module", "minutes", "budget", "letter", "scan", "backup")


@dataclass(frozen=True)
class Question:
    """A search that is measured. ``judged``: its figures must be reached."""

    what: str
    arguments: tuple[str, ...]
    judged: bool = True


QUESTIONS = (
    Question("a name that many have", ("invoice-*1.pdf",)),
    Question("a name of one file", ("scan-{last}.*",)),
    Question("a path", ("dept-03/**/draft-*.py",)),
    Question("by size and date alone", ("*", "--size", ">7M", "--modified-after", "2025-12-01")),
    Question("the first 100 of all", ("*", "--limit", "100")),
    Question("everything", ("*",), judged=False),
)


@dataclass(frozen=True)
class Row:
    """One measured search: seconds, and bytes of memory at the most. ``daemon``: one runs at the node that searches."""

    where: str
    daemon: bool
    question: Question
    lines: int
    first: float
    whole: float
    cpu: float
    peak: int


def tree(files: int, run: int) -> Iterator[Entry]:
    """Yield the entries of the tree as the run of that number finds it, in path order."""
    extents = [pack_extents([(_content_id(), 0, 0)])]
    for folder in range(-(-files // FILES_IN_FOLDER)):
        path = b"srv/dept-%02d/project-%05d" % (folder * 40 // max(1, files // FILES_IN_FOLDER), folder)
        changed = sum(folder % CHANGED_FOLDERS == 7 * earlier for earlier in range(1, run + 1))
        yield Entry(path, "d", mtime_ns=START_NS + changed, mode=0o755)
        chance = random.Random(folder)
        for number in range(folder * FILES_IN_FOLDER, min(files, (folder + 1) * FILES_IN_FOLDER)):
            size = chance.randrange(1 << chance.randrange(4, 24))
            moved = changed if number % 3 == 0 else 0
            yield Entry(
                b"%s/%s" % (path, _name(number).encode()),
                "f",
                size=size + moved,
                mtime_ns=START_NS - chance.randrange(700 * DAY_NS) + moved * DAY_NS,
                ctime_ns=START_NS,
                dev=2,
                inode=number,
                user=b"office",
                group=b"staff",
                packed_extents=extents[0],
            )


def _name(number: int) -> str:
    # In name order within a folder, as a reader of folders finds them: the words go with the place in it.
    place = number % FILES_IN_FOLDER
    return f"{sorted(WORDS)[place // 3]}-{number:07d}.{KINDS[number % len(KINDS)]}"


def _content_id() -> bytes:
    return blake3(CONTENT).digest()


@dataclass
class Filling:
    """Where points are written, and by whom: the end that seals."""

    store: Repository
    keys: KeyDatabase
    password: str
    tenant: str
    job: str
    zone: str
    clock: Clock
    scratch: Path
    ring: KeyRing | None = None
    parent: tuple[bytes, bytes] = (b"", b"")
    fsi_blocks: int = 0
    fsi_stored: int = 0
    manifest_stored: int = 0
    entries: int = 0

    def write_point(self, files: int, run: int) -> None:
        """Write the point of one run."""
        domain = domain_of(self.tenant, self.job)
        point = self.clock.random_bytes(16)
        user_key = self.keys.user_key(self.password)
        label = f"offsite/main/{self.job}" if self.zone == "source" else f"{self.tenant}/{self.job}"
        run_keys = begin_run(self.keys, user_key, label, point, self.ring, self.clock)
        with ExitStack() as stack:
            needs = stack.enter_context(closing(Needs(self.scratch)))
            writer = self.store.writer(domain, self.tenant)
            cache = CachedManifest(self.scratch / "manifest").writer(point)
            stream = ManifestStream(run_keys.chunk_id_key.id_of, needs, cache, [b"srv"])
            writer.append(self._record(run_keys, MetadataChunk(_content_id(), CONTENT), metadata=False))
            for batch in _batches(tree(files, run)):
                self.entries += len(batch)
                stream.add(batch)
                self._store(writer.append, run_keys, domain, stream.take())
            self._store(writer.append, run_keys, domain, stream.take(last=True))
            stream.close()
            writer.close()
            place = Place(self.tenant, self.job, self.store.repository_id, point, domain, self.zone, *self.parent)
            facts = PointFacts(
                kind="incremental" if run else "full",
                created_ns=START_NS + run * DAY_NS,
                workload="tree",
                manifest=stream.chunks,
                needs_hash=needs.digest(),
                statistics={"bytes": files, "files": files},
                fsi=stream.fsi_chunks,
            )
            head, slots, storage_key = assemble_sealed(place, facts, run_keys, user_key, self.clock)
            self.keys.put_storage_key(point, storage_key, user_key)
            point_hash = self.store.commit_point(self.tenant, self.job, point, head, needs.parts(), slots=slots)
        self.keys.forget_runs(label)
        self.ring, self.parent = run_keys.ring(), (point, point_hash)

    def _store(
        self, append: Callable[[ChunkRecord], None], keys: RunKeys, domain: bytes, chunks: list[MetadataChunk]
    ) -> None:
        stored = self.store.have(domain, [chunk.chunk_id for chunk in chunks])
        for chunk, known in zip(chunks, stored, strict=True):
            if known:
                continue
            record = self._record(keys, chunk, metadata=True)
            append(record)
            if chunk.fsi:
                self.fsi_blocks += 1
                self.fsi_stored += len(record.stored)
            else:
                self.manifest_stored += len(record.stored)

    @staticmethod
    def _record(keys: RunKeys, chunk: MetadataChunk, *, metadata: bool) -> ChunkRecord:
        codec, coded = compress(chunk.data)
        sealer = keys.sealer(metadata=metadata, fsi=chunk.fsi)
        sealed = sealer.seal(chunk.chunk_id, codec, len(chunk.data), coded)
        return ChunkRecord(chunk.chunk_id, sealer.key_id, codec, len(chunk.data), sealed)


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def make_pair(
    folder: Path,
    files: int,
    points: int,
    say: Callable[[str], None],
    more: Callable[[Filling], None] = lambda _filling: None,
) -> tuple[Filling, Filling]:
    """Make a source and a target that know each other, and the points: sealed by either, all of them at the target.

    ``more`` may add to those of the source, while everything is open.
    """
    clock = SystemClock()
    with ExitStack() as stack:
        source, target = (Home.create(folder / name) for name in ("A", "B"))
        target.config_path.write_text(
            '[node]\nname = "offsite"\nlisten = "127.0.0.1:0"\n[repositories.main]\n', encoding="utf-8"
        )
        source.config_path.write_text(
            '[node]\nname = "office"\nlisten = "127.0.0.1:0"\n[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\n'
            'password = "office"\n'
            'paths = ["/srv"]\n',
            encoding="utf-8",
        )
        pins = [create_identity(home.path, name, clock).pin for home, name in ((source, "office"), (target, "offsite"))]
        catalogs = [stack.enter_context(Catalog(home.catalog_db)) for home in (source, target)]
        keys = [stack.enter_context(KeyDatabase(home.keys_db, clock=clock)) for home in (source, target)]
        for database, name in zip(keys, ("office", "vault"), strict=True):
            database.add_password(name, b"a password of the bench")
        tenant = f"office-{pins[0].hex()[:8]}"
        catalogs[1].put_peer(Peer("office", pins[0], tenant=tenant, rights=("main",)))
        catalogs[0].put_peer(Peer("offsite", pins[1], "127.0.0.1:1", offers=("main",)))
        store = stack.enter_context(Repository.create(target.repository_path("main"), clock=clock))
        far = Filling(store, keys[0], "office", tenant, "docs", "source", clock, folder)
        near = Filling(store, keys[1], "vault", tenant, "here", "target", clock, folder)
        for filling in (far, near):
            for run in range(points):
                began = time.monotonic()
                filling.write_point(files, run)
                say(f"{filling.job}: point {run + 1} of {points}, {time.monotonic() - began:.1f} s")
        more(far)
    return far, near


def ask(home: Path, question: Question, last: int, where: str, job: str, *, daemon: int = 0) -> Row:
    """Run one search as a person does. ``daemon``: the process id of the node's, which gets it handed over."""
    arguments = [one.format(last=f"{last:07d}") for one in question.arguments]
    command = [sys.executable, "-m", "transporter", "--home", str(home), "--json", "search", *arguments, "--job", job]
    with tempfile.TemporaryDirectory(prefix="measure-") as scratch, tempfile.TemporaryFile() as errors:
        log = Path(scratch, "usage")
        began = time.monotonic()
        first = 0.0
        lines = 0
        # As installed: its modules are compiled once, not for each command.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(wrapped(log, command), stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if line.startswith(b'{"point"'):
                    first = first or time.monotonic() - began
                    lines += 1
        status = process.wait()
        whole = time.monotonic() - began
        if status:
            errors.seek(0)
            raise BenchError(f"search ended with {status}: {errors.read()[-2000:].decode(errors='replace')}")
        (usage,) = read_log(log)
    return Row(where, bool(daemon), question, lines, first, whole, usage.cpu, max(usage.peak, _peak_of(daemon)))


def measure(folder: Path, files: int, points: int, say: Callable[[str], None]) -> tuple[list[Row], Filling]:
    """Make the points and ask every question near and far; the last file's place is the worst for the first line."""
    far, near = make_pair(folder, files, points, say)
    last = next(n for n in range(files - 1, 0, -1) if _name(n).startswith("scan"))
    near_home, far_home = folder / "B", folder / "A"

    def rows_of(home: Path, where: str, job: str, *, daemon: int = 0) -> list[Row]:
        return [_said(say, ask(home, question, last, where, job, daemon=daemon)) for question in QUESTIONS]

    ask(near_home, QUESTIONS[1], last, "near", "here")  # compiles, and warms what the kernel keeps
    rows = rows_of(near_home, "near", "here")
    with serving(near_home) as (daemon, port):
        rows += rows_of(near_home, "near", "here", daemon=daemon)
        with Catalog(far_home / "catalog.db") as catalog:
            peer = catalog.peer("offsite")
            assert peer is not None
            catalog.put_peer(replace(peer, address=f"127.0.0.1:{port}"))
        rows.append(_said(say, ask(far_home, QUESTIONS[1], last, "far, first time", "docs")))
        rows += rows_of(far_home, "far", "docs")
        with serving(far_home) as (searching, _):
            rows += rows_of(far_home, "far", "docs", daemon=searching)
    del near
    return rows, far


@contextmanager
def serving(home: Path) -> Iterator[tuple[int, int]]:
    """Run the daemon of a home; yield its process id and the port that it listens at."""
    log = home / "serve.log"
    with background([sys.executable, "-m", "transporter", "--home", str(home), "serve"], log) as process:
        yield process.pid, _port(log)


def _peak_of(process: int) -> int:
    """Return the most memory that a running process ever had, bytes."""
    if not process:
        return 0
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def _said(say: Callable[[str], None], row: Row) -> Row:
    say(
        f"{row.where}, {_by(row)}, {row.question.what}: {row.lines:,} lines, "
        f"{row.first:.2f} s, {row.whole:.2f} s, {_mib(row.peak)}"
    )
    return row


def _by(row: Row) -> str:
    return "by the daemon" if row.daemon else "no daemon"


def _port(log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = re.search(rb"127\.0\.0\.1:(\d+)", log.read_bytes() if log.exists() else b"")
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise BenchError("the target's daemon did not say where it listens")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def table(rows: list[Row], far: Filling, files: int, points: int, machine: dict[str, str]) -> str:
    """Return the report."""
    lines = [
        "# Benchmark of search",
        "",
        "Made by `make bench-search` (loadtest/search.py): each search is a command, started for it; where the node's",
        "daemon runs, it hands the search over, else it imports and opens everything itself. Far is over loopback. The",
        "node that searches far has the blocks of the index in its sealed cache, as one that made the backups; the row",
        "*first time* is of one that has none. Seconds count from the start of the command; processor seconds are its",
        "own; memory is the command's or the daemon's, whichever has more (a daemon's grows with what it did before).",
        "",
        *(f"- {label}: {machine[label]}" for label in ("processor", "memory", "system", "Python")),
        f"- load of the machine while it was measured, over one minute: {machine['load']}; there, a command that only",
        f"  says its version takes {machine['start']}",
        f"- tree: {files:,} files in {points} points, {far.entries:,} entries in all; a hundredth of the folders",
        f"  changes from one point to the next: {far.fsi_blocks:,} different blocks of the index are read and searched",
        f"- stored, packed by lz4 and sealed: {_mib(far.fsi_stored)} of index, {far.fsi_stored / files:.1f} bytes a "
        f"file of the tree, beside {_mib(far.manifest_stored)} of manifest",
        "",
        f"Must: first line ≤ {FIRST_SECONDS} s, all ≤ {ALL_SECONDS:.0f} s, memory ≤ {PEAK_MIB} MiB.",
        "",
        f"- as nodes are installed, with their daemon: {_summary([row for row in rows if row.daemon])}",
        f"- a command alone, which must import and open everything first: "
        f"{_summary([row for row in rows if not row.daemon])}",
        "",
        "| where | by | looked for | lines | first, s | all, s | processor, s | memory | |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        words = " ".join(row.question.arguments).replace("{last}", "…").replace("|", "\\|")
        figures = f"{row.lines:,} | {row.first:.2f} | {row.whole:.2f} | {row.cpu:.2f} | {_mib(row.peak)}"
        by = _by(row).removeprefix("by ")
        lines.append(f"| {row.where} | {by} | {row.question.what}: `{words}` | {figures} | {_verdict(row)} |")
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row]) -> str:
    judged = [row for row in rows if row.question.judged]
    well = sum(_verdict(row) == "reached" for row in judged)
    first = f"first lines after {min(row.first for row in judged):.2f} to {max(row.first for row in judged):.2f} s"
    verdict = "reached" if well == len(judged) else "missed"
    return f"{verdict}: {well} of {len(judged)} searches reach it; {first}"


def _verdict(row: Row) -> str:
    if not row.question.judged:
        return "not judged"
    missed = [
        name
        for name, well in (
            ("first", row.first <= FIRST_SECONDS),
            ("all", row.whole <= ALL_SECONDS),
            ("memory", row.peak <= PEAK_MIB << 20),
        )
        if not well
    ]
    return f"**missed**: {', '.join(missed)}" if missed else "reached"


def run(arguments: list[str]) -> int:
    """Measure, and write docs/bench-search.md."""
    parser = argparse.ArgumentParser(prog="python -m loadtest search", description="searches in large points")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="transporter-search-", dir=chosen.work))
    try:
        rows, far = measure(folder, chosen.files, chosen.points, print)
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "transporter", "--version"], check=True, stdout=subprocess.DEVNULL)
        start = f"{time.monotonic() - began:.2f} s"
        machine = {**describe(folder), "load": Path("/proc/loadavg").read_text().split()[0], "start": start}
        text = table(rows, far, chosen.files, chosen.points, machine)
    finally:
        if not chosen.keep:
            shutil.rmtree(folder)
    (chosen.out / "bench-search.md").write_text(text)
    print(text)
    # What a command alone takes is told, and no more: the figure is that of a node, and a node has its daemon.
    return int(any("missed" in _verdict(row) for row in rows if row.daemon))

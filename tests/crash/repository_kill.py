"""kill -9 of a process that writes a repository, at random moments: nothing acknowledged is lost, nothing is half-done.

python tests/crash/repository_kill.py --count 100

The victim prints what it was promised (a chunk durable, a point committed), one line each, as it is promised. Small
packs make it pass through every step of a pack's life many times in a run.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transporter.clock import SystemClock
from transporter.repository import ChunkRecord, Repository, limits

DOMAIN, KEY = b"D" * 16, b"K" * 32


def chunk(number: int) -> ChunkRecord:
    """Return the chunk of that number: the same at each call."""
    dice = random.Random(number)
    stored = dice.randbytes(dice.randint(1, 30_000))
    return ChunkRecord(number.to_bytes(32, "big"), KEY, 1, len(stored), stored)


def victim(place: Path, start: int) -> None:
    """Write until killed."""
    limits.PACK_TARGET = 60_000  # type: ignore[misc]
    repository = Repository.open(place, SystemClock())
    number = start
    while True:
        writer = repository.writer(DOMAIN, "t")
        point: list[bytes] = []
        for turn in range(20):
            record = chunk(number)
            writer.append(record)
            point.append(record.chunk_id)
            number += 1
            if turn % 4 == 3:
                promise("chunk", writer.sync())
        promise("chunk", writer.close())
        point_id = number.to_bytes(16, "big")
        slots = [(point_id, b"slot")]
        repository.commit_point("t", "j", point_id, b"head", b"".join(point), domain=DOMAIN, slots=slots)
        promise("point", [point_id])


def promise(kind: str, ids: list[bytes]) -> None:
    """Tell the other side, at once."""
    sys.stdout.write("".join(f"{kind} {identifier.hex()}\n" for identifier in ids))
    sys.stdout.flush()


def kill_once(place: Path, start: int, delay: float) -> tuple[set[bytes], set[bytes]]:
    """Run a victim for a while after its first promise, kill it; return the chunks and points it was promised."""
    command = [sys.executable, __file__, "--victim", str(place), "--start", str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(delay)  # not a wait for anything: the moment of the kill
        process.kill()
        lines += process.stdout.readlines()
    promised: dict[str, set[bytes]] = {"chunk": set(), "point": set()}
    for line in lines:
        kind, _, identifier = line.strip().partition(" ")
        if line.endswith("\n"):
            promised[kind].add(bytes.fromhex(identifier))
    return promised["chunk"], promised["point"]


def check(place: Path, chunks: set[bytes], points: set[bytes]) -> list[str]:
    """Return every promise that is broken."""
    broken: list[str] = []
    with Repository.open(place, SystemClock()) as repository:
        for chunk_id in sorted(chunks):
            expected = chunk(int.from_bytes(chunk_id, "big"))
            try:
                if bytes(repository.read(DOMAIN, chunk_id, [KEY]).stored) != expected.stored:
                    broken.append(f"chunk {chunk_id.hex()} is another")
            except Exception as error:
                broken.append(f"chunk {chunk_id.hex()}: {error}")
        listed = {ref.point_id for ref in repository.points("t", "j")}
        broken += [f"point {point_id.hex()} is gone" for point_id in sorted(points - listed)]
        for point_id in listed:
            if repository.read_head("t", "j", point_id) != b"head" or not repository.slots_of("t", "j", point_id):
                broken.append(f"point {point_id.hex()} is not whole")
            try:
                found = sum(1 for _ in repository.read_many(DOMAIN, list(repository.read_needs("t", "j", point_id))))
            except Exception as error:
                broken.append(f"point {point_id.hex()}: {error}")
            else:
                if found != 20:
                    broken.append(f"point {point_id.hex()} has {found} chunks")
        report = repository.scrub()
        broken += [
            f"{finding.where}: {finding.what}" for finding in (*report.damage, *report.repairable, *report.notes)
        ]
    return broken


def campaign(place: Path, count: int, seed: int, longest: float = 0.4) -> tuple[int, list[str]]:
    """Kill ``count`` times in one and the same repository; return the number of promises and the broken ones."""
    dice = random.Random(seed)
    Repository.create(place, clock=SystemClock()).close()
    promises = 0
    for turn in range(count):
        chunks, points = kill_once(place, (turn + 1) * 1_000_000, dice.uniform(0, longest))
        promises += len(chunks) + len(points)
        broken = check(place, chunks, points)
        if broken:
            return promises, [f"turn {turn}: {line}" for line in broken]
    return promises, []


def main() -> int:
    """Be the victim or the campaign; exit 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--victim", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.victim is not None:
        victim(arguments.victim, arguments.start)
    with tempfile.TemporaryDirectory() as folder:
        promises, broken = campaign(Path(folder) / "repository", arguments.count, arguments.seed)
    print(f"{arguments.count} kills, {promises} promises, {len(broken)} broken")
    for line in broken[:50]:
        print(f"  {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

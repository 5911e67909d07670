"""Flip one bit at a time, anywhere in a small repository, and demand that `scrub` finds each.

python tests/crash/campaign_bitflip.py --count 20000
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from transporter.clock import ManualClock
from transporter.errors import DamagedData
from transporter.repository import ChunkRecord, Repository

DOMAINS = (b"D" * 16, b"E" * 16)


def build(place: Path) -> None:
    """Make a repository with several packs, points of two tenants, slots, and close it."""
    dice = random.Random(1)
    with Repository.create(place, clock=ManualClock()) as repository:
        for turn, domain in enumerate(DOMAINS):
            tenant, key = f"tenant {turn}", dice.randbytes(32)
            for _ in range(2):
                writer = repository.writer(domain, tenant)
                records = [
                    ChunkRecord(dice.randbytes(32), key, 1, 4000, dice.randbytes(dice.randint(50, 400)))
                    for _ in range(5)
                ]
                for record in records:
                    writer.append(record)
                writer.close()
                point_id = dice.randbytes(16)
                slots = [(dice.randbytes(16), dice.randbytes(120))]
                needs = b"".join(record.chunk_id for record in records)
                head = dice.randbytes(300)
                repository.commit_point(tenant, "job", point_id, head, needs, domain=domain, slots=slots)


def is_found(place: Path) -> bool:
    """Tell whether opening and scrubbing the repository tells of damage (or of an index to rebuild)."""
    try:
        with Repository.open(place, ManualClock(), writable=False) as repository:
            return not repository.scrub().clean
    except DamagedData:
        return True


def run(place: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Flip ``count`` bits, sampled evenly over all files of the repository; return those that nothing noticed."""
    if is_found(place):
        raise SystemExit("the repository is not clean to begin with")
    for path in place.glob("index/chunks.db-*"):
        path.unlink()  # what the read-only open left; nobody has the index open
    targets = [path for path in sorted(place.rglob("*")) if path.is_file() and path.stat().st_size]
    # Files by turns, so that a large one (the index) does not take all the flips.
    dice = random.Random(seed)
    missed: list[tuple[str, int]] = []
    for number in range(count):
        path = targets[number % len(targets)]
        bit = dice.randrange(path.stat().st_size * 8)
        flip(path, bit)
        if not is_found(place):
            missed.append((str(path.relative_to(place)), bit))
        flip(path, bit)
    return missed


def flip(path: Path, bit: int) -> None:
    """Flip one bit in place."""
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, bit // 8)[0]
        os.pwrite(fd, bytes([byte ^ (1 << bit % 8)]), bit // 8)
    finally:
        os.close(fd)


def main() -> int:
    """Run the campaign; exit 1 if a flip was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="bits to flip")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "repository")
        missed = run(Path(folder) / "repository", arguments.count, arguments.seed)
    print(f"{arguments.count} bits flipped in {time.monotonic() - begun:.0f} s, {len(missed)} not found")
    for where, bit in missed[:50]:
        print(f"  not found: bit {bit} of {where}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

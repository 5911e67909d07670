"""One piece of work on a made-up repository, in a process of its own: prints what it took as JSON.

python -m loadtest.repository_work prune|doom|prune-low|rebuild|have|store PLACE [CHUNKS]
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from transporter.clock import SystemClock
from transporter.repository import ChunkRecord, PruneHooks, PruneOptions, Repository, prune_beside

from . import made_up

HAVE_BATCH = 4096
HAVE_IDS = 400_000
WRITTEN = 256 << 20
CHUNK = 1 << 20


def prune(place: Path, _chunks: int) -> Callable[[], int]:
    """Prune, and rewrite what is thin."""
    return lambda: prune_beside(place, SystemClock(), PruneOptions(grace_seconds=0), PruneHooks()).deleted_chunks


def doom(place: Path, _chunks: int) -> Callable[[], int]:
    """Find what no point needs, and delete nothing: the first of two prunes."""
    options = PruneOptions(grace_seconds=1e9)
    return lambda: prune_beside(place, SystemClock(), options, PruneHooks()).doomed_chunks


def prune_low(place: Path, chunks: int) -> Callable[[], int]:
    """Prune at low priority, as the command does."""
    os.setpriority(os.PRIO_PROCESS, 0, 15)
    return prune(place, chunks)


def rebuild(place: Path, _chunks: int) -> Callable[[], int]:
    """Make the index anew."""
    repository = Repository.open(place, SystemClock())
    return lambda: repository.rebuild_index().added


def have(place: Path, chunks: int) -> Callable[[], int]:
    """Ask for ids in no order, of which every second one is there."""
    repository = Repository.open(place, SystemClock())
    dice = random.Random(2)
    batches = [
        [made_up.chunk_id(dice.randrange(2 * chunks)) for _ in range(HAVE_BATCH)] for _ in range(HAVE_IDS // HAVE_BATCH)
    ]
    for batch in batches[: len(batches) // 4]:  # the index's upper pages, as in any session that is not at its start
        repository.have(made_up.DOMAIN, batch)

    def ask() -> int:
        for batch in batches:
            repository.have(made_up.DOMAIN, batch)
        return len(batches) * HAVE_BATCH

    return ask


def store(place: Path, _chunks: int) -> None:
    """Do what a target does in a backup (answer for chunks, store and sync them, commit a point) at each line of input.

    In a process that keeps the repository open, as a daemon does.
    """
    clock = SystemClock()
    repository = Repository.open(place, clock)
    content = random.Random(3).randbytes(CHUNK - 8)
    print("ready", flush=True)
    for _line in sys.stdin:
        began, worked = time.monotonic(), time.process_time()
        ids = []
        with repository.session():
            writer = repository.writer(made_up.DOMAIN, "beside")
            for number in range(WRITTEN // CHUNK):
                chunk_id = clock.random_bytes(32)
                repository.have(made_up.DOMAIN, [chunk_id])
                stored = number.to_bytes(8, "big") + content
                writer.append(ChunkRecord(chunk_id, made_up.KEY, 0, len(stored), stored))
                ids.append(chunk_id)
                if number % 16 == 15:
                    writer.sync()
            writer.close()
            point = clock.random_bytes(16)
            repository.commit_point("beside", "job", point, b"head", b"".join(ids), domain=made_up.DOMAIN)
        tell(WRITTEN, began, worked)


def tell(count: int, began: float, worked: float) -> None:
    """Print what a piece of work took."""
    print(
        json.dumps(
            {
                "count": count,
                "seconds": time.monotonic() - began,
                "cpu": time.process_time() - worked,
                "peak": _peak(),
            }
        ),
        flush=True,
    )


def _peak() -> int:
    """Return the most memory that was ever in use, in bytes; what getrusage says includes the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


WORKS = {"prune": prune, "doom": doom, "prune-low": prune_low, "rebuild": rebuild, "have": have}


def main() -> None:
    """Prepare, do the work, print."""
    name, place = sys.argv[1], Path(sys.argv[2])
    chunks = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if name == "store":
        store(place, chunks)
    else:
        work = WORKS[name](place, chunks)
        began, worked = time.monotonic(), time.process_time()
        tell(work(), began, worked)
    os._exit(0)  # without sealing the index: it is not part of the work


if __name__ == "__main__":
    main()

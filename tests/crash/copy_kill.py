"""Kill -9 at every step that a copy takes on its target's disk, and see what is left: python copy_kill.py [--every N].

Each step: a process that copies is killed before it; the next opens the repository, finds every visible point whole and
scrubs clean, copies again, and finds everything there. Prints how many steps there were.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3

from transporter.catalog import Catalog
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.context import JobContext
from transporter.jobs.copy import run_copy
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters
from transporter.link.identity import create_identity, load_identity
from transporter.points.domain import domain_of
from transporter.repository import PLAIN_KEY, ChunkRecord, Repository, files, limits
from transporter.repository.index import Index
from transporter.repository.point_head import PointHead, decode_head, encode_head

STEPS = ("create", "write", "write_at", "truncate", "sync_data", "sync", "sync_folder", "link", "replace", "unlink")
POINTS, CHUNKS = 2, 6
CONFIG = '[node]\nname = "node"\n[repositories.one]\n[repositories.two]\n'
JOB = "docs"


def make(folder: Path) -> None:
    """A home with two repositories: one with points, and one without."""
    home = Home.create(folder / "home")
    home.config_path.write_text(CONFIG)
    clock = SystemClock()
    pin = create_identity(home.path, "node", clock).pin
    Catalog(home.catalog_db).close()
    KeyDatabase(home.keys_db, clock=clock, parameters=KdfParameters(8, 1, 1)).close()
    Repository.create(home.repository_path("two"), clock=clock).close()
    tenant = f"node-{pin.hex()[:8]}"
    domain = domain_of(tenant, JOB)
    with Repository.create(home.repository_path("one"), clock=clock) as store:
        for number in range(POINTS):
            records = [record(CHUNKS * number // 2 + each) for each in range(CHUNKS)]
            writer = store.writer(domain, tenant)
            for one in records:
                writer.append(one)
            writer.close()
            needs = b"".join(one.chunk_id for one in records)
            point = bytes([number + 1]) * 16
            head = PointHead(
                point_id=point,
                tenant=tenant,
                job=JOB,
                kind="full",
                created_ns=clock.now_ns(),
                zone="none",
                encrypted=False,
                domain=domain,
                manifest=[],
                needs_hash=blake3(needs).digest(),
                workload="tree",
                chunk_id_key=b"k" * 32,
            )
            slots = [(bytes([number + 1]) * 16, b"slot")]
            store.commit_point(tenant, JOB, point, encode_head(head), needs, slots=slots)
            store.keeping.pin(tenant, JOB, point, "why", tenant)


def record(number: int) -> ChunkRecord:
    """A small chunk."""
    return ChunkRecord(number.to_bytes(32, "big"), PLAIN_KEY, 0, 100, b"\0" + number.to_bytes(4, "big") * 25)


def copy(folder: Path) -> int:
    """Copy all points from the one to the other; return how many."""
    home = Home(folder / "home")
    clock = SystemClock()
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db, clock=clock) as keys:
        identity = load_identity(home.path, "node", clock)
        context = JobContext(home, load_config(home.config_path), identity, catalog, keys, clock, EventBus())
        order = CopyOrder("copy", End("", "one"), End("", "two"))
        return trio.run(run_copy, context, order).points


class Killer:
    """Counts steps; before the one numbered ``at`` this process is killed."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0
        for name in STEPS:
            setattr(files, name, self.wrap(getattr(files, name)))
        Index.add_pack = self.wrap(Index.add_pack)  # type: ignore[method-assign]

    def wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return the step that is counted."""

        def step(*arguments: Any, **how: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **how)

        return step


def killed(folder: Path, at: int) -> None:
    """Copy, and be killed before a step."""
    Killer(at)
    copy(folder)


def check(folder: Path) -> None:
    """Nothing half is visible, and the next copy makes it whole."""
    home = Home(folder / "home")
    seen(home)
    copy(folder)
    assert seen(home, pinned=True) == POINTS
    assert copy(folder) == 0
    left = [path.name for path in (home.repository_path("two") / "journal").iterdir()]
    assert not left, left


def seen(home: Home, *, pinned: bool = False) -> int:
    """Return how many points are visible at the target; each must be whole, and what the original is.

    ``pinned``: and have the original's pin; else perhaps.
    """
    clock = SystemClock()
    found = 0
    with (
        Repository.open(home.repository_path("one"), clock, writable=False) as one,
        Repository.open(home.repository_path("two"), clock) as two,
    ):
        for tenant in two.tenants():
            for ref in two.points(tenant):
                found += 1
                assert ref.origin is not None
                assert ref.origin.hash == one.point_hash(tenant, JOB, ref.point_id)
                head = two.read_head(tenant, JOB, ref.point_id)
                assert decode_head(head) == decode_head(one.read_head(tenant, JOB, ref.point_id))
                assert two.slots_of(tenant, JOB, ref.point_id) == one.slots_of(tenant, JOB, ref.point_id)
                pin, original = (
                    store.keeping.pin_of(store.belongings(tenant, JOB, ref.point_id)) for store in (two, one)
                )
                assert original is not None
                if pinned or pin is not None:
                    assert pin is not None
                    assert (pin.reason, pin.first_by, pin.at_ns) == (original.reason, tenant, original.at_ns)
                for chunk_id in two.read_needs(tenant, JOB, ref.point_id):
                    here = two.read(ref.domain, chunk_id)
                    assert bytes(here.stored) == bytes(one.read(domain_of(tenant, JOB), chunk_id).stored)
        report = two.scrub()
        assert report.clean, report
    return found


def in_child(work: Callable[[], None]) -> int:
    """Run in a process of its own; return how it ended. This process never has a thread, so forking is safe."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Go through the steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="only each n-th step")
    every = parser.parse_args().every
    limits.PACK_TARGET = 600  # type: ignore[misc]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    step, bad = 0, 0
    while True:
        step += 1
        if step % every and step > 1:
            continue
        with tempfile.TemporaryDirectory(dir=memory) as name:
            folder = Path(name)
            assert in_child(partial(make, folder)) == 0
            ended = in_child(partial(killed, folder, step))
            if ended == 0:
                print(f"{step - 1} steps at most, {bad} of them bad")
                return int(bad > 0)
            if ended != -signal.SIGKILL or in_child(partial(check, folder)) != 0:
                print(f"step {step}: ended with {ended}, or left something that is not whole", file=sys.stderr)
                bad += 1


if __name__ == "__main__":
    sys.exit(main())

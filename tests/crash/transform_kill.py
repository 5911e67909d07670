"""Kill -9 at every step of a transform, at both ends, and see what is left: python transform_kill.py [--every N].

Each step: a process with a source and a target folds a job's oldest points and is killed before it. The next one opens
both, and everything that was folded can be restored by a point that is there, everything else as ever; it folds again,
and ends with the folded point and the newer ones, in order at both ends. ``--full-disk`` has the target's disk full at
that step instead, once: the transform says so, and after that all must be as after a kill. Prints how many steps there
were, and what they were.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

import structlog
import trio
from forked_workers import forked_workers
from world import CHEAP, PASSWORD, REPOSITORIES, Node, contents, make_node, make_source

from transporter.catalog import Catalog
from transporter.catalog import Peer as Paired
from transporter.catalog_chain import THERE
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.daemon.listener import Front
from transporter.errors import DiskFull
from transporter.events import SecurityEvent
from transporter.home import Home
from transporter.jobs.transform import TransformOrder, transform
from transporter.keys.database import KeyDatabase
from transporter.link.address import Address
from transporter.link.identity import load_identity
from transporter.link.listen import bound_address, open_listeners
from transporter.repository import Repository, files
from transporter.service.provider import OpenRepository, Provider

RUNS, KEPT = 4, 2
FILE_STEPS = ("create", "write", "sync", "sync_folder", "link", "replace", "make_folders", "unlink")
SOURCE_STEPS: dict[type, tuple[str, ...]] = {
    KeyDatabase: ("record", "put_storage_key", "drop_storage_keys"),
    Catalog: ("put_chain", "replace_chain", "move_chain"),
}


def make(folder: Path, job: str) -> None:
    """Both homes, a tree that changes, and a point of each of its states; the trees beside them under seen-N."""
    clock = SystemClock()
    with ExitStack() as stack:
        target = make_node(folder, "offsite", REPOSITORIES, clock, stack)
        target.keys.add_password("vault", PASSWORD)
        source = make_source(folder, "office", clock, stack)
        Repository.create(target.home.repository_path("main"), clock=clock).close()
        pin = source.identity.pin
        target.catalog.put_peer(Paired("office", pin, tenant="office", rights=("main",), removes=("main",)))
        source.catalog.put_peer(Paired("offsite", target.identity.pin, "127.0.0.1:1", offers=("main",)))
    trio.run(_backups, folder, job)


async def _backups(folder: Path, job: str) -> None:
    with forked_workers():
        async with both(folder) as (source, _store):
            for number in range(RUNS):
                (source.tree / f"of-run-{number}").write_text(f"{number} " * 50)
                await source.backup(job)
                shutil.copytree(source.tree, folder / f"seen-{number}")


@asynccontextmanager
async def both(folder: Path) -> AsyncIterator[tuple[Node, Repository]]:
    """Open both homes, and have the target serve."""
    clock = SystemClock()
    with ExitStack() as stack:
        target, source = (_open(folder, name, stack) for name in ("offsite", "office"))
        provider = Provider(target.home, target.config, target.identity, target.catalog, target.keys, clock)
        store = stack.enter_context(Repository.open(target.home.repository_path("main"), clock))
        store.keeping.purge(target.keys.drop_storage_keys)  # as the daemon does at its start
        provider.repositories["main"] = OpenRepository("main", store, target.config.repositories["main"])
        async with trio.open_nursery() as nursery:
            listeners = await open_listeners(Address("127.0.0.1", 0))
            source.dials(bound_address(listeners))
            nursery.start_soon(trio.serve_listeners, Front(provider, target.bus).take, listeners)
            yield source, store
            nursery.cancel_scope.cancel()


def _open(folder: Path, name: str, stack: ExitStack) -> Node:
    home, clock = Home(folder / name), SystemClock()
    # The tree that is backed up lies beside the homes, and they have been moved since.
    text = home.config_path.read_text()
    if name == "office":
        home.config_path.write_text("\n".join(_moved(line, folder) for line in text.splitlines()))
    catalog = stack.enter_context(Catalog(home.catalog_db))
    keys = stack.enter_context(KeyDatabase(home.keys_db, clock=clock, parameters=CHEAP))
    return Node(home, load_config(home.config_path), load_identity(home.path, name, clock), catalog, keys, clock)


def _moved(line: str, folder: Path) -> str:
    return f'paths = ["{folder / "office-tree"}"]' if line.startswith("paths") else line


async def fold(folder: Path, job: str, ready: Callable[[], None] = lambda: None) -> None:
    """Fold all but the newest points."""
    async with both(folder) as (source, _store):
        ready()
        await transform(source.context, TransformOrder(job, keep=KEPT))


class Steps:
    """Counts steps from when it is armed; before the one numbered ``at`` the process is killed, or the disk is full."""

    def __init__(self, at: int, *, full: bool) -> None:
        self.at, self.full = at, full
        self.names: list[str] = []
        self.armed = False
        for name in FILE_STEPS:
            setattr(files, name, self.wrap(name, getattr(files, name)))
        for kind, names in {} if full else SOURCE_STEPS.items():
            for name in names:
                setattr(kind, name, self.wrap(name, getattr(kind, name), after=True))

    def arm(self) -> None:
        """Count from here."""
        self.armed = True

    def wrap(self, name: str, real: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        """Return the step that is counted; ``after``: it is one whole, and what follows it is a step, too."""

        def step(*arguments: Any, **how: Any) -> Any:
            self.one(name)
            result = real(*arguments, **how)
            if after:
                self.one(f"after {name}")
            return result

        return step

    def one(self, name: str) -> None:
        """Count a step."""
        if not self.armed:
            return
        self.names.append(name)
        if len(self.names) != self.at:
            return
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, job: str, at: int, *, full: bool) -> None:
    """Fold, and be killed before a step; or meet a full disk, and say so."""
    steps = Steps(at, full=full)
    try:
        trio.run(fold, folder, job, steps.arm)
    except* DiskFull as group:
        steps.armed = False
        assert all("room" in str(error) for error in _leaves(group)), group
    reached = len(steps.names) >= at
    (folder / "reached").write_text(f"{len(steps.names)} {reached} {' '.join(sorted(set(steps.names)))}")


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [leaf for each in group.exceptions for leaf in (_leaves(each) if hasattr(each, "exceptions") else [each])]


def check(folder: Path, job: str) -> None:
    """The old chain or the folded one is there, and another fold ends well."""
    trio.run(_check, folder, job)


async def _check(folder: Path, job: str) -> None:
    seen = [contents(folder / f"seen-{number}") for number in range(RUNS)]
    with forked_workers():
        async with both(folder) as (source, store):
            found = [await _restored(source, job, ref.point_id, "before") for ref in _points(store, job)]
            assert found[-KEPT:] == seen[-KEPT:], "a newer point is not what it was"
            assert seen[RUNS - KEPT - 1] in found, "what was folded is nowhere"
            assert all(each in seen for each in found), "a point is half there"
        async with both(folder) as (source, store):
            await transform(source.context, TransformOrder(job, keep=KEPT))
            await transform(source.context, TransformOrder(job, keep=KEPT))
            refs = _points(store, job)
            found = [await _restored(source, job, ref.point_id, "after") for ref in refs]
            assert found == seen[-KEPT - 1 :], f"{len(found)} points after another fold"
            chain = source.catalog.chain("offsite/main", job)
            assert [(each.point, each.state) for each in chain] == [(ref.point_id, THERE) for ref in refs], chain
            assert source.seen(SecurityEvent) == []
            gone = set((folder / "points").read_text().split()) - {ref.point_id.hex() for ref in refs}
            assert [name for name in gone if source.keys.storage_key(bytes.fromhex(name))] == []
            assert store.scrub().clean
            assert not list((store.path / "journal").iterdir())


def _points(store: Repository, job: str) -> list[Any]:
    return store.points("office", job)


async def _restored(source: Node, job: str, point: bytes, where: str) -> dict[str, bytes]:
    place = await source.restore(job, point.hex(), output=f"{where}-{point.hex()}")
    found = contents(place)
    shutil.rmtree(place)
    return found


def note_points(folder: Path, job: str) -> None:
    """Write down which points there are."""
    with Repository.open(folder / "offsite" / "repositories" / "main", SystemClock(), writable=False) as store:
        (folder / "points").write_text(" ".join(ref.point_id.hex() for ref in _points(store, job)))


def in_child(work: Callable[[], None]) -> int:
    """Run in a process of its own; return how it ended. This process never has a thread, so forking is safe."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Go through the steps."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="only each n-th step")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--job", default="docs", choices=("docs", "target", "none"), help="its name says its zone")
    parser.add_argument("--full-disk", action="store_true", help="the disk is full, and nobody is killed")
    chosen = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    bad, tried = 0, 0
    with tempfile.TemporaryDirectory(dir=memory) as name:
        made = Path(name) / "made"
        made.mkdir()
        assert in_child(partial(make, made, chosen.job)) == 0
        assert in_child(partial(note_points, made, chosen.job)) == 0
        step = chosen.first
        while True:
            folder = Path(shutil.copytree(made, Path(name) / "tried"))
            ended = in_child(partial(killed, folder, chosen.job, step, full=chosen.full_disk))
            told = (folder / "reached").read_text().split() if ended == 0 else []
            if told and told[1] == "False":
                print(f"{told[0]} steps ({' '.join(told[2:])}), {tried} tried, {bad} of them bad")
                return int(bad > 0)
            tried += 1
            wrong = ended not in (0, -signal.SIGKILL) or (ended == 0) != chosen.full_disk
            if wrong or in_child(partial(check, folder, chosen.job)) != 0:
                print(f"step {step}: ended with {ended}, or left something that is not whole", file=sys.stderr)
                bad += 1
            shutil.rmtree(folder)
            step += chosen.every


if __name__ == "__main__":
    sys.exit(main())

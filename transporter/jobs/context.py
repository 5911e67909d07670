"""What every job of a home works with."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.trust_zone import Zone
from transporter.errors import IdentityRefused, JobBusy
from transporter.events import EventBus, Note
from transporter.jobs.spare_worker import SpareWorker
from transporter.jobs.unreached import Unreached
from transporter.link.gate import Gate
from transporter.throttle.limits import Flow, Throttle

if TYPE_CHECKING:
    # A search of a repository of this node needs no line, and must not wait for the import of what makes one.
    from transporter.catalog import Catalog
    from transporter.clock import Clock
    from transporter.config import Config
    from transporter.home import Home
    from transporter.keys.database import KeyDatabase
    from transporter.keys.escrow import Escrow
    from transporter.keys.password import KdfParameters, PasswordHash
    from transporter.link.dial import Peer
    from transporter.link.identity import Identity
    from transporter.link.routes import Parking
    from transporter.repository import Repository


@dataclass(frozen=True)
class JobContext:
    """One for each run."""

    home: Home
    config: Config
    identity: Identity
    catalog: Catalog
    keys: KeyDatabase
    clock: Clock
    bus: EventBus
    # None in a command's own process: nobody can have parked a connection there.
    parking: Parking | None = None
    throttle: Throttle = field(default_factory=Throttle)
    gate: Gate = field(default_factory=Gate)
    spare: SpareWorker = field(default_factory=SpareWorker)
    # The repositories that this process has open for writing: those of the daemon. Empty in a command's own process.
    stores: Mapping[str, Repository] = field(default_factory=dict)
    # Bytes a second that whoever asked for this run wants sent at most, beside the limits of this node; 0: no limit.
    ceiling: int = 0
    # Of a command that goes through several repositories of a peer; None: a peer is dialled as often as it is wanted.
    unreached: Unreached | None = None
    # What was made of a password that a person typed, by how: one Argon2id for a run, and not for each point of it.
    stretched: dict[tuple[bytes, bytes, KdfParameters], PasswordHash] = field(default_factory=dict, repr=False)

    @property
    def escrow(self) -> Escrow:
        """What this node's new storage keys are wrapped for besides its password."""
        from transporter.keys.escrow import Escrow
        from transporter.keys.node_key import NodeKey

        return Escrow(self.keys.active_keysets, NodeKey(self.identity.key))

    def flow(self, peer: str, job: str) -> Flow:
        """Return what a run of ``job`` with ``peer`` may send and receive."""
        scopes = (("daemon", ""), ("peer", peer), ("job", job))
        return Flow(self.throttle, scopes, job, self.bus.publish, self.ceiling)

    def peer(self, name: str) -> Peer:
        """Return a paired node that can be dialled, or that dials.

        Raises IdentityRefused, PeerAway, ConfigError; and what it could not be reached for, if ``unreached`` has it.
        """
        from transporter.link.routes import Routes

        if self.unreached is not None:
            self.unreached.check(name)
        row = self.catalog.peer(name)
        if row is None:
            raise IdentityRefused(
                f"there is no peer {name!r} that this node could dial", "pair first: `invite` there, `join` here"
            )
        seconds = float(self.config.limits.connect_timeout)
        peer = Routes(self.catalog.peer, self.identity, self.config.link, seconds, self.parking).to(row)
        if self.unreached is not None:
            peer = replace(peer, dialled=partial(self.unreached.dialled, name))
        return replace(peer, say=self.say)

    def each_peer_once(self) -> JobContext:
        """Return a context in which a peer that could not be reached is not dialled again."""
        return replace(self, unreached=Unreached())

    @contextmanager
    def store(self, name: str) -> Iterator[Repository]:
        """Lend a repository of this node for writing. Raises ConfigError, RepositoryBusy, what opening one raises."""
        from transporter.repository import Repository

        settings = self.config.repository(name)
        if name in self.stores:
            yield self.stores[name]
            return
        with Repository.open(self.home.repository_path(name, settings.path), self.clock) as store:
            store.set_quota(int(settings.quota) if settings.quota is not None else None)
            yield store

    def say(self, text: str) -> None:
        """Publish something that a person should read."""
        self.bus.publish(Note(text=text))


def own_tenant(context: JobContext) -> str:
    """Return whose the points are that this node copies to a repository of its own: as peers call this node."""
    from transporter.link.identity import tenant_name

    return tenant_name(context.config.node.name, context.identity.pin)


@contextmanager
def job_lock(home: Home, job: str) -> Iterator[None]:
    """Hold the lock of a job; the kernel lets it go when the process dies. Raises JobBusy."""
    with held_lock(home.job_lock(job), f"another run of job {job!r} is under way"):
        yield


def hold_jobs(context: JobContext, held: ExitStack, passwords: set[str] | None = None) -> None:
    """Keep the jobs that seal here from running until ``held`` is closed. ``passwords``: only those of these.

    Raises JobBusy, which says which one is running.
    """
    for job, settings in context.config.jobs.items():
        if Zone(settings.encrypt) is Zone.SOURCE and (passwords is None or settings.password in passwords):
            try:
                held.enter_context(job_lock(context.home, job))
            except JobBusy:
                raise JobBusy(f"job {job!r} is running", "wait until it has ended") from None


@contextmanager
def held_lock(path: Path, busy: str) -> Iterator[int]:
    """Hold the lock on a file, whose descriptor is given: who inherits it holds the lock, too. Raises JobBusy."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobBusy(busy, "wait until it has ended; `transporter status` shows it") from None
        yield handle
    finally:
        os.close(handle)

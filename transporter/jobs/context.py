"""What every job of a home works with."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from transporter.catalog import Catalog
from transporter.clock import Clock
from transporter.config import Config
from transporter.errors import IdentityRefused, JobBusy
from transporter.events import EventBus, Note
from transporter.home import Home
from transporter.jobs.spare_worker import SpareWorker
from transporter.keys.database import KeyDatabase
from transporter.link.dial import Peer
from transporter.link.gate import Gate
from transporter.link.identity import Identity
from transporter.link.routes import Parking, Routes
from transporter.throttle.limits import Flow, Throttle


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

    def flow(self, peer: str, job: str) -> Flow:
        """Return what a run of ``job`` with ``peer`` may send and receive."""
        return Flow(self.throttle, (("daemon", ""), ("peer", peer), ("job", job)), job, self.bus.publish)

    def peer(self, name: str) -> Peer:
        """Return a paired node that can be dialled, or that dials. Raises IdentityRefused, PeerAway, ConfigError."""
        row = self.catalog.peer(name)
        if row is None:
            raise IdentityRefused(
                f"there is no peer {name!r} that this node could dial", "pair first: `invite` there, `join` here"
            )
        seconds = float(self.config.limits.connect_timeout)
        peer = Routes(self.catalog.peer, self.identity, self.config.link, seconds, self.parking).to(row)
        return replace(peer, say=self.say)

    def say(self, text: str) -> None:
        """Publish something that a person should read."""
        self.bus.publish(Note(text=text))


@contextmanager
def job_lock(home: Home, job: str) -> Iterator[None]:
    """Hold the lock of a job; the kernel lets it go when the process dies. Raises JobBusy."""
    with _lock(home.job_lock(job), f"another run of job {job!r} is under way"):
        yield


@contextmanager
def rewrap_lock(home: Home) -> Iterator[None]:
    """Hold the lock of whoever replaces slots after a password's change. Raises JobBusy."""
    with _lock(home.rewrap_lock, "a password's change is under way"):
        yield


@contextmanager
def _lock(path: Path, busy: str) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobBusy(busy, "wait until it has ended; `transporter status` shows it") from None
        yield
    finally:
        os.close(handle)

"""A whole pair in one process: a provider behind a real socket, and homes that back up to it. No daemon, no waiting.

Everything is the product's own code. Passwords are cheap to stretch, and files lie in memory where that is possible.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from forked_workers import forked_workers
from msgspec import structs

from protocol.messages import Start
from transporter.catalog import Catalog
from transporter.catalog import Peer as Paired
from transporter.clock import Clock, SystemClock
from transporter.config import Config, load_config
from transporter.daemon.listener import Front
from transporter.events import Event, EventBus, JobFinished
from transporter.home import Home
from transporter.jobs.backup import run_backup
from transporter.jobs.context import JobContext
from transporter.jobs.restore import RestoreOrder, run_restore
from transporter.jobs.verify import VerifyOrder, run_verify
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters
from transporter.link.address import Address
from transporter.link.dial import Peer, dial_control
from transporter.link.identity import Identity, create_identity
from transporter.link.listen import bound_address, open_listeners
from transporter.link.open_session import open_session
from transporter.link.session import SessionHandlers
from transporter.repository import Repository
from transporter.service.provider import OpenRepository, Provider

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"correct horse battery staple"
ZONES = {
    "source": 'to = "offsite/main"\nencrypt = "source"\npassword = "office"',
    "target": 'to = "offsite/main"\nencrypt = "target"\npassword = "vault"',
    "none": 'to = "offsite/main"\nencrypt = "none"',
    "rest": 'to = "offsite/rest"\nencrypt = "none"',
}
RUN = b"\x11" * 16


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory if there is such a file system: these tests sync often, and none of them is about disks."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def small_tree(root: Path, seed: int = 1, size: int = 300_000) -> Path:
    """A few files; one of them is incompressible and as long as ``size``. The same each time: so is where it is cut."""
    (root / "sub").mkdir(parents=True)
    (root / "large").write_bytes(random.Random(f"{seed} {size}").randbytes(size))
    for number in range(5):
        (root / "sub" / f"file-{number}").write_text(f"{seed} {number} " * 400)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """What is in a tree: names and bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@dataclass
class Node:
    """A home with everything open."""

    home: Home
    config: Config
    identity: Identity
    catalog: Catalog
    keys: KeyDatabase
    clock: Clock
    bus: EventBus = field(default_factory=EventBus)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus.subscribe(self.events.append)

    def seen(self, kind: type[Event]) -> list[Any]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    # --- as a source ------------------------------------------------------------------------------------------

    @property
    def context(self) -> JobContext:
        """What its jobs work with."""
        return JobContext(self.home, self.config, self.identity, self.catalog, self.keys, self.clock, self.bus)

    @property
    def offsite(self) -> Peer:
        """The target, as dialled."""
        return self.context.peer("offsite")

    @property
    def tree(self) -> Path:
        """The folder that its jobs copy."""
        return self.home.path.parent / f"{self.config.node.name}-tree"

    async def backup(self, job: str = "docs") -> JobFinished:
        """Run a job."""
        return await run_backup(self.context, job)

    async def restore(self, job: str = "docs", point: str = "latest", output: str = "out", **how: Any) -> Path:
        """Restore a point; return where to."""
        place = self.home.path.parent / f"{self.config.node.name}-{output}"
        order = RestoreOrder(job, point, str(place), [], False, "", b"", "")
        await run_restore(self.context, replace(order, **how))
        return place

    async def verify(self, job: str = "docs", point: str = "latest", **how: Any) -> JobFinished:
        """Verify a point."""
        return await run_verify(self.context, replace(VerifyOrder(job, point, 1.0, "", b"", ""), **how))

    def links(self, **how: Any) -> None:
        """Change its [link]."""
        self.config = structs.replace(self.config, link=structs.replace(self.config.link, **how))

    def dials(self, address: Address) -> None:
        """Have it find its peer somewhere else."""
        known = self.catalog.peer("offsite")
        assert known is not None
        self.catalog.put_peer(replace(known, address=str(address)))

    @asynccontextmanager
    async def control(self) -> AsyncIterator[Any]:
        """A control connection, both Hellos said."""
        async with dial_control(self.offsite, self.identity) as link:
            yield link

    @asynccontextmanager
    async def session(
        self, start: Start | None = None, streams: int = 1, handlers: SessionHandlers | None = None
    ) -> AsyncIterator[Any]:
        """A session by the real link, for whoever misuses it."""
        how = open_session(
            self.offsite, self.identity, start or start_of(), streams, handlers or quiet_handlers(), self.clock
        )
        async with how as session:
            yield session


def start_of(**fields: Any) -> Start:
    """A Start of a backup; ``fields`` change it."""
    start = Start(purpose="backup", job="docs", repository="main", zone="source", resume=RUN)
    return replace(start, **fields)


def quiet_handlers(**fields: Any) -> SessionHandlers:
    """Handlers of a session that sends no chunks of its own accord and drops what comes."""

    async def drop(_header: object, _payload: object) -> None:
        return

    handlers = SessionHandlers(trio.sleep_forever, lambda _ids: None, drop, lambda _id, _reason: None)
    return replace(handlers, **fields)


@dataclass
class World:
    """The target's provider, its front door, and two tenants: ``source`` and ``neighbour``."""

    folder: Path
    target: Node
    provider: Provider
    front: Front
    address: Address
    source: Node
    neighbour: Node
    nursery: trio.Nursery

    def store(self, name: str = "main") -> Repository:
        """A repository of the target."""
        return self.provider.repositories[name].store

    def tenant(self, node: Node) -> str:
        """The name of a node's tenant."""
        return f"{node.config.node.name}-{node.identity.pin.hex()[:8]}"

    async def still_serves(self) -> None:
        """Fail unless an honest client of another tenant can do everything now."""
        await self.neighbour.backup()
        serial = len(list(self.folder.glob("neighbour-well-*")))
        place = await self.neighbour.restore(output=f"well-{serial}")
        assert contents(place) == contents(self.neighbour.tree)
        assert self.store().scrub().clean


def make_node(folder: Path, name: str, text: str, clock: Clock, stack: ExitStack) -> Node:
    """A new home with an identity, a password and a configuration."""
    home = Home.create(folder / name)
    home.config_path.write_text(f'[node]\nname = "{name}"\n{text}')
    identity = create_identity(home.path, name, clock)
    catalog = stack.enter_context(Catalog(home.catalog_db))
    keys = stack.enter_context(KeyDatabase(home.keys_db, clock=clock, parameters=CHEAP))
    return Node(home, load_config(home.config_path), identity, catalog, keys, clock)


def make_source(folder: Path, name: str, clock: Clock, stack: ExitStack) -> Node:
    """A node with a tree and one job for each zone; ``docs`` is of zone source."""
    jobs = "".join(
        f'[jobs.{job}]\n{ZONES[zone]}\npaths = ["{folder / (name + "-tree")}"]\n'
        for job, zone in {"docs": "source", "target": "target", "none": "none", "rest": "rest"}.items()
    )
    node = make_node(folder, name, f'{jobs}[limits]\nredial_for = "30s"\n', clock, stack)
    node.keys.add_password("office", PASSWORD)
    small_tree(node.tree, seed=len(name))
    return node


REPOSITORIES = '[repositories.main]\n[repositories.rest]\nencrypt_at_rest = "vault"\n'


@asynccontextmanager
async def open_world(
    *, quota: int | None = None, clock: Clock | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[World]:
    """Set everything up, serve, and take it down again."""
    clock = clock or SystemClock()
    with forked_workers(), in_memory() as folder, ExitStack() as stack:
        target = make_node(folder, "offsite", REPOSITORIES, clock, stack)
        target.keys.add_password("vault", PASSWORD)
        provider = Provider(target.home, target.config, target.identity, target.catalog, target.keys, clock)
        for name, config in target.config.repositories.items():
            store = Repository.create(target.home.repository_path(name), quota=quota, clock=clock)
            stack.callback(store.close)
            provider.repositories[name] = OpenRepository(name, store, config)
        front = Front(provider, target.bus)
        sources = [make_source(folder, name, clock, stack) for name in ("office", "neighbour")]
        async with trio.open_nursery() as nursery:
            listeners = await open_listeners(Address(host, 0))
            address = bound_address(listeners)
            for node in sources:
                pin, name = node.identity.pin, node.config.node.name
                rights = ("main", "rest")
                target.catalog.put_peer(Paired(name, pin, tenant=f"{name}-{pin.hex()[:8]}", rights=rights))
                node.catalog.put_peer(Paired("offsite", target.identity.pin, str(address), offers=rights))
            nursery.start_soon(trio.serve_listeners, front.take, listeners)
            yield World(folder, target, provider, front, address, *sources, nursery)
            nursery.cancel_scope.cancel()

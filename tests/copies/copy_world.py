"""The world of tests/service, and a second provider, ``second``, that all its nodes may copy to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio
from msgspec import structs
from world import CHEAP, PASSWORD, Node, World, contents, make_node, open_world

from transporter.catalog import Peer as Paired
from transporter.clock import Clock, SystemClock
from transporter.config import RepositoryConfig
from transporter.daemon.listener import Front
from transporter.daemon.pusher import pusher
from transporter.events import JobFinished
from transporter.jobs.context import JobContext
from transporter.jobs.copy import run_copy
from transporter.jobs.copy_plan import CopyOrder, End
from transporter.link.address import Address
from transporter.link.listen import bound_address, open_listeners
from transporter.repository import Repository
from transporter.service.provider import OpenRepository, Provider

__all__ = ["CHEAP", "PASSWORD", "CopyWorld", "contents", "open_copy_world"]


@dataclass
class CopyWorld:
    """``one``: the world of a pair; ``second``: the node that copies go to."""

    one: World
    second: Node
    second_provider: Provider
    address: Address

    @property
    def source(self) -> Node:
        """The node that backs up."""
        return self.one.source

    @property
    def target(self) -> Node:
        """The provider that it backs up to."""
        return self.one.target

    def there(self) -> Repository:
        """The repository that is copied to."""
        return self.second_provider.repositories["main"].store

    def tenant(self, node: Node) -> str:
        """Its name at both providers."""
        return self.one.tenant(node)

    async def copy(self, node: Node, source: str, target: str, **how: Any) -> JobFinished:
        """Copy, as ``node``."""
        how.setdefault("through", True)
        order = CopyOrder("copy", End.of(source), End.of(target), **how)
        return await run_copy(self.context(node), order)

    def let_at_the_copies_of(self, provider: Node, node: Node) -> None:
        """Have the second provider take ``node`` for the tenant that ``provider`` is there."""
        name, pin = node.config.node.name, node.identity.pin
        self.second.catalog.remove_peer(name)
        self.second.catalog.put_peer(Paired(name, pin, tenant=self.tenant(provider), rights=("main",)))

    def context(self, node: Node) -> JobContext:
        """What a copy of that node works with; the target's daemon has its repositories open."""
        stores = {name: open_.store for name, open_ in self.one.provider.repositories.items()}
        return replace(node.context, stores=stores if node is self.target else {})


@contextmanager
def local_repository(node: Node, name: str = "here") -> Iterator[None]:
    """Give a node a repository of its own."""
    path = node.home.repository_path(name)
    Repository.create(path, clock=node.clock).close()
    before = node.config
    node.config = structs.replace(before, repositories={**before.repositories, name: RepositoryConfig()})
    try:
        yield
    finally:
        node.config = before


@asynccontextmanager
async def open_copy_world(clock: Clock | None = None, **how: Any) -> AsyncIterator[CopyWorld]:
    """Set everything up, serve, and take it down again."""
    clock = clock or SystemClock()
    async with open_world(clock=clock) as one, trio.open_nursery() as nursery:
        with ExitStack() as stack:
            node = make_node(one.folder, "second", "[repositories.main]\n", clock, stack)
            node.keys.add_password("vault", b"of the second")
            provider = Provider(node.home, node.config, node.identity, node.catalog, node.keys, clock)
            store = Repository.create(node.home.repository_path("main"), clock=clock, **how)
            stack.callback(store.close)
            provider.repositories["main"] = OpenRepository("main", store, node.config.repositories["main"])
            one.provider.push = pusher(one.provider)
            front = Front(provider, node.bus)
            listeners = await open_listeners(Address("127.0.0.1", 0))
            address = bound_address(listeners)
            for other in (one.source, one.neighbour, one.target):
                pin, name = other.identity.pin, other.config.node.name
                node.catalog.put_peer(Paired(name, pin, tenant=f"{name}-{pin.hex()[:8]}", rights=("main",)))
                other.catalog.put_peer(Paired("second", node.identity.pin, str(address), offers=("main",)))
            nursery.start_soon(trio.serve_listeners, front.take, listeners)
            yield CopyWorld(one, node, provider, address)
            nursery.cancel_scope.cancel()

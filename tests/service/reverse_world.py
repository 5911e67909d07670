"""Sites that only dial out, in one process: a source, a target, a proxy host, all of the product's own code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from forked_workers import forked_workers
from world import PASSWORD, REPOSITORIES, Node, in_memory, make_node, make_source

from transporter.catalog import PEER_DIALS, PROXY_HOST, WE_DIAL
from transporter.catalog import Peer as Paired
from transporter.clock import Clock, SystemClock
from transporter.daemon.keeper import Keeper
from transporter.daemon.listener import Front
from transporter.events import EventBus
from transporter.jobs.context import JobContext
from transporter.link.address import Address
from transporter.link.listen import bound_address, open_listeners
from transporter.link.pairing import PROXY_RIGHT
from transporter.link.routes import Parking
from transporter.repository import Repository
from transporter.service.provider import OpenRepository, Provider
from transporter.service.relay import Relay

PATIENCE = 90.0


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; fail when it does not come."""
    with trio.move_on_after(PATIENCE) as scope:
        while not condition():
            await trio.sleep(0.005)
    assert not scope.cancelled_caught, f"waited in vain for: {what}"


@dataclass
class Site:
    """One node with a daemon's parts. ``scope`` ends it, as a crash would."""

    node: Node
    provider: Provider
    front: Front
    keeper: Keeper
    address: Address | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def pin(self) -> bytes:
        """Its identity."""
        return self.node.identity.pin

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.config.node.name

    def parked(self, other: Site) -> bool:
        """Whether the other site has a connection parked here."""
        return self.provider.parked.get(other.pin) is not None

    async def run(self, listeners: list[trio.SocketListener] | None = None) -> None:
        """Serve until ended."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keeper.run)
                if listeners:
                    nursery.start_soon(trio.serve_listeners, self.front.take, listeners)

    async def listen(self, nursery: trio.Nursery, port: int = 0) -> None:
        """Serve, and listen on loopback."""
        listeners = await open_listeners(Address("127.0.0.1", port))
        self.address = bound_address(listeners)
        nursery.start_soon(self.run, listeners)


class ReversedSource(Node):
    """A source whose jobs can reach nodes that dial it."""

    parking: Parking | None = None

    @property
    def context(self) -> JobContext:
        """What its jobs work with."""
        return JobContext(
            self.home, self.config, self.identity, self.catalog, self.keys, self.clock, self.bus, self.parking
        )


@dataclass
class ReverseWorld:
    """``source`` and ``target``; ``relay`` joins them where there is one."""

    folder: Path
    source: Site
    target: Site
    relay: Site
    nursery: trio.Nursery

    @property
    def jobs(self) -> Node:
        """The source's node, which runs jobs."""
        return self.source.node

    async def ready(self) -> None:
        """Wait until everybody is parked where the world's way of linking wants it."""
        if self.relay.address is not None:
            for site in (self.source, self.target):
                await until(lambda site=site: self.relay.parked(site), f"{site.name} at the proxy host")
        row = self.source.node.catalog.peer("offsite")
        assert row is not None
        if row.link == PEER_DIALS:
            await until(lambda: self.source.parked(self.target), "the target at the source")


def _site(node: Node) -> Site:
    provider = Provider(node.home, node.config, node.identity, node.catalog, node.keys, node.clock)
    front = Front(provider, node.bus)
    return Site(node, provider, front, Keeper(provider, node.bus, front.take))


def restarted(site: Site) -> Site:
    """The same home in a new process: nothing but what lies on the disk is kept."""
    site.scope.cancel()
    fresh = _site(site.node)
    fresh.provider.repositories = site.provider.repositories
    if site.provider.relay is not None:
        fresh.provider.relay = Relay(fresh.provider.parked, fresh.provider.tickets)
    if isinstance(fresh.node, ReversedSource):
        fresh.node.parking = Parking(fresh.provider.parked, fresh.provider.tickets)
    return fresh


@asynccontextmanager
async def open_reverse_world(way: str, clock: Clock | None = None, **how: Any) -> AsyncIterator[ReverseWorld]:
    """``way``: "direct" (the target dials the source), "relay" (the source calls), "relay reversed" (it does)."""
    clock = clock or SystemClock()
    with forked_workers(), in_memory() as folder, ExitStack() as stack:
        target = _site(make_node(folder, "offsite", REPOSITORIES, clock, stack))
        target.node.keys.add_password("vault", PASSWORD)
        plain = make_source(folder, "office", clock, stack)
        fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
        source = _site(ReversedSource(**{**fields, "bus": EventBus(), "events": []}))
        source.node.parking = Parking(source.provider.parked, source.provider.tickets)  # type: ignore[attr-defined]
        relay = _site(make_node(folder, "relay", "", clock, stack))
        relay.provider.relay = Relay(relay.provider.parked, relay.provider.tickets, **how)
        for name, config in target.node.config.repositories.items():
            store = Repository.create(target.node.home.repository_path(name), quota=None, clock=clock)
            stack.callback(store.close)
            target.provider.repositories[name] = OpenRepository(name, store, config)
        async with trio.open_nursery() as nursery:
            made = ReverseWorld(folder, source, target, relay, nursery)
            if way == "direct":
                await source.listen(nursery)
            else:
                await relay.listen(nursery)
                nursery.start_soon(source.run)
            introduce(made, way)
            nursery.start_soon(target.run)
            yield made
            nursery.cancel_scope.cancel()


def introduce(made: ReverseWorld, way: str) -> None:
    """Write into the catalogs what pairing would."""
    source, target, relay = made.source, made.target, made.relay
    rights = ("main", "rest")
    tenant = f"office-{source.pin.hex()[:8]}"
    via = "" if way == "direct" else "relay"
    if via:
        for site in (source, target):
            site.node.catalog.put_peer(Paired("relay", relay.pin, str(relay.address), link=PROXY_HOST))
            relay.node.catalog.put_peer(Paired(site.name, site.pin, tenant=site.name, rights=(PROXY_RIGHT,)))
    reverse = way != "relay"
    address = str(source.address) if way == "direct" else ""
    link = WE_DIAL if reverse else ""
    target.node.catalog.put_peer(
        Paired("office", source.pin, address, tenant, rights=rights, link=link, via=via if reverse else "")
    )
    source.node.catalog.put_peer(
        Paired("offsite", target.pin, offers=rights, link=PEER_DIALS if reverse else "", via=via)
    )

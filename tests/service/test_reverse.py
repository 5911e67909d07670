"""Jobs over links that the target dials, and through a proxy host: the same work, whoever dials."""

from __future__ import annotations

import pytest
import trio
from reverse_world import open_reverse_world, restarted, until
from world import contents

from transporter.catalog import Peer as Paired
from transporter.errors import IdentityRefused, JobBusy, PeerAway, RefusedByPeer
from transporter.events import LinkUp, SearchHits, SecurityEvent
from transporter.jobs.search import SearchOrder, search
from transporter.link.pairing import PROXY_RIGHT
from transporter.workloads.fsi_query import Query

WAYS = ["direct", "relay", "relay reversed"]


@pytest.fixture(params=WAYS)
async def world(request):
    async with open_reverse_world(request.param) as made:
        await made.ready()
        yield made


@pytest.mark.parametrize("job", ["docs", "target", "none"])
async def test_backup_restore_and_verify_work_unchanged(world, job):
    await world.jobs.backup(job)
    again = await world.jobs.backup(job)
    assert again.bytes_new == 0, "the second run knows what is there"
    await world.jobs.verify(job)
    place = await world.jobs.restore(job)
    assert contents(place) == contents(world.jobs.tree)


async def test_a_search_goes_the_same_way(world):
    for job in ("docs", "target"):
        await world.jobs.backup(job)
        report = await search(world.jobs.context, SearchOrder(Query("large"), job=job))
        assert (report.error(), report.points, report.hits) == (None, 1, 1)
        (hit,) = world.jobs.seen(SearchHits)[-1].hits
        assert (hit.job, hit.repository, hit.path.rpartition("/")[2]) == (job, "offsite/main", "large")


async def test_the_way_is_named(world):
    await world.jobs.backup()
    (up,) = (event for event in world.jobs.seen(LinkUp) if event.peer == "offsite")
    row = world.jobs.catalog.peer("offsite")
    assert up.address == ("it dials this node" if row.link else "through relay")


async def test_a_target_that_comes_back_is_used_again(world):
    await world.jobs.backup()
    where = world.source if world.relay.address is None else world.relay
    before = where.provider.parked.get(world.target.pin)
    fresh = restarted(world.target)
    world.target = fresh
    world.nursery.start_soon(fresh.run)
    (world.jobs.tree / "more").write_bytes(b"more")
    await until(lambda: where.provider.parked.get(world.target.pin) not in (None, before), "the target to be back")
    await world.ready()
    await world.jobs.backup()
    place = await world.jobs.restore()
    assert contents(place) == contents(world.jobs.tree)


@pytest.mark.parametrize("way", ["relay", "relay reversed"])
async def test_a_proxy_host_that_comes_back_is_found_again(way):
    async with open_reverse_world(way) as world:
        await world.ready()
        await world.jobs.backup()
        port = world.relay.address.port
        fresh = restarted(world.relay)
        world.relay = fresh
        await fresh.listen(world.nursery, port)
        await world.ready()
        await world.jobs.verify()


@pytest.mark.parametrize("way", ["relay", "relay reversed"])
async def test_the_proxy_host_holds_nothing_afterwards(way):
    async with open_reverse_world(way) as world:
        await world.ready()
        await world.jobs.backup()
        relay = world.relay.provider.relay
        # A joined connection counts for each node, and for the pair.
        kept = {"relay": 0, "relay reversed": 3}[way]
        await until(lambda: sum(relay._streams.values()) == kept, "the joined connections of the job to end")


async def test_without_a_daemon_a_peer_that_dials_cannot_be_waited_for():
    async with open_reverse_world("direct") as world:
        world.jobs.parking = None
        with pytest.raises(PeerAway, match="only a daemon can wait"):
            await world.jobs.backup()


async def test_without_a_daemon_the_proxy_host_leads_to_a_peer_that_dials():
    async with open_reverse_world("relay reversed") as world:
        await world.ready()
        world.jobs.parking = None
        await world.jobs.backup()


async def test_a_peer_that_is_away_is_waited_for_and_named():
    async with open_reverse_world("direct") as world:
        await world.ready()
        world.target.scope.cancel()
        await until(lambda: not world.source.parked(world.target), "the target to be gone")
        peer = world.jobs.context.peer("offsite")
        with pytest.raises(PeerAway, match="is not connected"):
            await peer.route.connect(1, 0.05)


# --- who may use a proxy host ------------------------------------------------------------------------------------


async def test_a_node_that_is_not_registered_is_not_joined():
    async with open_reverse_world("relay") as world:
        await world.ready()
        world.relay.node.catalog.remove_peer("office")
        with pytest.raises(IdentityRefused):
            await world.jobs.backup()


async def test_a_node_that_may_do_other_things_is_not_joined():
    async with open_reverse_world("relay") as world:
        await world.ready()
        catalog = world.relay.node.catalog
        catalog.remove_peer("office")
        catalog.put_peer(Paired("office", world.source.pin, tenant="office", rights=("main",)))
        with pytest.raises(RefusedByPeer, match=r"^office may not use the proxy host \w+"):
            await world.jobs.backup()


async def test_a_node_that_is_not_registered_cannot_be_called():
    async with open_reverse_world("relay") as world:
        await world.ready()
        catalog = world.relay.node.catalog
        catalog.remove_peer("offsite")
        catalog.put_peer(Paired("offsite", world.target.pin, tenant="offsite", rights=("main",)))
        with pytest.raises(IdentityRefused, match="not registered"):
            await world.jobs.backup()


async def test_a_node_that_is_away_is_said_to_be():
    async with open_reverse_world("relay") as world:
        await world.ready()
        world.target.scope.cancel()
        await until(lambda: not world.relay.parked(world.target), "the target to be gone")
        with pytest.raises(PeerAway, match="offsite is not connected"):
            await world.jobs.backup()


async def test_each_node_has_so_many_connections_and_no_more():
    async with open_reverse_world("relay", streams_per_node=2) as world:
        await world.ready()
        with pytest.raises(JobBusy, match="2 are allowed"):
            await world.jobs.backup()


# --- two daemons, one identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_second_daemon_with_the_same_identity_is_refused_and_reported(way):
    async with open_reverse_world(way) as world:
        await world.ready()
        where = world.source if way == "direct" else world.relay
        first = where.provider.parked.get(world.target.pin)
        keep = world.target.scope
        twin = restarted_beside(world.target)
        world.nursery.start_soon(twin.run)
        await until(lambda: twin.node.seen(SecurityEvent), "the twin to be refused")
        assert "two daemons claim one identity" in twin.node.seen(SecurityEvent)[0].what
        await until(lambda: where.node.seen(SecurityEvent), "a security event where it parked")
        assert where.provider.parked.get(world.target.pin) is first, "the one that lives stays"
        assert not keep.cancel_called
        twin.scope.cancel()
        await world.jobs.backup()


def restarted_beside(site):
    """A second process of the same home, while the first one lives."""
    from transporter.events import EventBus

    scope, site.scope = site.scope, trio.CancelScope()
    twin = restarted(site)
    site.scope = scope
    bus = EventBus()
    twin.node = type(twin.node)(**{**vars(twin.node), "bus": bus, "events": []})
    twin.keeper._bus = bus
    return twin


async def test_a_dead_connection_of_the_same_identity_gives_way(monkeypatch):
    monkeypatch.setattr("transporter.link.parking.PROBE_SECONDS", 0.1)
    async with open_reverse_world("direct") as world:
        await world.ready()
        # The first process is gone, and its connection does not know it: nobody answers there any more.
        old = world.source.provider.parked.get(world.target.pin)

        async def silence(_seconds):
            return False

        old.link.alive = silence
        twin = restarted_beside(world.target)
        world.nursery.start_soon(twin.run)
        await until(lambda: world.source.provider.parked.get(world.target.pin) not in (None, old), "the newcomer")


def test_the_right_to_a_proxy_host_is_no_name_of_a_repository():
    from transporter.config import NAME

    assert not NAME.match(PROXY_RIGHT)

"""How many connections one node may have: control connections here, and by a proxy host with any one other node."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from reverse_world import open_reverse_world, restarted, until

from protocol.limits import TICKET
from protocol.messages import Reach, Refused, StatusReply, StatusRequest, Tickets
from transporter.catalog import Peer as Paired
from transporter.clock import SystemClock
from transporter.errors import JobBusy
from transporter.link import tickets as tickets_module
from transporter.link.broken import LinkBroken
from transporter.link.dial import Peer, dial_control
from transporter.link.identity import create_identity
from transporter.link.pairing import PROXY_RIGHT
from transporter.service import peer as peer_module
from transporter.service import provider as provider_module
from transporter.service import relay as relay_module
from transporter.service.provider import CONNECTIONS_AT_MOST

PATIENCE = 90.0

# --- control connections -----------------------------------------------------------------------------------------


async def is_served(link):
    await link.send(StatusRequest())
    assert isinstance((await link.receive()).message, StatusReply)


async def test_the_65th_control_connection_of_a_node_is_refused_until_another_one_ends(world):
    assert CONNECTIONS_AT_MOST == 64
    source, connections = world.source, world.provider._connections
    with trio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            for _ in range(CONNECTIONS_AT_MOST - 1):
                await is_served(await stack.enter_async_context(source.control()))
            async with source.control() as last:
                await is_served(last)
                async with source.control() as one_more:
                    await one_more.send(StatusRequest())
                    refusal = (await one_more.receive()).message
                assert isinstance(refusal, Refused)
                assert refusal.code == "job-busy"
                assert "64 connections" in refusal.what
                assert connections[source.identity.pin] == CONNECTIONS_AT_MOST
                # Nobody else pays for it, and those that it has are served on.
                await world.still_serves()
                await is_served(last)
            await until(lambda: connections[source.identity.pin] < CONNECTIONS_AT_MOST, "the end of one")
            await source.backup()
    await until(lambda: not connections, "the end of all")
    assert world.front._half_open.count == 0


@pytest.mark.parametrize("work", ["backup", "restore"])
async def test_a_job_of_a_node_with_too_many_connections_is_told_so(world, monkeypatch, work):
    await world.source.backup()
    await until(lambda: not world.provider._connections, "the end of the first run")
    monkeypatch.setattr(provider_module, "CONNECTIONS_AT_MOST", 1)
    async with world.source.control() as link:
        await is_served(link)
        with trio.fail_after(PATIENCE), pytest.raises(JobBusy, match="1 connections"):
            await getattr(world.source, work)()


async def test_a_connection_too_many_that_asks_for_nothing_is_not_kept(world, monkeypatch):
    monkeypatch.setattr(provider_module, "CONNECTIONS_AT_MOST", 1)
    monkeypatch.setattr(peer_module, "REQUEST_SECONDS", 0.05)
    async with world.source.control() as link:
        await is_served(link)
        with trio.fail_after(PATIENCE):
            async with world.source.control() as one_more:
                assert world.front._half_open.count == 1, "until then it may send as little as a stranger"
                with pytest.raises(LinkBroken):
                    await one_more.receive()
        assert world.front._half_open.count == 0


# --- through a proxy host ----------------------------------------------------------------------------------------


@asynccontextmanager
async def caller(world, name):
    """A further node that may use the proxy host, at its control connection there."""
    home = world.folder / name
    home.mkdir()
    identity = create_identity(home, name, SystemClock())
    relay = world.relay
    relay.node.catalog.put_peer(Paired(name, identity.pin, tenant=name, rights=(PROXY_RIGHT,)))
    async with dial_control(Peer("relay", relay.address, relay.pin), identity) as link:
        yield link


async def reach(link, target, count):
    """Ask for connections, and never make them; return the answer's code, "" for tickets."""
    with trio.fail_after(PATIENCE):
        await link.send(Reach(peer=target.pin, count=count))
        answer = (await link.receive()).message
    if isinstance(answer, Refused):
        return answer.code
    assert isinstance(answer, Tickets) and len(answer.tickets) == count * TICKET
    return ""


async def test_two_nodes_have_half_of_what_either_may_have_together():
    async with open_reverse_world("relay", streams_per_node=8) as world:
        await world.ready()
        async with caller(world, "greedy") as greedy, caller(world, "third") as third, caller(world, "late") as late:
            assert await reach(greedy, world.target, 5) == "job-busy"
            # Tickets that are out count, although nobody ever comes with them.
            assert [await reach(greedy, world.target, 1) for _ in range(5)] == [""] * 4 + ["job-busy"]
            assert await reach(third, world.target, 4) == "", "one node alone cannot use up another's share"
            assert await reach(late, world.target, 1) == "job-busy", "two can"
            # The limit of the pair is of the pair: whichever of them asks, and with nobody else.
            assert await reach(greedy, world.source, 4) == ""


async def test_a_pair_counts_whoever_of_them_calls():
    async with open_reverse_world("relay", streams_per_node=4) as world:
        await world.ready()
        host = Peer("relay", world.relay.address, world.relay.pin)
        source, target = (dial_control(host, site.node.identity) for site in (world.source, world.target))
        async with source as from_source, target as from_target:
            assert await reach(from_source, world.target, 2) == ""
            assert await reach(from_target, world.source, 1) == "job-busy"


async def test_a_call_that_found_nobody_leaves_nothing_that_counts(monkeypatch):
    monkeypatch.setattr(relay_module, "AWAIT_SECONDS", 0.05)
    # Room for the tickets of one such call, both ends', and no more.
    monkeypatch.setattr(tickets_module, "TICKETS_AT_MOST", 4)
    async with open_reverse_world("relay", streams_per_node=4) as world:
        await world.ready()
        world.target.scope.cancel()
        await until(lambda: not world.relay.parked(world.target), "the target to be gone")
        async with caller(world, "caller") as link:
            for _ in range(3):
                assert await reach(link, world.target, 2) == "peer-away"
                assert not world.relay.provider.tickets.full
            assert world.relay.provider.tickets._issued == {}
            world.target = restarted(world.target)
            world.nursery.start_soon(world.target.run)
            await until(lambda: world.relay.parked(world.target), "the target to be back")
            assert await reach(link, world.target, 2) == "", "neither node has used up anything"

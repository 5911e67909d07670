"""Parked connections: whatever one peer does, the daemon and the links to other peers stay, and calls outlive them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
import trio
from reverse_world import open_reverse_world, until
from world import start_of

from protocol.messages import Incoming
from transporter.catalog import PROXY_HOST
from transporter.catalog import Peer as Paired
from transporter.clock import SystemClock
from transporter.daemon import keeper as keeper_module
from transporter.errors import CannotConnect
from transporter.events import LinkLost, LinkUp
from transporter.link.identity import create_identity
from transporter.link.tls import TlsStream

# Tried so often, a peer is certainly tried again.
OFTEN = 3
CUT_AT_ONCE = struct.pack("ii", 1, 0)


@pytest.fixture
async def world(monkeypatch):
    """A source and a target that are parked at an honest proxy host."""
    monkeypatch.setattr(keeper_module, "LOOK_SECONDS", 0.05)
    async with open_reverse_world("relay") as made:
        await made.ready()
        yield made


def parked_at(world, site=None):
    return (site or world.relay).provider.parked.get(world.target.pin)


# --- proxy hosts that do not do as they should -----------------------------------------------------------------------


class CutBehindTheFirst(trio.abc.Stream):
    """Resets the connection right behind the first thing it sends, before the other end can have read that.

    So the other end's next words, the last ones of its handshake, are what fails.
    """

    def __init__(self, inner):
        self.inner = inner

    async def send_all(self, data):
        sock = self.inner.socket
        assert os.write(sock.fileno(), data) == len(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT_AT_ONCE)
        await trio.aclose_forcefully(self.inner)

    async def wait_send_all_might_not_block(self):
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self.inner.receive_some(max_bytes)

    async def aclose(self):
        await self.inner.aclose()


ANSWERS = {
    "no HTTP": b"\x00\x01 no HTTP at all\r\n\r\n",
    "a header that is no ASCII": b"HTTP/1.1 101 Switching Protocols\r\nConnection: \xff\r\n\r\n",
}


class StrangeHost:
    """A proxy host with the right key and a will of its own; ``came`` counts who knocked."""

    def __init__(self, world, does):
        (world.folder / "strange").mkdir()
        self.identity = create_identity(world.folder / "strange", "strange", SystemClock())
        self.does = does
        self.came = 0
        self.world = world

    async def listen(self):
        """Serve, and have the target want a connection parked here."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.world.nursery.start_soon(trio.serve_listeners, self.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        row = Paired("strange", self.identity.pin, f"127.0.0.1:{port}", link=PROXY_HOST)
        self.world.target.node.catalog.put_peer(row)

    async def serve(self, stream):
        self.came += 1
        cuts = self.does == "cuts the handshake"
        tls = TlsStream(CutBehindTheFirst(stream) if cuts else stream, self.identity, server=True, accept_pin=any_pin)
        with contextlib.suppress(trio.BrokenResourceError, CannotConnect):
            async with tls:
                await tls.do_handshake()
                await tls.receive_some()
                await tls.send_all(ANSWERS[self.does])
                while await tls.receive_some():
                    pass


def any_pin(_pin):
    return True


def row_of(world, name):
    return next((row for row in world.target.keeper.rows() if row["peer"] == name), None)


@pytest.mark.parametrize("does", [*ANSWERS, "cuts the handshake"])
async def test_a_proxy_host_that_answers_with_anything_else_is_tried_again_and_ends_no_daemon(world, does):
    before = parked_at(world)
    strange = StrangeHost(world, does)
    await strange.listen()
    await until(lambda: strange.came >= OFTEN, "the strange host to be tried again")
    assert "internal" not in row_of(world, "strange")["trouble"], "it has a name"
    assert row_of(world, "relay")["state"] == "parked"
    assert parked_at(world) is before, "the other peer's connection stays as it was"
    assert not world.target.node.seen(LinkLost)
    await world.jobs.backup()


async def test_an_error_that_nobody_thought_of_ends_one_connection_and_no_daemon(world, monkeypatch):
    before, tried = parked_at(world), []
    really_dial = keeper_module.dial_control

    @contextlib.asynccontextmanager
    async def dial(peer, identity):
        if peer.name == "strange":
            tried.append(peer)
            raise ZeroDivisionError
        async with really_dial(peer, identity) as link:
            yield link

    monkeypatch.setattr(keeper_module, "dial_control", dial)
    world.target.node.catalog.put_peer(Paired("strange", bytes(32), "127.0.0.1:1", link=PROXY_HOST))
    await until(lambda: len(tried) >= OFTEN, "the connection to be tried again")
    assert row_of(world, "strange")["trouble"] == "an internal error: ZeroDivisionError"
    assert parked_at(world) is before
    await world.jobs.backup()


# --- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["direct", "relay"])
async def test_a_session_outlives_the_parked_connection_that_it_was_called_over(way):
    async with open_reverse_world(way) as world:
        await world.ready()
        where = world.source if way == "direct" else world.relay
        async with world.jobs.session() as session:
            before = parked_at(world, where)
            before.scope.cancel()
            await until(lambda: world.target.node.seen(LinkLost), "the target to lose its parked connection")
            await until(lambda: parked_at(world, where) not in (None, before), "the target to come back")
            with trio.fail_after(10):
                assert await session.have([bytes(32)]) == [None]
            await session.close()
        assert len(world.target.node.seen(LinkUp)) == 2


async def test_a_call_counts_until_its_tickets_are_shown_and_no_longer(world, monkeypatch):
    """Sessions may go on for days: they are bounded as any others, and must not use up the calls."""
    monkeypatch.setattr(keeper_module, "CALLS_AT_MOST", 1)
    with trio.fail_after(20):
        async with world.jobs.session() as first, world.jobs.session(start_of(job="another")) as second:
            assert await first.have([bytes(32)]) == await second.have([bytes(32)]) == [None]
            await second.close()
            await first.close()


async def test_so_many_calls_are_answered_at_a_time_and_each_that_ends_makes_room(world, monkeypatch):
    monkeypatch.setattr(keeper_module, "CALLS_AT_MOST", 3)
    asked, go_on = [], trio.Event()

    async def show(_there, tickets):
        asked.append(tickets)
        await go_on.wait()
        raise ZeroDivisionError("of no peer's making")

    really_show = keeper_module.show_tickets
    monkeypatch.setattr(keeper_module, "show_tickets", show)
    parked = parked_at(world)
    for number in range(5):
        await parked.link.send(Incoming(peer=bytes(32), tickets=bytes([number]) * 32))
    assert await parked.link.alive(20), "a Ping behind them is answered: all five have been read"
    await until(lambda: len(asked) == 3, "three calls to be answered")
    monkeypatch.setattr(keeper_module, "show_tickets", really_show)
    go_on.set()
    await world.jobs.backup()
    assert len(asked) == 3
    assert parked_at(world) is parked

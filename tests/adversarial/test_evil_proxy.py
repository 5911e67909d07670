"""A hostile proxy host: lies, joins the wrong ends, replays, cuts, reorders, or keeps connections and says nothing.

Whatever it does, nothing wrong is stored, restored or committed; what was altered is called tampering, at once and by
name; what only breaks is redialled; and with an honest proxy host everything goes on.
"""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import pytest
import trio
from evil_middle import ACTS, cut, flip, once_at, once_on_any
from evil_proxy import EvilRelay
from reverse_world import Site, _site, open_reverse_world, until
from world import contents, make_node, small_tree

from protocol.messages import Incoming
from transporter.catalog import PROXY_HOST
from transporter.catalog import Peer as Paired
from transporter.errors import (
    CannotConnect,
    IdentityRefused,
    PeerAway,
    RefusedByPeer,
    TamperingDetected,
    TransporterError,
)
from transporter.events import LinkLost as LinkLostEvent
from transporter.events import SecurityEvent
from transporter.link.pairing import PROXY_RIGHT

SECONDS = 120.0


@pytest.fixture(params=["relay", "relay reversed"])
async def world(request, monkeypatch):
    """A pair that meets at an evil proxy host; at the end an honest one must find all well.

    One data channel, so that it is the one which carries the byte that is meddled with.
    """
    # What tests open is closed once nobody uses it any more.
    with ExitStack() as opened:
        async with open_reverse_world(request.param) as made:
            made.opened = opened
            await made.ready()
            made.jobs.config = _with(made.jobs.config, max_streams=1)
            made.evil = EvilRelay(made.relay.provider.relay)
            made.honest, made.relay.provider.relay = made.relay.provider.relay, made.evil
            small_tree(made.jobs.tree / "more", seed=9, size=2_500_000)
            config = made.jobs.config
            yield made
            # This runs before what a test patched is taken back by itself, and an honest proxy host may be slow: it has
            # the deadlines that there are, and not those that a test cut short because nobody would come.
            monkeypatch.undo()
            made.jobs.config = config
            made.relay.provider.relay = made.honest
            await made.ready()
            with trio.fail_after(SECONDS):
                await made.jobs.backup()
                assert contents(await made.jobs.restore(output="well")) == contents(made.jobs.tree)


async def outcome(function, *arguments, **how):
    with trio.fail_after(SECONDS):
        try:
            return await function(*arguments, **how)
        except TransporterError as error:
            return error


def committed(world):
    store = world.target.provider.repositories["main"].store
    return len(store.points(f"office-{world.source.pin.hex()[:8]}", "docs"))


async def test_an_honest_middle_changes_nothing(world):
    done = await world.jobs.backup()
    assert done.redials == 0
    assert contents(await world.jobs.restore()) == contents(world.jobs.tree)
    assert world.evil.middle.counts["data"] >= 2, "it had the bytes"


# --- altered, repeated, left out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["flip", "repeat"])
@pytest.mark.parametrize("at", [170, 300_000])
async def test_altered_data_ends_the_backup(world, act, at):
    world.evil.middle.meddle = once_at("data", 0, True, at, ACTS[act])
    result = await outcome(world.jobs.backup)
    assert isinstance(result, TamperingDetected), result
    assert not world.jobs.seen(LinkLostEvent), "a tampered link is never redialled silently"
    await until(lambda: world.target.node.seen(SecurityEvent), "a security event at the target")
    assert committed(world) == 0


@pytest.mark.parametrize("act", ["flip", "drop", "insert"])
async def test_an_altered_control_connection_ends_the_backup(world, act):
    # The connection that the job itself makes comes last: a parked one, where there is one, stands already.
    number = world.evil.middle.counts["control"]
    # Behind the ClientHello, in what the source says under the handshake's keys.
    world.evil.middle.meddle = once_at("control", number, True, 2_200, ACTS[act])
    result = await outcome(world.jobs.backup)
    assert isinstance(result, TamperingDetected | IdentityRefused | CannotConnect | RefusedByPeer), result
    assert committed(world) == 0


async def test_altered_data_ends_the_restore_and_leaves_nothing(world):
    await world.jobs.backup()
    first = world.evil.middle.counts["data"]
    world.evil.middle.meddle = once_on_any("data", (first, first + 1), False, 300_000, flip)
    result = await outcome(world.jobs.restore, output="evil")
    assert isinstance(result, TamperingDetected), result
    place = world.folder / "office-evil"
    assert not place.exists() or not list(place.iterdir())


async def test_a_cut_is_redialled(world):
    world.evil.middle.meddle = once_at("data", 0, True, 600_000, cut)
    done = await outcome(world.jobs.backup)
    assert done.redials >= 1
    assert contents(await world.jobs.restore()) == contents(world.jobs.tree)


async def test_reordered_data_is_tampering(world):
    held = []

    def swap(way, data):
        if way.kind == "data" and way.up and way.seen > 200_000:
            if not held:
                held.append(data)
                return []
            if len(held) == 1:
                held.append(b"")
                return [data, held[0]]
        return [data]

    world.evil.middle.meddle = swap
    result = await outcome(world.jobs.backup)
    assert isinstance(result, TamperingDetected), result
    assert committed(world) == 0


# --- the wrong ends -----------------------------------------------------------------------------------------------


async def test_a_proxy_host_that_calls_somebody_else_is_found_out(world):
    mallory = await _mallory(world)
    world.evil.instead.of = lambda caller, wanted: mallory if wanted and wanted.name == "offsite" else wanted
    if world.jobs.catalog.peer("offsite").link:
        world.evil.instead.of = lambda caller, wanted: mallory if caller.name == "offsite" else wanted
        # Its link stands already; the next connections are what it lies about.
    result = await outcome(world.jobs.backup)
    assert isinstance(result, IdentityRefused | CannotConnect), result
    assert committed(world) == 0
    world.evil.instead.of = lambda _caller, wanted: wanted


async def _mallory(world):
    """Another node that is registered at the proxy host, and answers whoever calls it."""
    site: Site = _site(make_node(world.folder, "mallory", "", world.jobs.clock, world.opened))
    relay = world.relay
    site.node.catalog.put_peer(Paired("relay", relay.pin, str(relay.address), link=PROXY_HOST))
    # It accepts anybody: a peer with any pin is somebody it knows.
    site.front._accepts = lambda _pin: True
    row = Paired("mallory", site.pin, tenant="mallory", rights=(PROXY_RIGHT,))
    relay.node.catalog.put_peer(row)
    world.nursery.start_soon(site.run)
    await until(lambda: relay.parked(site), "mallory at the proxy host")
    return relay.node.catalog.peer("mallory")


async def test_calls_that_nobody_made_lead_nowhere(world):
    """The proxy host has the target dial, and then says nothing, or something that is no transporter."""
    parked = world.relay.provider.parked.get(world.target.pin)
    came = []

    async def take(stream):
        came.append(stream)

    tickets = [world.relay.provider.tickets.issue(take) for _ in range(8)]
    await parked.link.send(Incoming(peer=bytes(32), tickets=b"".join(tickets)))
    await until(lambda: len(came) == 8, "the target to dial")
    for stream in came[:4]:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
    for stream in came:
        await stream.aclose()
    await world.jobs.backup()


async def test_tickets_that_are_none_are_not_taken(world):
    parked = world.relay.provider.parked.get(world.target.pin)
    await parked.link.send(Incoming(peer=bytes(32), tickets=bytes(64)))
    await world.jobs.backup()


async def test_a_replayed_channel_is_not_opened_again(world):
    said: list[bytes] = []

    def record(way, data):
        if (way.kind, way.up) == ("data", True):
            said.append(data)
        return [data]

    world.evil.middle.meddle = record
    await world.jobs.backup()
    world.evil.middle.meddle = lambda _way, data: [data]
    before = committed(world)
    parked = world.relay.provider.parked.get(world.target.pin)
    ended = trio.Event()

    async def replay(stream):
        try:
            for data in said:
                await stream.send_all(data)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        finally:
            ended.set()
            await stream.aclose()

    ticket = world.relay.provider.tickets.issue(replay)
    await parked.link.send(Incoming(peer=world.source.pin, tickets=ticket))
    with trio.fail_after(SECONDS):
        await ended.wait()
    assert committed(world) == before


# --- silence ------------------------------------------------------------------------------------------------------


async def test_a_proxy_host_that_joins_and_passes_nothing_on_is_given_up(world, monkeypatch):
    monkeypatch.setattr("transporter.link.control_link.HANDSHAKE_SECONDS", 2.0)
    world.evil.middle.meddle = lambda way, data: [] if way.kind == "control" else [data]
    result = await outcome(world.jobs.backup)
    assert isinstance(result, CannotConnect), result
    assert committed(world) == 0


async def test_a_proxy_host_that_keeps_the_data_is_given_up(world, monkeypatch):
    monkeypatch.setattr("transporter.link.open_session.OPENING_SECONDS", 0.5)
    monkeypatch.setattr("transporter.link.session.LAST_WORD_SECONDS", 0.1)
    # Else it would go on over WebSockets, which look like control connections from outside.
    world.jobs.config = msgspec.structs.replace(
        world.jobs.config, link=msgspec.structs.replace(world.jobs.config.link, data="direct")
    )
    world.evil.middle.meddle = lambda way, data: [] if way.kind == "data" else [data]
    result = await outcome(world.jobs.backup)
    assert isinstance(result, CannotConnect), result
    assert "data channel" in str(result)
    assert committed(world) == 0


async def test_a_proxy_host_that_calls_nobody_is_given_up(world, monkeypatch):
    monkeypatch.setattr("transporter.link.control_link.HANDSHAKE_SECONDS", 0.3)
    monkeypatch.setattr("transporter.service.meeting.limits.TICKET_SECONDS", 0.3)
    world.jobs.config = _with(world.jobs.config, connect_timeout=1)

    async def call_nobody(_caller, _tickets):
        return

    for site in (world.source, world.target):
        world.relay.provider.parked.get(site.pin).call = call_nobody
    result = await outcome(world.jobs.backup)
    assert isinstance(result, CannotConnect | PeerAway), result
    for site in (world.source, world.target):
        del world.relay.provider.parked.get(site.pin).call


def _with(config, **limits):
    return msgspec.structs.replace(config, limits=msgspec.structs.replace(config.limits, **limits))

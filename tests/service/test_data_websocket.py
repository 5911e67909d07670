"""Data channels as WebSockets inside TLS: on demand, or where direct ones do not get through."""

from __future__ import annotations

import pytest
import trio
from world import contents, open_world, quiet_handlers, start_of

from protocol.data import DataChannel
from transporter.errors import CannotConnect, IdentityRefused, TamperingDetected
from transporter.events import Note, SecurityEvent
from transporter.jobs.backup import STREAMS
from transporter.link import data_path, open_session, session
from transporter.link.address import Address
from transporter.link.data_path import FAILURES_AFTER_SUCCESS, REMEMBERED_SECONDS, DirectPaths
from transporter.link.dial import dial_carrier
from transporter.link.tls import TlsStream
from transporter.link.websocket_stream import DATA_PATH, open_websocket

READ = 65536


class Filter:
    """A relay that knows a direct data channel by its first byte, and does something to it: ``how`` it is told."""

    def __init__(self, target, how):
        self.target, self.how = target, how
        self.seen = {"tls": 0, "data": 0}

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        task_status.started()
        await trio.serve_listeners(self.take, listeners)

    async def take(self, client):
        first = await client.receive_some(READ)
        kind = "tls" if first[:1] == b"\x16" else "data"
        self.seen[kind] += 1
        how = self.how if kind == "data" else "pass"
        if how == "close":
            return
        if how == "hold":
            await trio.sleep_forever()
        async with (
            await trio.open_tcp_stream(self.target.host, self.target.port) as server,
            trio.open_nursery() as ways,
        ):
            await server.send_all(first)
            ways.start_soon(self.pump, client, server, "pass")
            ways.start_soon(self.pump, server, client, how)

    async def pump(self, source, sink, how):
        try:
            while data := bytes(await source.receive_some(READ)):
                if how == "stall":
                    await sink.send_all(data[:60])
                    await trio.sleep_forever()
                if how == "alter":
                    data = bytes([data[0] ^ 1]) + data[1:]
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    """What the process remembers, of this test alone."""
    made = DirectPaths()
    monkeypatch.setattr(data_path, "OF_THIS_PROCESS", made)
    return made


@pytest.fixture
async def filtered(world, nursery):
    """``filtered(how)`` puts a filter on the source's line."""

    async def put(how):
        made = Filter(world.address, how)
        await nursery.start(made.run)
        world.source.dials(made.address)
        return made

    return put


async def round_trip(world, output="out"):
    finished = await world.source.backup()
    assert contents(await world.source.restore(output=output)) == contents(world.source.tree)
    return finished


def notes(world):
    return [note.text for note in world.source.seen(Note) if "WebSocket" in note.text]


async def test_a_backup_and_a_restore_over_websockets_alone(world, filtered):
    between = await filtered("close")
    world.source.links(data="websocket")
    await round_trip(world)
    await world.source.verify()
    assert between.seen["data"] == 0
    assert notes(world) == []


async def test_auto_goes_direct_where_that_works(world, filtered):
    between = await filtered("pass")
    await round_trip(world)
    assert between.seen["data"] > 0
    assert notes(world) == []


@pytest.mark.parametrize("how", ["close", "hold"])
async def test_auto_takes_websockets_where_nothing_else_passes_and_says_so_once(world, filtered, monkeypatch, how):
    if how == "hold":  # this is waited for; and on a busy machine what passes needs time, too
        monkeypatch.setattr(open_session, "OPENING_SECONDS", 3.0)
    # A busy machine looks like a long line, which begins with more channels.
    monkeypatch.setattr(open_session, "SHORT_LINE_SECONDS", 60.0)
    between = await filtered(how)
    finished = await round_trip(world)
    assert between.seen["data"] == STREAMS, "tried once; afterwards it is known"
    (note,) = notes(world)
    assert "direct data channels to offsite do not get through" in note
    assert finished.redials == 0


async def test_it_is_tried_again_after_an_hour(world_peer, mock_clock):
    paths = DirectPaths()
    paths.block(world_peer)
    mock_clock.jump(REMEMBERED_SECONDS - 1)
    assert paths.blocked(world_peer)
    mock_clock.jump(2)
    assert not paths.blocked(world_peer)
    assert paths.failed(world_peer), "and given up again after one failure"


def connect(world, peer, said=None):
    source = world.source
    say = (said if said is not None else []).append
    return data_path.open_data_session(peer, source.identity, start_of(), 2, quiet_handlers(), source.clock, say)


def test_where_direct_channels_have_worked_one_failure_is_no_reason(world_peer):
    paths = DirectPaths()
    assert paths.failed(world_peer)
    paths = DirectPaths()
    paths.worked(world_peer)
    assert [paths.failed(world_peer) for _ in range(FAILURES_AFTER_SUCCESS)] == [False, False, True]
    paths.worked(world_peer)
    assert not paths.failed(world_peer)


@pytest.fixture
def world_peer():
    from transporter.link.dial import Peer

    return Peer("offsite", Address("host", 1), b"p" * 32)


async def test_direct_means_direct(world, filtered):
    between = await filtered("close")
    world.source.links(data="direct")
    with pytest.raises(CannotConnect):
        await world.source.backup()
    assert notes(world) == []
    assert between.seen["data"] >= 1


@pytest.fixture
def short_line(monkeypatch):
    """However busy the machine is, its loopback counts as a short line: no more channels than ``STREAMS``."""
    monkeypatch.setattr("transporter.link.striping.SHORT_LINE_SECONDS", 60.0)


async def test_tampering_is_never_taken_for_a_filter(short_line, world, filtered):
    between = await filtered("alter")
    with pytest.raises(TamperingDetected):
        await world.source.backup()
    # The first of the channels may end it before the next is dialled.
    assert between.seen["tls"] == 1 and 1 <= between.seen["data"] <= STREAMS, "no second attempt, by whatever way"
    assert notes(world) == []


async def test_a_channel_that_was_answered_and_then_stalls_is_a_broken_line(short_line, world, filtered, monkeypatch):
    # In this time the answer must have come, on a busy machine, too.
    monkeypatch.setattr(open_session, "OPENING_SECONDS", 3.0)
    between = await filtered("stall")
    with pytest.raises(CannotConnect, match="did not open in time"):
        await world.source.backup()
    assert between.seen == {"tls": 1, "data": STREAMS}
    assert notes(world) == []


async def test_a_refusal_is_never_taken_for_a_filter(world, filtered, monkeypatch):
    between = await filtered("close")
    world.target.catalog.remove_peer("office")
    with pytest.raises(IdentityRefused):
        await world.source.backup()
    assert between.seen["data"] == 0
    assert notes(world) == []


async def test_a_dead_line_is_never_taken_for_a_filter(world, paths):
    """Everything ends at once while channel 0 is opened: the line, not a filter."""
    peer = world.source.offsite

    dialled = []

    async def cut(early):
        dialled.append(early._peer.data)
        for live in list(world.provider.sessions.values()):
            await trio.aclose_forcefully(live.link._tls)
        raise session.LinkBroken("cut")

    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transporter.link.channels.EarlyCarriers.take", cut)
        with pytest.raises(session.LinkBroken) as caught:
            async with connect(world, peer, said):
                pytest.fail("there is no data channel")
    assert not isinstance(caught.value, session.DirectDataFailed)
    assert said == []
    assert dialled == ["auto"], "no second session was tried"
    assert not paths.blocked(peer)


# --- who may attach -------------------------------------------------------------------------------------------


async def data_websocket(node, peer):
    """A WebSocket for data, opened by ``node``."""
    stream = await trio.open_tcp_stream(peer.address.host, peer.address.port)
    tls = TlsStream(stream, node.identity, server=False, accept_pin=lambda pin: pin == peer.pin)
    try:
        await tls.do_handshake()
        return await open_websocket(tls, "host:1", DATA_PATH)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def ends(websocket):
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        while await websocket.receive_some():
            pass
    await trio.aclose_forcefully(websocket)


async def test_a_peer_cannot_attach_to_another_peers_session(world, monkeypatch):
    peer = world.source.offsite
    attached = []
    async with world.source.session(streams=1) as live:
        (theirs,) = world.provider.sessions.values()
        monkeypatch.setattr(theirs, "attach", lambda *what: attached.append(what))
        channel = DataChannel.initiate(1, live.started.session, b"k" * 32, b"b" * 32, b"s" * 24)
        websocket = await data_websocket(world.neighbour, peer)
        await websocket.send_all(channel.data_to_send())
        await ends(websocket)
        assert attached == []
        assert not theirs.ended.is_set(), "the session itself goes on"
        await live.close()
    (event,) = world.target.seen(SecurityEvent)
    assert "another peer" in event.what


async def test_an_unknown_session_and_garbage_are_closed(world):
    peer = world.source.offsite
    channel = DataChannel.initiate(0, b"x" * 16, b"k" * 32, b"b" * 32, b"s" * 24)
    for first in (channel.data_to_send(), b"\x16" + bytes(100), b"GET / HTTP/1.1\r\n\r\n" * 10):
        websocket = await data_websocket(world.source, peer)
        await websocket.send_all(first)
        await ends(websocket)
    assert world.front._half_open.count == 0


async def test_a_silent_data_websocket_counts_as_half_open_and_is_gone_after_ten_seconds(world, mock_clock):
    half_open = world.front._half_open
    websocket = await data_websocket(world.source, world.source.offsite)
    assert half_open.count == 1
    mock_clock.jump(10.1)
    await ends(websocket)
    assert half_open.count == 0


async def test_an_unpaired_node_gets_no_data_websocket(world, tmp_path):
    from transporter.link.identity import create_identity

    stranger = type("Stranger", (), {"identity": create_identity(tmp_path, "stranger", world.source.clock)})
    with pytest.raises(CannotConnect, match=r"refused|broke"):
        await data_websocket(stranger, world.source.offsite)


async def test_a_peer_with_another_key_is_refused(world):
    from dataclasses import replace

    peer = replace(world.source.offsite, pin=b"x" * 32, data="websocket")
    with pytest.raises(IdentityRefused):
        await dial_carrier(peer, world.source.identity)


async def test_altered_records_of_a_data_websocket_are_tampering(world, nursery):
    class Altering(Filter):
        async def pump(self, source, sink, how):
            count, number = 0, self.seen["tls"]
            up = sink.socket.getpeername()[1] == self.target.port
            try:
                while data := bytes(await source.receive_some(READ)):
                    count += len(data)
                    # The second TLS connection is the data channel; its handshake is over after some KiB.
                    if number >= 2 and up and count > 50_000:
                        data = data[:-1] + bytes([data[-1] ^ 1])
                    await sink.send_all(data)
                await sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    between = Altering(world.address, "pass")
    await nursery.start(between.run)
    world.source.dials(between.address)
    world.source.links(data="websocket")
    with pytest.raises(TamperingDetected):
        await world.source.backup()


@pytest.mark.parametrize("data", ["direct", "websocket"])
async def test_over_ipv6(data):
    async with open_world(host="::1") as world:
        assert str(world.address).startswith("[::1]:")
        world.source.links(data=data)
        await round_trip(world)

"""Peers that say nothing: each wait on a peer ends, and tells what it waited for. Small numbers instead of waiting."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import trio
from e2e_node import sealed
from e2e_relay import Fault
from e2e_trees import MIB, assert_same, large_tree

from transporter.link import control_link, listen, open_session, resilient


@pytest.fixture
def silent_server():
    """Something that takes connections and never says a word; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_peer_that_never_answers_the_handshake(pair, second_home, silent_server, monkeypatch):
    monkeypatch.setattr(control_link, "HANDSHAKE_SECONDS", 0.2)
    source = second_home(pair.source)
    source.dials("offsite", silent_server)
    done = source("points", "--from", "offsite/main")
    assert (done.status, done.failed["code"]) == (4, "cannot-connect")
    assert "did not answer" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a byte", "half a hello"])
async def test_a_node_that_connects_and_says_nothing_is_gone_in_time(first, monkeypatch):
    if not first:  # else these bytes would have to come in that time
        monkeypatch.setattr(listen, "FIRST_BYTES_SECONDS", 0.05)
    monkeypatch.setattr(control_link, "HANDSHAKE_SECONDS", 0.05)
    half_open = listen.HalfOpen()
    ended = []

    async def control(stream):
        try:
            with half_open, trio.fail_after(control_link.HANDSHAKE_SECONDS):
                await trio.sleep_forever()
        except trio.TooSlowError:
            ended.append("control")

    async def data(_preface, _carrier):
        raise AssertionError("no preface was sent")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def take(stream):
            await listen.dispatch(stream, half_open, control, data)

        nursery.start_soon(trio.serve_listeners, take, [listener])
        async with await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]) as client:
            await client.send_all(first)
            with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
        assert half_open.count == 0
        assert ended == (["control"] if first else [])
        nursery.cancel_scope.cancel()


async def test_no_more_half_open_peers_than_there_is_room_for():
    half_open = listen.HalfOpen(limit=1)

    async def never(*_):
        raise AssertionError

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def take(stream):
            await listen.dispatch(stream, half_open, never, never)

        nursery.start_soon(trio.serve_listeners, take, [listener])
        port = listener.socket.getsockname()[1]
        first = await trio.open_tcp_stream("127.0.0.1", port)
        with trio.fail_after(10):
            while not half_open.full:
                await trio.sleep(0.001)
            second = await trio.open_tcp_stream("127.0.0.1", port)
            assert await second.receive_some() == b"", "closed at once"
        await first.aclose()
        await second.aclose()
        with trio.fail_after(10):
            while half_open.count:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


class Silence(threading.Event):
    """Set when the line goes silent: from then on nothing is waited for long, until ``over`` is called.

    Neither before nor after: a loaded machine is slow, and a line that is merely slow must not be given up here.
    """

    def __init__(self, monkeypatch, **more):
        super().__init__()
        self._patched = monkeypatch
        monkeypatch.setattr(control_link, "HEARTBEAT_SECONDS", 0.1)
        monkeypatch.setattr(resilient, "WATCH_SECONDS", 0.1)
        self._short = {"SILENCE_SECONDS": 0.6, "STALL_SECONDS": 0.8, **more}
        self._usual = {name: getattr(module_of(name), name) for name in self._short}

    def set(self):
        self._wait_for(self._short)
        super().set()

    def over(self):
        self._wait_for(self._usual)

    def _wait_for(self, seconds):
        for name, value in seconds.items():
            self._patched.setattr(module_of(name), name, value)


def module_of(name):
    return resilient if hasattr(resilient, name) else control_link


@pytest.mark.parametrize("kind", ["control", "data"])
def test_a_line_that_goes_silent_is_given_up_and_dialled_again(new_pair, relay, tmp_path, monkeypatch, kind):
    """No reset, no end: the bytes just stop, as when a firewall forgets a connection."""
    silence = Silence(monkeypatch)
    pair = new_pair()
    line = relay(pair)
    tree = large_tree(tmp_path / "tree", 6)
    direction, after = {"control": ("down", 2900), "data": ("up", 2 * MIB)}[kind]
    stall = line.plan(Fault("stall", after=after, direction=direction, kind=kind, fired=silence))

    def pass_on(kind):
        # Dialled again: this line is a good one (the old connections stay silent for ever).
        if kind == "control" and silence.is_set() and stall in line.faults:
            silence.over()
            line.faults.remove(stall)

    line.on_connection = pass_on
    done = pair.source.ok("backup", "--job", "docs", *sealed(), tree)
    assert stall.fired.is_set()
    assert done.events("link_lost"), done
    assert done.finished["redials"] >= 1
    silence.over()  # of data it never was: what follows must not be given up because the machine is slow
    pair.source.job("restore", "docs", "latest", "--output", tmp_path / "out")
    assert_same(tree, tmp_path / "out")


def test_a_peer_that_never_comes_back_from_silence_ends_the_job(new_pair, relay, tmp_path, monkeypatch):
    silence = Silence(monkeypatch, HANDSHAKE_SECONDS=0.2)
    pair = new_pair()
    pair.source.limit('redial_for = "1s"')
    line = relay(pair)
    tree = large_tree(tmp_path / "tree", 6)
    for direction in ("up", "down"):
        for kind in ("control", "data"):
            after = 2 * MIB if kind == "data" else 3000
            line.plan(Fault("stall", after=after, direction=direction, kind=kind, fired=silence))
    done = pair.source("backup", "--job", "docs", *sealed(), tree)
    assert (done.status, done.failed["code"]) == (1, "link-lost"), done
    assert "run the job again" in done.failed["remedy"]


def test_a_peer_that_never_starts_the_session_is_given_up(new_pair, relay, tmp_path, monkeypatch):
    pair = new_pair()
    line = relay(pair)
    tree = large_tree(tmp_path / "tree", 1)
    pair.source.job("backup", "--job", "first", *sealed(), tree)
    monkeypatch.setattr(open_session, "ANSWER_SECONDS", 0.3)
    start = open_session._start

    async def into_silence(link, message):
        # Here and not after a number of bytes: how many TLS and Hello take differs by what their random numbers weigh.
        line.plan(Fault("stall", after=0, direction="down", kind="control"))
        return await start(link, message)

    monkeypatch.setattr(open_session, "_start", into_silence)
    done = pair.source("backup", "--job", "docs", *sealed(), tree)
    assert (done.status, done.failed["code"]) == (4, "cannot-connect"), done
    assert "did not start the session in time" in done.err and done.err.count("\n") == 1

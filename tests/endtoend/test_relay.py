"""The relay itself: what it does to a line must be what it says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from e2e_line import WINDOW, Bottleneck, LongWay
from e2e_node import wait_until
from e2e_relay import RandomCuts, Relay
from e2e_trees import noise

MANY = 300_000


@pytest.fixture
def echo():
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while block := connection.recv(65536):
                connection.sendall(block)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                thread = threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True)
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join(10)
    for thread in threads:
        thread.join(10)


@pytest.fixture
def through(echo):
    """``through(**how)``: a relay before the echo."""
    made = []

    def make(**how):
        made.append(Relay(echo, **how))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def round_trip(relay, data):
    """Send, and return what came back until the end, or until the connection was reset."""
    got = bytearray()
    with socket.create_connection(("127.0.0.1", relay.port)) as sock:

        def send():
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        with contextlib.suppress(ConnectionResetError):
            while block := sock.recv(65536):
                got += block
        sending.join(10)
    return bytes(got)


@pytest.mark.parametrize("how", [{}, {"delay": 0.02}, {"rate": 3e6}, {"delay": 0.01, "rate": 5e6, "window": 65536}])
def test_every_byte_passes_in_its_order(through, how):
    data = noise(MANY, 1)
    assert round_trip(through(**how), data) == data


def test_a_delay_is_met_on_both_ways(through):
    relay = through(delay=0.15)
    began = time.monotonic()
    assert round_trip(relay, b"x") == b"x"
    assert time.monotonic() - began >= 0.3


def test_connections_share_the_rate(through):
    relay = through(rate=1e6)
    began = time.monotonic()
    threads = [threading.Thread(target=round_trip, args=(relay, noise(MANY, at))) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Both ways have a bottleneck of their own, and what is through the first enters the second at once.
    assert time.monotonic() - began >= 2 * MANY / 1e6


def test_a_bottleneck_sends_one_after_the_other():
    bottleneck = Bottleneck(1000.0)
    assert [bottleneck.leaves(500, now) for now in (10.0, 10.0, 12.0)] == [10.5, 11.0, 12.5]
    assert Bottleneck(None).leaves(500, 7.0) == 7.0


def test_a_long_way_holds_no_more_than_its_window():
    near, far = socket.socketpair()
    with near, far:
        way = LongWay(near, 3600.0, Bottleneck(None), lambda: None)
        block = bytes(1 << 20)

        def fill():
            with contextlib.suppress(ConnectionResetError):
                while True:
                    way.put(block)

        filling = threading.Thread(target=fill, daemon=True)
        filling.start()
        # Nothing has come out yet: what follows does not wait for what is on its way.
        wait_until(lambda: way.held >= WINDOW, "the window to be full")
        assert way.held < WINDOW + len(block)
        way.drop()
        filling.join(10)
        assert not filling.is_alive()


def test_random_cuts_come_as_often_as_they_should_and_where_the_seed_says(through):
    data = noise(MANY, 2)

    def cut_places(seed):
        relay = through()
        cuts = relay.cut_at_random(RandomCuts(times=5, most=100_000, seed=seed))
        places = []
        for number in range(1, 6):
            before = relay.total
            round_trip(relay, data)
            assert cuts.done == number
            places.append(relay.total - before)
        assert round_trip(relay, data) == data
        assert cuts.done == 5
        return places

    first = cut_places(7)
    assert first == cut_places(7) != cut_places(8)
    assert all(place < 100_000 for place in first)


@pytest.mark.parametrize("alone", [True, False])
def test_a_random_cut_breaks_one_connection_or_all(through, alone):
    relay = through()
    with (
        socket.create_connection(("127.0.0.1", relay.port)) as other,
        socket.create_connection(("127.0.0.1", relay.port)) as sock,
    ):
        for each in (other, sock):
            each.sendall(b"a")
            assert each.recv(1) == b"a"
        relay.cut_at_random(RandomCuts(times=1, most=1, alone=alone))
        sock.sendall(b"b")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        if alone:
            other.sendall(b"c")
            assert other.recv(1) == b"c"
        else:
            with contextlib.suppress(ConnectionResetError):
                assert other.recv(1) == b""

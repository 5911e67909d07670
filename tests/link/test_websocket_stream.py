"""A WebSocket as a byte stream: every byte arrives, whatever the other side does with the WebSocket around them."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from transporter.errors import CannotConnect
from transporter.link.websocket_stream import (
    IDLE_SECONDS,
    SLICE,
    SUBPROTOCOL,
    TUNNEL_PATH,
    WebSocketStream,
    accept_websocket,
    open_websocket,
)


@pytest.fixture
def wire():
    return trio.testing.memory_stream_pair()


@pytest.fixture
async def ends(wire):
    made = {}

    async def serve():
        made["server"] = await accept_websocket(wire[1], TUNNEL_PATH)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = await open_websocket(wire[0], "host:1", TUNNEL_PATH)
    return client, made["server"]


async def read(stream, count):
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        assert more
        data += more
    return data


class Raw:
    """The other side, message by message."""

    def __init__(self, stream):
        self.stream, self.ws, self.events = stream, WSConnection(ConnectionType.SERVER), []

    async def next(self):
        while not self.events:
            self.ws.receive_data(bytes(await self.stream.receive_some()))
            self.events += list(self.ws.events())
        return self.events.pop(0)

    async def send(self, *events):
        await self.stream.send_all(b"".join(self.ws.send(event) for event in events))

    async def accept(self):
        assert isinstance(await self.next(), Request)
        await self.send(AcceptConnection(subprotocol=SUBPROTOCOL))


@pytest.fixture
async def raw(wire):
    """A client, and what serves it."""
    made = Raw(wire[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.accept)
        client = await open_websocket(wire[0], "host:1", TUNNEL_PATH)
    return client, made


async def test_every_byte_arrives_both_ways(ends):
    sent = [os.urandom(size) for size in (0, 1, 125, 126, 65_536, SLICE, 2 * SLICE + 7)]
    for near, far in (ends, ends[::-1]):
        async with trio.open_nursery() as nursery:

            async def send(near=near):
                for part in sent:
                    await near.send_all(part)

            nursery.start_soon(send)
            assert await read(far, sum(map(len, sent))) == b"".join(sent)


async def test_messages_are_slices(raw):
    client, server = raw
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(SLICE + 1))
        sizes, size = [], 0
        while sum(sizes) < SLICE + 1:
            event = await server.next()
            assert isinstance(event, BytesMessage)
            size += len(event.data)
            if event.message_finished:
                sizes.append(size)
                size = 0
    assert sizes == [SLICE, 1]


async def test_a_reader_answers_pings_and_takes_what_came_behind_them(raw):
    client, server = raw
    await server.send(Ping(payload=b"x"), BytesMessage(data=b"more"))
    assert await client.receive_some() == b"more"
    answer = await server.next()
    assert isinstance(answer, Pong)
    assert answer.payload == b"x"


async def test_a_reader_does_not_wait_for_a_sender_to_answer_a_ping(raw, wire):
    client, server = raw
    hold, pump = trio.Event(), wire[0].send_stream.send_all_hook

    async def later():
        await hold.wait()
        await pump()

    wire[0].send_stream.send_all_hook = later
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"long")
        await trio.testing.wait_all_tasks_blocked()
        await server.send(Ping(payload=b"x"), BytesMessage(data=b"here"))
        with trio.fail_after(5):
            assert await client.receive_some() == b"here"
        hold.set()
    assert isinstance(await server.next(), BytesMessage)
    assert isinstance(await server.next(), Pong), "whoever was sending sends the answer"


async def test_silence_is_filled_with_pings(raw, autojump_clock):
    client, server = raw
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        for number in (1, 2):
            assert isinstance(await server.next(), Ping)
            assert trio.current_time() - began == pytest.approx(number * IDLE_SECONDS)
        nursery.cancel_scope.cancel()


async def test_a_goodbye_is_the_end_and_is_answered(raw):
    client, server = raw
    await server.send(BytesMessage(data=b"last"), CloseConnection(code=1000))
    assert await client.receive_some() == b"last"
    assert await client.receive_some() == b""
    assert await client.receive_some() == b""
    assert isinstance(await server.next(), CloseConnection)
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"too late")


async def test_closing_says_goodbye(raw):
    client, server = raw
    await client.aclose()
    assert isinstance(await server.next(), CloseConnection)
    await client.aclose()


async def test_a_cut_is_not_an_end(raw, wire):
    client, _ = raw
    await wire[1].aclose()
    with pytest.raises(trio.BrokenResourceError, match="without a goodbye"):
        await client.receive_some()


@pytest.mark.parametrize("what", ["text", "masked", "reserved"])
async def test_what_is_no_binary_message_ends_it(raw, wire, what):
    client, server = raw
    frame = {"text": server.ws.send(TextMessage(data="hello")), "masked": b"\x82\x81abcdx", "reserved": b"\xf2\x01x"}
    await wire[1].send_all(frame[what])
    with pytest.raises(trio.BrokenResourceError, match="not a WebSocket"):
        await client.receive_some()


async def test_nothing_follows_a_send_that_was_cut_short(raw, wire):
    client, _ = raw
    pump, wire[0].send_stream.send_all_hook = wire[0].send_stream.send_all_hook, trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"half")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    wire[0].send_stream.send_all_hook = pump
    with pytest.raises(trio.BrokenResourceError, match="cut short"):
        await client.send_all(b"more")
    await client.aclose()


async def test_the_first_bytes_may_come_with_the_answer(wire):
    server = Raw(wire[1])

    async def serve():
        await server.next()
        await server.send(AcceptConnection(subprotocol=SUBPROTOCOL), BytesMessage(data=b"at once"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        client = await open_websocket(wire[0], "host:1", TUNNEL_PATH)
    assert await client.receive_some(2) == b"at"
    assert await client.receive_some() == b" once"


# --- the handshake --------------------------------------------------------------------------------------------

ANSWERS = {
    "502": (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "HTTP status 502"),
    "another protocol": (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\n\r\n", "no transporter"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "no transporter"),
    "nothing": (b"", r"no transporter|broke"),
    "without end": (b"HTTP/1.1 101 Switching\r\n" + b"a: b\r\n" * 5000, r"no transporter|broke"),
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_whatever_answers_instead_is_named(wire, what):
    answer, message = ANSWERS[what]

    async def serve():
        await wire[1].receive_some()
        await wire[1].send_all(answer)
        await wire[1].aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(CannotConnect, match=message):
            await open_websocket(wire[0], "host:1", TUNNEL_PATH)


GOOD = [f"GET {TUNNEL_PATH} HTTP/1.1", "host: x", "upgrade: websocket", "connection: upgrade"]
GOOD += ["sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version: 13"]
GOOD += [f"sec-websocket-protocol: other, {SUBPROTOCOL}"]


def request(*lines):
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def test_a_request_is_accepted(wire):
    await wire[0].send_all(request(*GOOD))
    assert isinstance(await accept_websocket(wire[1], TUNNEL_PATH), WebSocketStream)
    assert (await wire[0].receive_some()).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    "data",
    [
        request("GET / HTTP/1.1", *GOOD[1:]),
        request(*GOOD[:-1]),
        request(*GOOD[:-1], "sec-websocket-protocol: chat"),
        request(GOOD[0], "host: x"),
        request(*GOOD[:5], "sec-websocket-version: 7", GOOD[6]),
        request(GOOD[0], "host: xn--a\xff", *GOOD[2:]),
        request(*GOOD, *(["a: " + "b" * 1000] * 40)),
        b"GARBAGE\r\n\r\n",
        b"G" * 50_000,
    ],
)
async def test_anything_else_is_told_nothing(wire, data):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire[0].send_all, data)
        assert await accept_websocket(wire[1], TUNNEL_PATH) is None
    await wire[1].aclose()
    assert await wire[0].receive_some() == b""

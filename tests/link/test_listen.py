"""One port, four kinds of first byte; nobody stays half-open for long, and only so many at once."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from protocol.data import PREFACE_LENGTH, PREFACE_MAGIC, DataChannel
from transporter.errors import CannotConnect, ConfigError
from transporter.link.address import Address
from transporter.link.listen import FIRST_BYTES_SECONDS, HalfOpen, bound_address, dispatch, open_listeners
from transporter.link.websocket_stream import DATA_PATH, TUNNEL_PATH, open_websocket

PREFACE = DataChannel.initiate(3, b"s" * 16, b"k" * 32, b"b" * 32, b"x" * 24).data_to_send()


class Door:
    """A listener that notes what it was handed."""

    def __init__(self, limit=512):
        self.half_open = HalfOpen(limit)
        self.control, self.data = [], []
        self.stay = trio.Event()
        self.dialled = []

    async def take(self, stream):
        await dispatch(stream, self.half_open, self._control, self._data)

    async def _control(self, stream):
        self.control.append(await stream.receive_some(100))
        await self.stay.wait()

    async def _data(self, preface, carrier):
        rest = bytearray(100)
        count = await carrier.receive_into(memoryview(rest))
        self.data.append((preface, bytes(rest[:count])))


@pytest.fixture
async def door(nursery):
    made = Door()
    made.listeners = await open_listeners(Address("127.0.0.1", 0))
    made.address = bound_address(made.listeners)
    made.serving = trio.CancelScope()

    async def serve():
        with made.serving:
            await trio.serve_listeners(made.take, made.listeners)

    nursery.start_soon(serve)
    yield made
    made.serving.cancel()
    for stream in made.dialled:
        await trio.aclose_forcefully(stream)


async def dial(door):
    stream = await trio.open_tcp_stream(door.address.host, door.address.port)
    door.dialled.append(stream)
    return stream


async def closed(stream):
    """Wait until the other end has closed; it must send nothing."""
    try:
        assert await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        pass  # it closed before it had read everything
    await stream.aclose()


async def test_a_tls_record_is_handed_on_untouched(door):
    stream = await dial(door)
    await stream.send_all(b"\x16hello")
    door.stay.set()
    await closed(stream)
    assert door.control == [b"\x16hello"]


@pytest.mark.parametrize("cut", [1, 8, 50, PREFACE_LENGTH])
async def test_a_preface_is_read_and_what_follows_it_is_left(door, cut):
    stream = await dial(door)
    await stream.send_all(PREFACE[:cut])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await stream.send_all(PREFACE[cut:] + b"more")
    await stream.send_eof()
    await closed(stream)
    ((preface, rest),) = door.data
    assert (preface.channel, preface.session) == (3, b"s" * 16)
    assert rest in (b"more", b"")


HOSTILE = {
    "plain http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9\r\n",
    "zeros": bytes(200),
    "another magic": b"\xf4TPDATB" + bytes(200),
    "a future version": PREFACE_MAGIC + b"\x02" + bytes(200),
    "a channel number too high": PREFACE[:9] + b"\xff\xff" + PREFACE[11:],
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_anything_else_is_closed_at_once_and_told_nothing(door, what):
    stream = await dial(door)
    await stream.send_all(HOSTILE[what])
    with trio.fail_after(5):
        await closed(stream)
    assert (door.control, door.data) == ([], [])
    assert door.half_open.count == 0


@pytest.mark.parametrize("sent", [b"", PREFACE[:1], PREFACE[:40]])
async def test_who_says_nothing_is_gone_after_ten_seconds(autojump_clock, door, sent):
    stream = await dial(door)
    if sent:
        await stream.send_all(sent)
    await trio.testing.wait_all_tasks_blocked(0.01)
    began = trio.current_time()
    await closed(stream)
    assert trio.current_time() - began <= FIRST_BYTES_SECONDS == 10
    assert (door.control, door.data, door.half_open.count) == ([], [], 0)


async def test_who_hangs_up_at_once_is_nobodys_business(door):
    for sent in (b"", PREFACE[:20]):
        stream = await dial(door)
        if sent:
            await stream.send_all(sent)
        await stream.send_eof()
        await closed(stream)
    assert (door.control, door.data, door.half_open.count) == ([], [], 0)


async def test_half_open_peers_are_few(mock_clock, door):
    door.half_open = HalfOpen(2)
    waiting = [await dial(door) for _ in range(2)]
    while door.half_open.count < 2:
        await trio.testing.wait_all_tasks_blocked(0.001)
    await closed(await dial(door))  # one too many: closed before its first byte
    await waiting[0].send_all(b"\x16")
    while not door.control:
        await trio.testing.wait_all_tasks_blocked(0.001)
    assert door.half_open.count == 1, "one of them said who it is"
    third = await dial(door)
    await third.send_all(b"\x16")
    while len(door.control) < 2:
        await trio.testing.wait_all_tasks_blocked(0.001)
    door.stay.set()
    for stream in (waiting[0], third):
        await closed(stream)
    await waiting[1].aclose()


async def test_an_address_that_is_taken_or_not_ours(door):
    with pytest.raises(ConfigError, match="cannot listen"):
        await open_listeners(door.address)
    with pytest.raises(ConfigError, match="cannot listen"):
        await open_listeners(Address("203.0.113.1", 1))


# --- inside an outer WebSocket --------------------------------------------------------------------------------


async def tunnel(door):
    return await open_websocket(await dial(door), "host:1", TUNNEL_PATH)


async def test_inside_an_outer_websocket_the_first_byte_decides_again(door):
    stream = await tunnel(door)
    await stream.send_all(b"\x16hello")
    door.stay.set()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert door.control == [b"\x16hello"]
    for cut in (1, 50, PREFACE_LENGTH):
        stream = await tunnel(door)
        await stream.send_all(PREFACE[:cut])
        await stream.send_all(PREFACE[cut:] + b"more")
        with pytest.raises(trio.BrokenResourceError):
            assert await stream.receive_some()
        preface, rest = door.data.pop()
        assert (preface.channel, preface.session) == (3, b"s" * 16)
        assert rest == b"more"


@pytest.mark.parametrize("path", [DATA_PATH, "/transporter/v1", "/"])
async def test_another_path_is_told_nothing(door, path):
    with trio.fail_after(5), pytest.raises(CannotConnect, match=r"no transporter|broke"):
        await open_websocket(await dial(door), "host:1", path)
    assert door.half_open.count == 0


@pytest.mark.parametrize("first", [b"GET " + TUNNEL_PATH.encode(), b"SSH-2.0", PREFACE_MAGIC + b"\x02" + bytes(100)])
async def test_anything_else_inside_is_closed_and_no_websocket_is_unpacked_twice(door, first):
    stream = await tunnel(door)
    await stream.send_all(first)
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        assert await stream.receive_some()
    assert (door.control, door.data, door.half_open.count) == ([], [], 0)


async def test_outer_and_inner_first_bytes_have_one_deadline_and_one_place(mock_clock, door):
    stream = await dial(door)
    await stream.send_all(b"GET ")
    while door.half_open.count != 1:
        await trio.testing.wait_all_tasks_blocked(0.001)
    mock_clock.jump(FIRST_BYTES_SECONDS - 1)
    await stream.send_all(f"{TUNNEL_PATH} HTTP/1.1\r\nhost: x\r\n".encode())
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert door.half_open.count == 1
    mock_clock.jump(1.1)
    await closed(stream)
    inner = await tunnel(door)
    assert door.half_open.count == 1, "the WebSocket stands, and nobody knows yet what for"
    mock_clock.jump(FIRST_BYTES_SECONDS + 0.1)
    with pytest.raises(trio.BrokenResourceError):
        await inner.receive_some()
    assert (door.control, door.data, door.half_open.count) == ([], [], 0)

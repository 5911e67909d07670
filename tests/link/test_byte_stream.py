"""Any stream can be looked at before it is handed on, and carry a data channel."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from transporter.link.byte_stream import (
    IncomingSocket,
    IncomingStream,
    PeekedStream,
    StreamCarrier,
    carrier_over,
    incoming,
)
from transporter.link.carrier import SocketCarrier


@pytest.fixture(params=["socket", "stream"])
async def ends(request):
    """Two ends of a connection; the second is the one that is looked at."""
    if request.param == "stream":
        yield trio.testing.memory_stream_pair()
        return
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    far = await listeners[0].accept()
    await listeners[0].aclose()
    yield near, far
    for end in (near, far):
        await trio.aclose_forcefully(end)


async def test_what_was_peeked_at_still_comes_and_what_was_taken_does_not(ends):
    near, far = ends
    connection = incoming(far)
    assert isinstance(connection, IncomingSocket if isinstance(far, trio.SocketStream) else IncomingStream)
    await near.send_all(b"abcdefgh")
    assert await connection.peek() == b"a"
    assert await connection.peek() == b"a"
    assert await connection.take(3) == b"abc"
    assert await connection.stream.receive_some(2) == b"de"
    assert await connection.stream.receive_some() == b"fgh"


async def test_a_stream_may_end_early(ends):
    near, far = ends
    connection = incoming(far)
    await near.send_all(b"abc")
    await near.send_eof()
    assert await connection.take(9) == b"abc"
    assert await connection.peek() == b""


async def test_a_carrier_brings_what_was_not_taken_and_sends(ends):
    near, far = ends
    connection = incoming(far)
    await near.send_all(b"abcdef")
    assert await connection.peek() == b"a"
    assert await connection.take(2) == b"ab"
    carrier = connection.carrier()
    buffer = bytearray(3)
    assert await carrier.receive_into(memoryview(buffer), 3) == 3
    assert buffer == b"cde"
    await carrier.send_all(memoryview(b"answer"))
    assert await near.receive_some() == b"answer"
    await carrier.send_eof()
    assert await near.receive_some() == b""
    await carrier.aclose()


def test_the_best_carrier_is_chosen():
    assert isinstance(carrier_over(trio.testing.memory_stream_pair()[0]), StreamCarrier)


async def test_a_socket_keeps_its_fast_path(ends):
    expected = SocketCarrier if isinstance(ends[1], trio.SocketStream) else StreamCarrier
    assert isinstance(carrier_over(ends[1]), expected)


async def test_closing_wakes_who_reads(ends):
    carrier = carrier_over(ends[1])
    async with trio.open_nursery() as nursery:

        async def read():
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                await carrier.receive_into(memoryview(bytearray(10)))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            await carrier.aclose()


async def test_bytes_that_were_read_ahead_come_first():
    near, far = trio.testing.memory_stream_pair()
    stream = PeekedStream(far, b"ahead")
    await near.send_all(b"later")
    assert await stream.receive_some(3) == b"ahe"
    assert await stream.peek() == b"ad"
    assert await stream.receive_some() == b"ad"
    assert await stream.receive_some() == b"later"
    await stream.send_all(b"back")
    assert await near.receive_some() == b"back"
    await stream.wait_send_all_might_not_block()
    await stream.aclose()
    assert await near.receive_some() == b""

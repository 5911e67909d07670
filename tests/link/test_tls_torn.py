"""A send that is cancelled: half-way the peer hears of a cut line, never of tampering; before that nothing is lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from transporter.clock import SystemClock
from transporter.link.identity import Identity, create_identity
from transporter.link.tls import TlsStream
from transporter.throttle.limits import NO_LIMIT, free_flow


class HalfSender(trio.abc.Stream):
    """Passes everything on until told to stop in the middle of a send."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.half = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.half:
            await self.inner.send_all(data)
            return
        await self.inner.send_all(bytes(data)[: len(data) // 2])
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


def identity(folder, name: str) -> Identity:
    folder.mkdir()
    return create_identity(folder, name, SystemClock())


async def test_nothing_follows_half_a_record(tmp_path) -> None:
    left, right = trio.testing.memory_stream_pair()
    carrier = HalfSender(left)
    client = TlsStream(carrier, identity(tmp_path / "a", "a"), server=False, accept_pin=lambda _pin: True)
    server = TlsStream(right, identity(tmp_path / "b", "b"), server=True, accept_pin=lambda _pin: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    async with trio.open_nursery() as nursery:
        carrier.half = True
        nursery.start_soon(client.send_all, b"x" * 5000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    carrier.half = False
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"more")
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    assert server.refusal is None
    await server.aclose()


class Counting(HalfSender):
    """Counts the bytes that it was given."""

    taken = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += len(data)
        await super().send_all(data)


@pytest.fixture
async def line(tmp_path):
    """A client and a server that have shaken hands, and the client's carrier."""
    left, right = trio.testing.memory_stream_pair()
    carrier = Counting(left)
    client = TlsStream(carrier, identity(tmp_path / "a", "a"), server=False, accept_pin=lambda _pin: True)
    server = TlsStream(right, identity(tmp_path / "b", "b"), server=True, accept_pin=lambda _pin: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    carrier.taken = 0
    return client, server, carrier


async def slow_flow():
    """A flow of one byte a second that has just had its first one: the next send waits."""
    flow = free_flow()
    flow.asked(1)
    await flow.sending.take(1)
    return flow


async def cancelled_send(client, data, until=lambda: True):
    """Begin to send, and cancel it where it waits for the limit and ``until`` is true."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(20):
            while not until():
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def received(server, count):
    got = b""
    with trio.fail_after(600):
        while len(got) < count:
            got += await server.receive_some()
    return got


async def test_a_send_that_is_cancelled_before_its_first_byte_left_goes_first_the_next_time(line, autojump_clock):
    client, server, carrier = line
    client.flow = await slow_flow()
    await cancelled_send(client, b"first")
    assert carrier.taken == 0
    client.flow = NO_LIMIT
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"second")
        assert await received(server, 11) == b"firstsecond"
        nursery.start_soon(client.send_all, b"third")
        assert await received(server, 5) == b"third"
    await client.aclose()
    assert await server.receive_some() == b"", "and an orderly end is one"


async def test_a_cancellation_that_is_due_when_the_sender_gets_its_turn_loses_nothing_either(line, autojump_clock):
    client, server, carrier = line
    async with trio.open_nursery() as nursery:
        async with client._sending:
            nursery.start_soon(client.send_all, b"first")
            await trio.testing.wait_all_tasks_blocked()
        # Its turn has come, and so it is not cancelled where it waited for that.
        nursery.cancel_scope.cancel()
    assert carrier.taken == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"second")
        assert await received(server, 11) == b"firstsecond"


async def test_a_send_that_is_cancelled_between_two_slices_is_the_last_one(line, autojump_clock):
    client, server, carrier = line
    client.flow = await slow_flow()
    await cancelled_send(client, b"first", lambda: carrier.taken)
    assert carrier.taken == 1
    client.flow = NO_LIMIT
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="cut short"):
            await client.send_all(b"more")
    await client.aclose()
    assert carrier.taken == 1
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    assert server.refusal is None


async def test_nothing_follows_a_cancelled_send_of_which_a_part_was_never_encrypted(line, autojump_clock):
    """It is longer than one record: the rest of it is gone, and what came next would take its place."""
    client, server, carrier = line
    client.flow = await slow_flow()
    await cancelled_send(client, bytes(20_000))
    client.flow = NO_LIMIT
    with pytest.raises(trio.BrokenResourceError, match="cut short"):
        await client.send_all(b"more")
    await client.aclose()
    assert carrier.taken == 0
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    assert server.refusal is None


async def test_two_flushes_at_once_are_refused_and_no_record_goes_twice(line, autojump_clock):
    client, server, _carrier = line
    client.flow = await slow_flow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"once")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client._flush()
        assert await received(server, 4) == b"once"
    client.flow = NO_LIMIT
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"again")
        assert await received(server, 5) == b"again"


async def test_closing_while_a_send_waits_puts_nothing_in_between(line, autojump_clock):
    client, server, carrier = line
    client.flow = await slow_flow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"never")
        await trio.testing.wait_all_tasks_blocked()
        client.flow = NO_LIMIT
        await client.aclose()
        assert carrier.taken == 0
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    assert server.refusal is None

"""Data channels over real sockets: frames of every size arrive, whatever the kernel's segments are."""

from __future__ import annotations

import fcntl
import random
import socket
import sys
import termios

import pytest
import trio
import trio.testing

from pipeline.run import first_error
from protocol.data import HEADROOM, PREFACE_LENGTH, DataChannel, parse_preface
from protocol.messages import Chunk, Fin
from transporter.errors import TamperingDetected
from transporter.link.broken import LinkBroken
from transporter.link.carrier import LOW_WATER, SocketCarrier
from transporter.link.data_link import DataLink

SESSION, KEY, BINDING, SALT = bytes(16), bytes(32), bytes(32), bytes(24)


class Counting(SocketCarrier):
    """Fails when more bytes are waited for than the frame under way still brings (or, between two, a length word)."""

    def __init__(self, carrier: SocketCarrier) -> None:
        super().__init__(carrier._socket)
        self.came = 0
        self.frames_end = 0

    async def receive_into(self, buffer: memoryview, missing: int = 1) -> int:
        between_frames = self.came >= self.frames_end
        assert self.came + missing <= self.frames_end + (4 if between_frames else 0)
        count = await super().receive_into(buffer, missing)
        self.came += count
        return count


async def carriers() -> tuple[SocketCarrier, SocketCarrier]:
    """Return the two ends of a TCP connection on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    dialled = await trio.open_tcp_stream(*listener.socket.getsockname())
    accepted = await listener.accept()
    await listener.aclose()
    return SocketCarrier(dialled.socket), SocketCarrier(accepted.socket)


async def open_pair() -> tuple[DataLink, DataLink]:
    """Return an opened channel 1, initiator first."""
    left, right = await carriers()
    initiator = DataLink(
        DataChannel.initiate(channel=1, session=SESSION, input_key=KEY, binding=BINDING, salt=SALT), left, "acceptor"
    )
    await initiator.open_as_initiator(None)
    preface = bytearray(PREFACE_LENGTH)
    got = 0
    while got < PREFACE_LENGTH:
        got += await right.receive_into(memoryview(preface)[got:])
    parsed = parse_preface(preface)
    assert parsed is not None
    acceptor = DataLink(DataChannel.accept(parsed, input_key=KEY, binding=BINDING), right, "initiator")
    await acceptor.open_as_acceptor()
    return initiator, acceptor


def sizes() -> list[int]:
    """Return payload sizes around everything that could matter: the low-water mark, whole frames, tiny ones."""
    chance = random.Random(6180)
    edges = [1, 2, 57, 58, LOW_WATER - 64, LOW_WATER - 1, LOW_WATER, LOW_WATER + 1, LOW_WATER + 64, 4 << 20]
    return edges + [chance.randrange(1, 1 << chance.randrange(1, 22)) for _ in range(200)] + edges


async def test_the_rest_of_a_frame_is_received_though_nothing_follows_it() -> None:
    """A receiver that waited for more bytes than the frame still has would wait for ever."""
    left, accepted = await carriers()
    right = Counting(accepted)
    channel = DataChannel.initiate(channel=1, session=SESSION, input_key=KEY, binding=BINDING, salt=SALT)
    parsed = parse_preface(channel.data_to_send())
    assert parsed is not None
    acceptor_channel = DataChannel.accept(parsed, input_key=KEY, binding=BINDING)
    channel.receive_data(acceptor_channel.data_to_send())
    acceptor = DataLink(acceptor_channel, right, "initiator")
    got: list[int] = []

    async def receive() -> None:
        for _ in range(len(sizes())):
            got.append(len((await acceptor.receive()).payload))

    chance = random.Random(1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for number, size in enumerate(sizes()):
                header = Chunk(id=number.to_bytes(32, "big"), codec=0, plain_length=size)
                frame = bytes(channel.seal_chunk(header, bytearray(HEADROOM + size)))
                right.frames_end += len(frame)
                half = chance.randrange(1, len(frame))
                await left.send_all(frame[:half])
                await trio.testing.wait_all_tasks_blocked()
                await left.send_all(frame[half:])
                await trio.testing.wait_all_tasks_blocked()
    assert got == sizes()
    await left.aclose()
    await acceptor.aclose()


async def test_a_stream_of_frames_and_its_fin() -> None:
    initiator, acceptor = await open_pair()
    wanted = sizes()

    async def send() -> None:
        for number, size in enumerate(wanted):
            header = Chunk(id=number.to_bytes(32, "big"), codec=0, plain_length=size)
            await initiator.send_chunk(header, bytearray(HEADROOM + size))
        await initiator.finish()

    got = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while not isinstance((event := await acceptor.receive()).message, Fin):
                got.append(len(event.payload))
    assert got == wanted
    await initiator.aclose()
    await acceptor.aclose()


async def test_an_end_without_fin_is_a_broken_link() -> None:
    initiator, acceptor = await open_pair()
    await initiator.send_chunk(Chunk(id=bytes(32), codec=0, plain_length=9), bytearray(HEADROOM + 9))
    await initiator.aclose()
    with trio.fail_after(10):
        assert isinstance((await acceptor.receive()).message, Chunk)
        with pytest.raises(LinkBroken):
            await acceptor.receive()
    await acceptor.aclose()


async def test_a_changed_byte_is_tampering() -> None:
    left, right = await carriers()
    channel = DataChannel.initiate(channel=1, session=SESSION, input_key=KEY, binding=BINDING, salt=SALT)
    parsed = parse_preface(channel.data_to_send())
    assert parsed is not None
    acceptor_channel = DataChannel.accept(parsed, input_key=KEY, binding=BINDING)
    channel.receive_data(acceptor_channel.data_to_send())
    acceptor = DataLink(acceptor_channel, right, "initiator")
    frame = bytearray(channel.seal_chunk(Chunk(id=bytes(32), codec=0, plain_length=99), bytearray(HEADROOM + 99)))
    frame[60] ^= 1
    await left.send_all(frame)
    with trio.fail_after(10), pytest.raises(TamperingDetected):
        await acceptor.receive()
    await left.aclose()
    await acceptor.aclose()


async def arrived(carrier: SocketCarrier) -> None:
    """Wait until bytes have come, however few: the kernel wakes nobody for less than the low-water mark."""
    count = bytearray(4)
    with trio.fail_after(10):
        while not int.from_bytes(count, sys.byteorder):
            fcntl.ioctl(carrier._socket.fileno(), termios.FIONREAD, count)
            await trio.sleep(0.001)


async def test_the_low_water_mark_is_what_is_missing_and_bounded() -> None:
    left, right = await carriers()
    await left.send_all(bytes(100))
    buffer = memoryview(bytearray(1 << 20))
    for missing, mark in ((7, 7), (1, 1), (LOW_WATER - 1, LOW_WATER - 1), (LOW_WATER, LOW_WATER), (1 << 20, LOW_WATER)):
        await left.send_all(b"x")
        await arrived(right)
        await right.receive_into(buffer, missing)
        assert right._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == mark
    await left.aclose()
    await right.aclose()


def test_tampering_goes_before_the_break_that_came_in_the_same_moment():
    """Whoever alters one connection may cut the others: a broken line would be dialled again, and nobody told."""
    tampering = TamperingDetected("altered", "")
    cut = BaseExceptionGroup("", [LinkBroken("cut"), BaseExceptionGroup("", [LinkBroken("cut"), tampering])])
    assert first_error(cut) is tampering


async def test_whoever_sends_on_a_channel_that_broke_meets_a_broken_link():
    """The end of a run says FIN on every channel; its receiving task may have found one broken a moment before."""
    initiator, acceptor = await open_pair()
    await acceptor._carrier.aclose()
    with pytest.raises(LinkBroken):
        await initiator.receive()
    for sending in (
        initiator.finish(),
        initiator.send(Fin(frames=0, payload_bytes=0)),
        initiator.send_chunk(Chunk(id=bytes(32), codec=0, plain_length=1), bytearray(HEADROOM + 1)),
    ):
        with pytest.raises(LinkBroken):
            await sending
    await initiator.aclose()

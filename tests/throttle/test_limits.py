"""Flows under the limits of a process: sessions of daemon, peers and jobs, both directions, over real data channels."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import datetime

import pytest
import trio
import trio.testing
from recorded import Recorded, together

from protocol.data import HEADROOM, DataChannel, parse_preface
from protocol.messages import Chunk
from transporter.config import ThrottleConfig
from transporter.events import LimitInForce
from transporter.link.data_link import DataLink
from transporter.quantities import Rate
from transporter.throttle.limits import Flow, Throttle
from transporter.throttle.windows import Rule, Schedule, parse_window

MBIT = 125_000
NOON = datetime(2026, 6, 1, 12)
KEY, BINDING = bytes(32), bytes(32)


def limit(rate, window="always"):
    return Schedule((Rule(window, parse_window(window), Rate(rate)),))


def config(daemon=0, peers=(), jobs=()):
    """A configuration with these limits."""
    return ThrottleConfig(
        daemon=limit(daemon) if daemon else Schedule(),
        peers={name: limit(rate) for name, rate in dict(peers).items()},
        jobs={name: limit(rate) for name, rate in dict(jobs).items()},
    )


def scopes(peer, job=None):
    return (("daemon", ""), ("peer", peer), *([("job", job)] if job else []))


@pytest.fixture
def now(autojump_clock):
    return autojump_clock


class Line:
    """A carrier of a data channel in memory; notes what goes out and what is read."""

    def __init__(self, stream):
        self.stream = stream
        self.out, self.read = Recorded(), Recorded()

    async def send_all(self, data):
        await self.stream.send_all(bytes(data))
        self.out.note(len(data))

    async def receive_into(self, buffer, missing=1):
        data = await self.stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        self.read.note(len(data))
        return len(data)

    async def aclose(self):
        await self.stream.aclose()


def channel_pair(number=1):
    """The two ends of an open data channel, and their lines. The sender is the initiator."""
    left, right = trio.testing.lockstep_stream_pair()
    lines = Line(left), Line(right)
    sender = DataChannel.initiate(number, bytes(16), KEY, BINDING, bytes(24))
    receiver = DataChannel.accept(parse_preface(sender.data_to_send()), KEY, BINDING, salt=bytes(24))
    sender.receive_data(receiver.data_to_send())
    return DataLink(sender, lines[0], "peer"), DataLink(receiver, lines[1], "peer"), *lines


async def send_frames(link, size=1 << 20):
    memory = bytearray(HEADROOM + size)
    while True:
        await link.send_chunk(Chunk(id=bytes(32), codec=0, plain_length=size), memory)


async def read_frames(link):
    while True:
        await link.receive()


@contextmanager
def in_sessions(*flows):
    with ExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow.in_session())
        yield


async def run(seconds, pairs, *more):
    """Have every pair send for a while, with whatever else goes on."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for sender, receiver, *_ in pairs:
                nursery.start_soon(send_frames, sender)
                nursery.start_soon(read_frames, receiver)
            for each in more:
                nursery.start_soon(each)


def asking(receiving, sending):
    """What a session does with Limit: what one side asks for, the other is asked."""

    async def pass_on():
        told = 0
        while True:
            changed = receiving.changed
            if receiving.asking != told:
                told = receiving.asking
                sending.asked(told)
            await changed.wait()

    return pass_on


async def measure_each_second(throttle):
    while True:
        await trio.sleep(1)
        throttle.measure()


async def test_what_is_sent_keeps_to_daemon_peer_and_job(now):
    throttle = Throttle()
    throttle.apply(config(16 * MBIT, {"offsite": 12 * MBIT}, {"docs": 4 * MBIT}), NOON)
    docs, logs, other = (
        Flow(throttle, scopes("offsite", "docs")),
        Flow(throttle, scopes("offsite", "logs")),
        Flow(throttle, scopes("elsewhere", "mail")),
    )
    pairs = []
    for flow in (docs, logs, other):
        for number in range(1, 5):
            pair = channel_pair(number)
            pair[0].flow = flow
            pairs.append(pair)
    with in_sessions(docs, logs, other):
        await run(10, pairs)
    lines = [pair[2].out for pair in pairs]
    together(*lines).is_smooth(16 * MBIT)
    assert together(*lines[:8]).busiest_second() <= 1.1 * 12 * MBIT
    together(*lines[:4]).is_smooth(4 * MBIT)


async def test_what_is_received_is_asked_for_and_sent_so(now):
    """The limit of the one who receives, kept by those who send: two sessions together, one of them idle at first."""
    here, there = Throttle(), Throttle()
    here.apply(config(16 * MBIT), NOON)
    receiving = [Flow(here, scopes("offsite", name)) for name in ("docs", "logs")]
    sending = [Flow(there, scopes("office")) for _ in receiving]

    def new_pairs():
        pairs = [channel_pair(number) for number in (1, 2)]
        for pair, ours, theirs in zip(pairs, receiving, sending, strict=True):
            pair[0].flow, pair[1].flow = theirs, ours
        return pairs

    alone, pairs = new_pairs()[:1], new_pairs()
    with in_sessions(*receiving, *sending):
        told = [asking(*each) for each in zip(receiving, sending, strict=True)]
        # It is said before the first chunk, with the session's beginning.
        for ours, theirs in zip(receiving, sending, strict=True):
            theirs.asked(ours.asking)

        async def ticks():
            await measure_each_second(here)

        await run(6, alone, *told, ticks)
        start = trio.current_time()
        await run(10, pairs, *told, ticks)
    first = alone[0][2].out
    # One second goes by before it is seen that the other is idle.
    assert first.busiest_second() <= 1.1 * 16 * MBIT
    assert first.total(2, 6) >= 0.95 * 0.97 * 16 * MBIT * 4
    both = together(*(pair[2].out for pair in pairs))
    assert both.busiest_second() <= 1.1 * 16 * MBIT
    both.is_smooth(16 * MBIT, seconds=7, start=start + 3)
    shares = [pair[2].out.total(start + 3) for pair in pairs]
    assert min(shares) >= 0.9 * max(shares)


async def test_a_peer_that_does_not_pace_is_read_at_little_more_than_the_limit(now):
    here = Throttle()
    here.apply(config(8 * MBIT), NOON)
    flow = Flow(here, scopes("offsite", "docs"))
    pairs = [channel_pair(number) for number in range(1, 9)]
    for pair in pairs:
        pair[1].flow = flow
    with in_sessions(flow):
        await run(10, pairs)
    together(*(pair[3].read for pair in pairs)).is_smooth(1.1 * 8 * MBIT)


async def test_reading_never_holds_up_a_peer_that_keeps_to_the_limit(now):
    here, there = Throttle(), Throttle()
    here.apply(config(8 * MBIT), NOON)
    ours, theirs = Flow(here, scopes("offsite", "docs")), Flow(there, scopes("office"))
    pairs = [channel_pair(number) for number in range(1, 9)]
    for pair in pairs:
        pair[0].flow, pair[1].flow = theirs, ours
    with in_sessions(ours, theirs):
        theirs.asked(ours.asking)
        await run(10, pairs)
    together(*(pair[2].out for pair in pairs)).is_smooth(8 * MBIT)


async def test_the_strictest_of_own_limits_and_what_was_asked_holds(now):
    throttle = Throttle()
    throttle.apply(config(jobs={"docs": 8 * MBIT}), NOON)
    flow = Flow(throttle, scopes("offsite", "docs"))
    pair = channel_pair()
    pair[0].flow = flow
    with in_sessions(flow):
        flow.asked(4 * MBIT)
        await run(10, [pair])
        pair[2].out.is_smooth(4 * MBIT)
        flow.asked(16 * MBIT)
        start = trio.current_time()
        pair = channel_pair()
        pair[0].flow = flow
        await run(10, [pair])
    pair[2].out.is_smooth(8 * MBIT, start=start)


async def test_limits_that_change_meanwhile_and_the_events_that_say_so(now):
    throttle, events = Throttle(), []
    flow = Flow(throttle, scopes("offsite", "docs"), "docs", events.append)
    pair = channel_pair()
    pair[0].flow = flow

    async def change():
        throttle.apply(config(16 * MBIT), NOON)
        await trio.sleep(10)
        throttle.apply(config(16 * MBIT, jobs={"docs": 2 * MBIT}), NOON)
        throttle.apply(config(16 * MBIT, jobs={"docs": 2 * MBIT}), NOON)
        await trio.sleep(10)
        flow.asked(MBIT)
        await trio.sleep(10)
        throttle.apply(config(), NOON)

    with in_sessions(flow):
        await run(31, [pair], change)
    said = [(event.direction, event.bytes_per_second, event.by) for event in events]
    assert said == [
        ("send", 16 * MBIT, "daemon"),
        ("receive", 16 * MBIT, "daemon"),
        ("send", 2 * MBIT, "job"),
        ("receive", 2 * MBIT, "job"),
        ("send", MBIT, "asked"),
        ("receive", 0, ""),
    ]
    assert {event.job for event in events} == {"docs"} and isinstance(events[0], LimitInForce)
    out = pair[2].out
    # What was under way when the first limit came is one frame.
    out.is_smooth(16 * MBIT, seconds=8.9, start=1)
    out.is_smooth(2 * MBIT, seconds=9.9, start=10.001)
    out.is_smooth(MBIT, seconds=9.9, start=20.001)


async def test_what_a_peer_asked_for_ends_with_the_session(now):
    flow = Flow(Throttle(), scopes("office"))
    with in_sessions(flow):
        flow.asked(MBIT)
        assert flow.sending.limited
    assert not flow.sending.limited
    with in_sessions(flow):
        assert not flow.sending.limited


async def test_a_peer_that_asks_for_something_else_all_the_time_is_not_told_of_each_time(now):
    throttle, events = Throttle(), []
    flow = Flow(throttle, scopes("offsite", "docs"), "docs", events.append)
    with in_sessions(flow):
        await trio.sleep(5)
        for number in range(1000):
            flow.asked(MBIT + number)
        assert [event.bytes_per_second for event in events] == [MBIT]
        await trio.sleep(1)
        throttle.measure()
        assert [event.bytes_per_second for event in events] == [MBIT, MBIT + 999]


async def test_windows_decide(now):
    throttle = Throttle()
    limits = ThrottleConfig(peers={"offsite": limit(MBIT, "Mon-Fri 08:00-18:00")})
    flow = Flow(throttle, scopes("offsite"))
    with in_sessions(flow):
        throttle.apply(limits, NOON)
        assert flow.sending.limited and flow.receiving.limited and flow.asking == MBIT
        assert throttle.public() == [{"on": "peer", "name": "offsite", "bytes_per_second": MBIT}]
        throttle.apply(limits, NOON.replace(hour=18))
        assert not flow.sending.limited and not flow.receiving.limited and flow.asking == 0
        assert throttle.public() == []


async def test_unlimited_costs_no_turn(now):
    """What is not limited goes out in one piece: nothing is cut, nobody waits."""
    pair = channel_pair()
    pair[0].flow = Flow(Throttle(), scopes("offsite", "docs"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_frames, pair[1])
        await pair[0].send_chunk(Chunk(id=bytes(32), codec=0, plain_length=9), bytearray(HEADROOM + (4 << 20)))
        nursery.cancel_scope.cancel()
    assert len(pair[2].out.series) == 1
    assert trio.current_time() == 0

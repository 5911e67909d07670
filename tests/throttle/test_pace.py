"""Token buckets: smooth, used up, shared fairly, and exact for each of several that apply at once."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from recorded import Recorded, together

from transporter.throttle.pace import LARGEST_SLICE, Arbiter, Bucket, Pace

MBIT = 125_000
FRAME = 4 << 20


async def channel(pace, seen, frame=FRAME):
    """Send frames for ever, as a data channel does."""

    async def send_all(piece):
        await trio.lowlevel.checkpoint()
        seen.note(len(piece))

    while True:
        await pace.send(send_all, bytes(frame))


@pytest.fixture
def now(autojump_clock):
    """The clock is mocked, and begins at 0."""
    return autojump_clock


async def run_channels(seconds, *paces_and_records):
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for pace, seen in paces_and_records:
                nursery.start_soon(channel, pace, seen)


@pytest.mark.parametrize("rate", [8_000, MBIT, 20 * MBIT, 1000 * MBIT])
@pytest.mark.parametrize("channels", [1, 32])
async def test_one_limit_is_kept_and_used(now, rate, channels):
    seen = Recorded()
    pace = Pace(Arbiter(), [Bucket(rate)])
    # At a gigabit ten seconds are 16,000 turns.
    seconds = 10 if rate < 100 * MBIT else 3
    await run_channels(seconds, *[(pace, seen)] * channels)
    seen.is_smooth(rate, seconds=seconds)


async def test_a_loop_that_wakes_late_still_uses_the_limit(now):
    """On a busy machine a sender is woken some milliseconds late, every time."""
    seen = Recorded()
    pace = Pace(Arbiter(), [Bucket(MBIT)])

    async def send_all(piece):
        await trio.sleep(0.015)
        seen.note(len(piece))

    with trio.move_on_after(10):
        while True:
            await pace.send(send_all, bytes(FRAME))
    seen.is_smooth(MBIT)


async def test_three_limits_at_once(now):
    """Daemon, peer and job; each kept exactly, and the strictest used up, whatever flows beside it."""
    arbiter, daemon, peer, job = Arbiter(), Bucket(40 * MBIT), Bucket(24 * MBIT), Bucket(8 * MBIT)
    flows = {"a": (daemon, peer, job), "b": (daemon, peer), "c": (daemon,)}
    seen = {name: Recorded() for name in flows}
    paces = {name: Pace(arbiter, buckets) for name, buckets in flows.items()}
    await run_channels(10, *[(paces[name], seen[name]) for name in "aaaabbbbccccc"])
    together(*seen.values()).is_smooth(40 * MBIT)
    assert together(seen["a"], seen["b"]).busiest_second() <= 1.1 * 24 * MBIT
    seen["a"].is_smooth(8 * MBIT)


async def test_a_limit_of_one_peer_does_not_hold_up_another(now):
    arbiter, daemon = Arbiter(), Bucket(40 * MBIT)
    slow, fast = Recorded(), Recorded()
    held = Pace(arbiter, [daemon, Bucket(MBIT)])
    free = Pace(arbiter, [daemon])
    await run_channels(10, *[(held, slow)] * 16, (free, fast))
    slow.is_smooth(MBIT)
    fast.is_smooth(39 * MBIT * 0.98)
    together(slow, fast).is_smooth(40 * MBIT)


async def test_channels_have_equal_shares(now):
    rate, seen = 16 * MBIT, [Recorded() for _ in range(16)]
    pace = Pace(Arbiter(), [Bucket(rate)])
    await run_channels(10, *[(pace, each) for each in seen])
    # What is saved up at the beginning goes to whoever is first.
    shares = [each.total(1, 10) / (rate * 9 / 16) for each in seen]
    assert min(shares) > 0.9 and max(shares) < 1.1


async def test_small_slices_of_a_strict_job_do_not_cost_it_its_share(now):
    """A job whose own limit is just its fair share gets it, beside jobs that the daemon's limit alone holds."""
    arbiter, daemon = Arbiter(), Bucket(80 * MBIT)
    strict, others = Recorded(), [Recorded() for _ in range(9)]
    paces = [(Pace(arbiter, [daemon]), each) for each in others]
    await run_channels(10, (Pace(arbiter, [daemon, Bucket(7 * MBIT)]), strict), *paces)
    assert strict.total() >= 0.9 * 7 * MBIT * 10
    together(strict, *others).is_smooth(80 * MBIT)


async def test_a_limit_that_changes_holds_at_once(now):
    seen, bucket = Recorded(), Bucket(80 * MBIT)
    pace = Pace(Arbiter(), [bucket])

    async def change():
        await trio.sleep(10)
        bucket.set_rate(MBIT)
        await trio.sleep(10)
        bucket.set_rate(20 * MBIT)

    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            for _ in range(8):
                nursery.start_soon(channel, pace, seen)
    seen.is_smooth(80 * MBIT, seconds=9.9)
    seen.is_smooth(MBIT, seconds=9.9, start=10.001)
    seen.is_smooth(20 * MBIT, seconds=9.9, start=20.001)


async def test_a_limit_that_is_lifted_lets_everybody_go(now):
    bucket = Bucket(8_000)
    pace = Pace(Arbiter(), [bucket])
    passed = []

    async def take():
        await pace.pay(100_000)
        passed.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)
        await trio.sleep(1)
        bucket.set_rate(0)
    assert len(passed) == 5 and max(passed) <= 1.05
    pace.look()
    assert not pace.limited


async def test_what_was_cancelled_costs_nothing_and_holds_up_nobody(now):
    """Whoever keeps the time for all may go away at any moment."""
    seen, pace = Recorded(), Pace(Arbiter(), [Bucket(MBIT)])

    async def come_and_go(number):
        while True:
            with trio.move_on_after(0.01 + number * 0.003):
                await channel(pace, seen)

    with trio.move_on_after(4):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(come_and_go, number)
    seen.is_smooth(MBIT, seconds=4)


async def test_what_was_owed_under_a_high_limit_is_not_paid_off_under_a_low_one(now):
    """A slice of a gigabit takes half a minute at 64 kbit/s."""
    bucket = Bucket(1000 * MBIT)
    pace = Pace(Arbiter(), [bucket])
    while trio.current_time() < 1:
        await pace.take(FRAME)
    bucket.set_rate(8_000)
    began = trio.current_time()
    await pace.take(FRAME)
    assert trio.current_time() - began <= 0.05


async def test_somebody_keeps_the_time_when_whoever_did_has_gone(now):
    pace = Pace(Arbiter(), [Bucket(8_000)])
    await pace.pay(1000)
    waits = trio.CancelScope()

    async def keeper():
        with waits:
            await pace.take(100)
            pytest.fail("it was to be cancelled")

    async def other():
        await pace.take(100)

    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
            waits.cancel()


async def test_nothing_saved_up_in_a_quiet_time_makes_a_wave(now):
    seen, pace = Recorded(), Pace(Arbiter(), [Bucket(MBIT)])
    await run_channels(2, (pace, seen))
    await trio.sleep(3600)
    start = trio.current_time()
    await run_channels(10, (pace, seen))
    seen.is_smooth(MBIT, start=start)


async def test_without_a_limit_nobody_waits(now):
    pace = Pace(Arbiter(), [Bucket(), Bucket()])
    assert not pace.limited
    assert await pace.take(FRAME) == LARGEST_SLICE
    await pace.pay(1 << 30)
    assert trio.current_time() == 0


async def test_what_is_sent_is_what_was_given(now):
    out = bytearray()

    async def send_all(piece):
        await trio.lowlevel.checkpoint()
        out.extend(piece)

    data = bytes(range(256)) * 400
    await Pace(Arbiter(), [Bucket(MBIT)]).send(send_all, data)
    assert out == data

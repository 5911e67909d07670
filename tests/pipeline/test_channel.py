"""Channels are bounded in items and in bytes, and no cancellation loses what is in them."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.channel import ByteBudget, ByteChannel


def channel(items=3, size=100):
    return ByteChannel("test", items, size, len)


async def blocked(nursery, function, *args):
    """Start a task that must block."""
    done = trio.Event()

    async def run():
        await function(*args)
        done.set()

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    return done


async def test_a_sender_waits_when_there_are_enough_items(nursery):
    lane = channel(items=3)
    for _ in range(3):
        await lane.send(b"x")
    done = await blocked(nursery, lane.send, b"y")
    assert not done.is_set()
    assert await lane.receive() == b"x"
    await done.wait()
    assert [lane.receive_nowait() for _ in range(3)] == [b"x", b"x", b"y"]


async def test_a_sender_waits_when_there_are_enough_bytes(nursery):
    lane = channel(items=100, size=100)
    await lane.send(bytes(60))
    done = await blocked(nursery, lane.send, bytes(41))
    assert not done.is_set()
    assert lane.statistics().waiting_senders == 1
    await lane.send(bytes(40))  # a smaller one still fits
    await lane.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert done.is_set()


async def test_a_small_item_does_not_wait_behind_a_large_one_that_does_not_fit(nursery):
    lane = channel(items=100, size=100)
    await lane.send(bytes(50))
    await lane.send(bytes(50))
    large = await blocked(nursery, lane.send, bytes(80))
    small = await blocked(nursery, lane.send, bytes(40))
    await lane.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert (large.is_set(), small.is_set()) == (False, True)
    await lane.receive()
    await lane.receive()
    await large.wait()


async def test_one_item_larger_than_the_bound_passes_alone(nursery):
    lane = channel(size=100)
    await lane.send(bytes(1000))
    done = await blocked(nursery, lane.send, b"")
    assert not done.is_set()
    assert len(await lane.receive()) == 1000
    await done.wait()


async def test_statistics_count_what_is_there_and_what_passed(nursery):
    lane = channel()
    await lane.send(bytes(10))
    await lane.send(bytes(30))
    await lane.receive()
    now = lane.statistics()
    assert (now.name, now.items, now.bytes, now.peak_bytes) == ("test", 1, 30, 40)
    assert (now.passed_items, now.passed_bytes) == (1, 10)
    await lane.receive()
    await blocked(nursery, lane.receive)
    assert lane.statistics().waiting_receivers == 1
    await lane.send(b"")


async def test_receivers_drain_a_closed_channel_and_then_see_its_end(nursery):
    lane = channel()
    await lane.send(b"a")
    done = await blocked(nursery, receive_all, lane, got := [])
    await lane.send(b"b")
    lane.close()
    await done.wait()
    assert got == [b"a", b"b"]
    with pytest.raises(trio.EndOfChannel):
        await lane.receive()
    with pytest.raises(trio.ClosedResourceError):
        await lane.send(b"c")
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait()


async def receive_all(lane, got):
    async for item in lane:
        got.append(item)


async def test_closing_wakes_a_sender_that_waits():
    lane = channel(items=1)
    await lane.send(b"a")
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            await blocked(nursery, lane.send, b"b")
            lane.close()


async def test_a_sender_that_is_cancelled_puts_nothing_in_and_wakes_the_next(nursery):
    lane = channel(items=1)
    await lane.send(b"first")
    scope = trio.CancelScope()

    async def cancelled():
        with scope:
            await lane.send(b"never")

    await blocked(nursery, cancelled)
    done = await blocked(nursery, lane.send, b"second")
    # The wake-up is given to the one that is cancelled in the same moment; the other must get its turn all the same.
    assert lane.receive_nowait() == b"first"
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    got = [lane.receive_nowait()]
    await trio.testing.wait_all_tasks_blocked()
    while True:
        try:
            got.append(lane.receive_nowait())
        except trio.WouldBlock:
            break
        await trio.testing.wait_all_tasks_blocked()
    assert done.is_set()
    assert got in ([b"second"], [b"never", b"second"])  # sent before its cancellation arrived, or not at all


async def test_a_receiver_that_is_cancelled_loses_nothing(nursery):
    lane = channel()
    got = []
    scope = trio.CancelScope()

    async def cancelled():
        with scope:
            got.append(await lane.receive())

    await blocked(nursery, cancelled)
    await blocked(nursery, receive_all, lane, got)
    await lane.send(b"item")
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert got == [b"item"]
    lane.close()


@given(
    sizes=st.lists(st.integers(0, 150), max_size=40),
    receivers=st.integers(1, 4),
    senders=st.integers(1, 4),
    cancels=st.lists(st.integers(0, 30), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_cancelled_nothing_is_lost_or_doubled(sizes, receivers, senders, cancels):
    """Receivers that are cancelled at any turn of the event loop: each item arrives once, within the bounds."""

    async def main():
        lane = channel(items=4, size=100)
        got = []

        async def send(part):
            for number in part:
                await lane.send(bytes([number]) * sizes[number])
                assert lane.statistics().items <= 4

        async def receive(after):
            with trio.CancelScope() as scope:
                if after is not None:
                    nursery.start_soon(cancel, scope, after)
                while True:
                    try:
                        got.append(await lane.receive())
                    except trio.EndOfChannel:
                        return

        async def cancel(scope, turns):
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            for after in [*cancels, *[None] * receivers]:
                nursery.start_soon(receive, after)
            async with trio.open_nursery() as sending:
                for number in range(senders):
                    sending.start_soon(send, range(number, len(sizes), senders))
            lane.close()
        assert sorted(got) == sorted(bytes([n]) * size for n, size in enumerate(sizes))
        now = lane.statistics()
        assert now.peak_bytes <= max([100, *sizes]) and now.bytes == 0

    trio.run(main)


async def test_a_budget_lets_out_no_more_than_its_limit(nursery):
    budget = ByteBudget("test", 100)
    await budget.acquire(60)
    done = await blocked(nursery, budget.acquire, 41)
    assert not done.is_set()
    await budget.acquire(40)
    assert budget.statistics().bytes == 100
    budget.release(60)
    budget.release(40)
    await done.wait()
    assert budget.statistics().peak_bytes == 100


async def test_a_request_larger_than_the_budget_passes_alone(nursery):
    budget = ByteBudget("test", 100)
    await budget.acquire(500)
    done = await blocked(nursery, budget.acquire, 1)
    assert not done.is_set()
    budget.release(500)
    await done.wait()


async def test_a_cancelled_request_takes_nothing_out_of_the_budget(nursery):
    budget = ByteBudget("test", 100)
    await budget.acquire(100)
    with trio.move_on_after(0):
        await budget.acquire(1)
    budget.release(100)
    assert budget.statistics().bytes == 0


async def test_a_budget_may_make_its_waiters_go_in_bursts(nursery):
    budget = ByteBudget("test", 100, resume_at=30)
    await budget.acquire(100)
    done = await blocked(nursery, budget.acquire, 10)
    budget.release(60)
    await trio.testing.wait_all_tasks_blocked()
    assert not done.is_set(), "it would fit, but too much is still out"
    budget.release(10)
    await done.wait()
    assert budget.statistics().bytes == 40

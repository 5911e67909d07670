"""The order-keeping window, lanes, and tasks whose first failure is what the caller sees."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from pipeline.channel import ByteChannel
from pipeline.run import first_error, open_tasks, run_stages
from pipeline.workers import Lane, ordered_window, processors


async def filled(count):
    lane = ByteChannel("numbers", 1000, 1000, lambda _: 1)
    for number in range(count):
        await lane.send(number)
    lane.close()
    return lane


@pytest.mark.parametrize("width", [1, 2, 5])
async def test_results_come_in_order_and_no_more_than_width_are_in_work(width, autojump_clock):
    busy = peak = 0
    delivered = []

    async def work(number):
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await trio.sleep((number * 7) % 5)  # later ones are often done first
        busy -= 1
        return number

    async def deliver(number):
        delivered.append(number)

    await ordered_window(await filled(40), work, deliver, width)
    assert delivered == list(range(40))
    assert peak == width


async def test_the_window_is_full_even_while_the_first_item_takes_long(autojump_clock):
    started = []

    async def work(number):
        started.append(number)
        await trio.sleep(100 if number == 0 else 0)

    async def deliver(_):
        return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ordered_window, await filled(20), work, deliver, 6)
        await trio.sleep(50)
        assert started == list(range(6)), "what waits for its turn holds its place in the window"


@pytest.mark.parametrize("where", ["work", "deliver"])
async def test_the_first_failure_stops_everything(where, autojump_clock):
    delivered, stopped = [], []

    async def work(number):
        if where == "work" and number == 3:
            raise ValueError("three")
        try:
            await trio.sleep(number)
        except trio.Cancelled:
            stopped.append(number)
            raise
        return number

    async def deliver(number):
        if where == "deliver" and number == 2:
            raise ValueError("two")
        delivered.append(number)

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        await ordered_window(await filled(20), work, deliver, 6)
    assert delivered == list(range(len(delivered)))
    assert len(delivered) <= 2
    assert stopped, "what was in work was cancelled"


async def test_a_window_whose_input_is_empty_returns():
    await ordered_window(await filled(0), None, None, 3)


async def test_a_lane_runs_no_more_than_its_width_at_once():
    lane = Lane(2)
    running = peak = 0
    lock = threading.Lock()
    together = threading.Barrier(2, timeout=10)

    def work():
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        together.wait()
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(lane.run, work)
    assert peak == 2


async def test_cancellation_waits_for_the_small_unit_that_is_in_a_thread():
    lane = Lane(1)
    begun, go, finished = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        go.wait(10)
        finished.append(True)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.run, work)
            with trio.fail_after(60):
                while not begun.is_set():
                    await trio.sleep(0.001)
            scope.cancel()
            go.set()
    assert finished == [True]


def test_there_is_a_processor():
    assert processors() >= 1


# --- tasks ----------------------------------------------------------------------------------------------------


async def test_stages_run_until_each_has_returned():
    ran = []

    async def stage(name):
        await trio.lowlevel.checkpoint()
        ran.append(name)

    await run_stages([lambda: stage("a"), lambda: stage("b")])
    assert sorted(ran) == ["a", "b"]


async def test_the_first_failure_is_what_the_caller_sees_with_the_group_as_its_cause():
    cancelled = []

    async def fail():
        raise KeyError("the reason")

    async def other():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    with pytest.raises(KeyError, match="the reason") as caught:
        await run_stages([other, fail])
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)
    assert cancelled == [True]


async def test_a_failure_in_nested_tasks_is_unwrapped_as_well():
    async def inner():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)

    async def fail():
        raise ValueError("deep")

    with pytest.raises(ValueError, match="deep"):
        async with open_tasks() as nursery:
            nursery.start_soon(inner)


async def test_a_failure_of_the_body_stops_the_tasks():
    with pytest.raises(ZeroDivisionError):
        async with open_tasks() as nursery:
            nursery.start_soon(trio.sleep_forever)
            1 / 0  # noqa: B018 - it is the failure


async def test_cancellation_stays_cancellation():
    with trio.move_on_after(0) as scope:
        async with open_tasks() as nursery:
            nursery.start_soon(trio.sleep_forever)
    assert scope.cancelled_caught


async def test_what_is_worse_than_a_failure_stays_a_group():
    with pytest.RaisesGroup(KeyboardInterrupt):
        async with open_tasks():
            raise KeyboardInterrupt


def test_the_first_error_of_a_group():
    deep = ValueError()
    assert (
        first_error(BaseExceptionGroup("", [KeyboardInterrupt(), BaseExceptionGroup("", [deep]), KeyError()])) is deep
    )
    assert first_error(BaseExceptionGroup("", [KeyboardInterrupt()])) is None


class Outranking(Exception):
    OUTRANKS = True


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_an_error_that_outranks_goes_before_those_that_came_first(depth):
    grave = Outranking()
    inner = grave
    for _ in range(depth):
        inner = BaseExceptionGroup("", [OSError(), inner, Outranking()])
    assert first_error(BaseExceptionGroup("", [ValueError(), KeyboardInterrupt(), inner, KeyError()])) is grave


def test_without_an_error_that_outranks_the_first_stays_the_first():
    first = ValueError()
    deep = BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt(), first]), KeyError()])
    assert first_error(BaseExceptionGroup("", [deep, OSError()])) is first
    # Beside worse than errors nothing outranks: cancellation and interrupts leave as they are.
    assert first_error(BaseExceptionGroup("", [KeyboardInterrupt(), BaseExceptionGroup("", [SystemExit()])])) is None


async def test_what_outranks_is_what_the_tasks_end_with_though_another_failed_before():
    async def fail(error):
        raise error

    grave = Outranking()
    with pytest.raises(Outranking) as caught:
        async with open_tasks() as outer:
            outer.start_soon(fail, OSError())
            async with open_tasks() as inner:
                inner.start_soon(fail, grave)
    assert caught.value is grave

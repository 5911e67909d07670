"""Memory of connections that have ended is freed, however rarely the collector comes by itself."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio.testing

from transporter.daemon.tidy import PAUSE_SECONDS, Tidier


class Heavy:
    """Something in a cycle."""

    def __init__(self):
        self.me = self


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


async def test_what_a_connection_leaves_in_a_cycle_goes_at_its_end(no_collector, nursery, monkeypatch):
    monkeypatch.setattr("transporter.daemon.tidy.PAUSE_SECONDS", 0.0)
    tidier = Tidier()
    nursery.start_soon(tidier.run)
    for _ in range(3):
        left = weakref.ref(Heavy())
        assert left() is not None
        tidier.ended()
        with trio.fail_after(60):
            while left() is not None:
                await trio.sleep(0.001)


async def test_many_ends_are_one_look(monkeypatch, nursery, autojump_clock):
    looks = []

    async def look(_function):
        looks.append(trio.current_time())

    # No thread: the clock would not wait for it.
    monkeypatch.setattr("trio.to_thread.run_sync", look)
    tidier = Tidier()
    nursery.start_soon(tidier.run)
    with trio.move_on_after(PAUSE_SECONDS * 2.5):
        while True:
            tidier.ended()
            await trio.sleep(0.1)
    assert len(looks) == 3

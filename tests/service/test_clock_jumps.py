"""Clocks that are wrong, and jump while a job runs: nothing that lasts is decided by the time of day."""

from __future__ import annotations

import itertools

from reverse_world import open_reverse_world
from world import contents, open_world

from transporter.clock import SystemClock

DAY_NS = 86_400 * 10**9


class JumpyClock(SystemClock):
    """Each look at the time of day shows another day: years ahead, years behind."""

    def __init__(self):
        self._jumps = itertools.cycle([0, 400, -400, 3_000, -3_000])

    def now_ns(self):
        return super().now_ns() + next(self._jumps) * DAY_NS


async def work(node):
    await node.backup()
    (node.tree / "more").write_bytes(b"more")
    second = await node.backup()
    assert second.files_unchanged, "what did not change is not read, whatever the clock says"
    await node.verify()
    assert contents(await node.restore()) == contents(node.tree)


async def test_jobs_do_not_mind_a_clock_that_jumps():
    async with open_world(clock=JumpyClock()) as world:
        await work(world.source)


async def test_links_do_not_mind_a_clock_that_jumps():
    async with open_reverse_world("relay reversed", JumpyClock()) as world:
        await world.ready()
        await work(world.jobs)

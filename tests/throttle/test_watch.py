"""The file and the clock are looked at while jobs run."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
import trio

from transporter.clock import ManualClock
from transporter.throttle.limits import Flow, Throttle
from transporter.throttle.watch import watch_limits

HEAD = '[node]\nname = "office"\n'
MONDAY = int(datetime(2026, 6, 1, 7, 59, 30, tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture
async def watched(tmp_path, nursery):
    """A file that is watched. ``watched(text)`` replaces it and lets a look go by; returns the limits in force."""
    path, clock, throttle, warned = tmp_path / "config.toml", ManualClock(MONDAY), Throttle(), []

    def write(text):
        fresh = tmp_path / "fresh"
        fresh.write_text(HEAD + text)
        os.replace(fresh, path)

    async def look(text=None, seconds=0):
        if text is not None:
            write(text)
        clock.advance(seconds)
        await trio.sleep(1.5)
        return {(row["on"], row["name"]): row["bytes_per_second"] for row in throttle.public()}

    write('[throttle.daemon]\n"always" = "8Mbit"\n')
    look.warned, look.path, look.throttle = warned, path, throttle
    nursery.start_soon(watch_limits, throttle, path, clock, warned.append)
    return look


async def test_a_change_of_the_file_holds_within_a_second(watched, autojump_clock):
    assert await watched() == {("daemon", ""): 1_000_000}
    assert await watched('[throttle.peers.offsite]\n"always" = "1MB/s"\n') == {("peer", "offsite"): 1_000_000}
    assert await watched("") == {}
    assert watched.warned == []


async def test_the_border_of_a_window(watched, autojump_clock):
    text = '[throttle.daemon]\n"Mon-Fri 08:00-18:00" = "8Mbit"\n"22:00-06:00" = "unlimited"\n"always" = "80Mbit"\n'
    assert await watched(text) == {("daemon", ""): 10_000_000}
    assert await watched(seconds=60) == {("daemon", ""): 1_000_000}
    assert await watched(seconds=10 * 3600) == {("daemon", ""): 10_000_000}
    assert await watched(seconds=4 * 3600) == {}


async def test_a_wrong_file_changes_nothing_and_is_told_once(watched, autojump_clock):
    before = await watched()
    assert await watched('[throttle.daemon]\n"always" = "fast"\n') == before
    assert await watched() == before
    (warned,) = watched.warned
    assert "config.toml:4:1: always: 'fast' is not a rate" in warned.what
    assert await watched('[throttle.daemon]\n"always" = "faster"\n') == before
    assert len(watched.warned) == 2, "another wrong file is another warning"
    watched.path.unlink()
    assert await watched() == before
    assert await watched('[throttle.daemon]\n"always" = "16Mbit"\n') == {("daemon", ""): 2_000_000}
    assert len(watched.warned) == 3


async def test_what_is_received_is_shared_anew_each_second(watched, autojump_clock):
    await watched()
    idle, busy = (Flow(watched.throttle, (("daemon", ""),)) for _ in range(2))
    with idle.in_session(), busy.in_session():
        assert idle.asking == busy.asking == 500_000
        busy.received += 10_000_000
        await trio.sleep(0.9)
        assert busy.asking >= 950_000
        assert idle.asking + busy.asking <= 1_000_000

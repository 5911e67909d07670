from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import trio.testing

from transporter.jobs.reading import Reading
from transporter.jobs.tree_writing import TreeWriting

HERE = Path(__file__).parent
# The whole pair in one process stands beside the tests of the service, the attackers' tools beside this file.
sys.path[:0] = [str(HERE), str(HERE.parent / "service")]

from world import open_world  # noqa: E402 - found on the path that was just set

# Of real time, without any event: then the fast clock moves on to the next deadline.
IDLE_SECONDS = 0.05


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made


@pytest.fixture
def fast_clock(monkeypatch):
    """Time passes as soon as nothing else happens: for peers that never answer, over real sockets and threads."""
    clock = trio.testing.MockClock(autojump_threshold=IDLE_SECONDS)
    stand_still_for_work(clock, monkeypatch)
    monkeypatch.setattr("transporter.jobs.backup.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.jobs.restore.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.jobs.verify.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.link.resilient.STALL_SECONDS", 90.0)
    # However busy the machine is, its loopback counts as a short line, which begins with two channels. On a long one
    # they are measured all the while: the clock would go in those small steps, and take minutes to the end of patience.
    for place in ("open_session", "striping"):
        monkeypatch.setattr(f"transporter.link.{place}.SHORT_LINE_SECONDS", 60.0)
    return clock


def stand_still_for_work(clock, monkeypatch):
    """Let no time pass while a thread works, or a worker process does something that needs no peer.

    To the clock a task that waits for them is idle. On a loaded machine they are slow, and every deadline there is
    would pass meanwhile: sessions would end, and links be lost, that nobody meddled with.
    """
    working = set()

    def standing_still(really_run):
        async def run(*arguments, **how):
            mine = object()
            working.add(mine)
            clock.autojump_threshold = math.inf
            try:
                return await really_run(*arguments, **how)
            finally:
                working.remove(mine)
                if not working:
                    clock.autojump_threshold = IDLE_SECONDS

        return run

    monkeypatch.setattr("trio.to_thread.run_sync", standing_still(trio.to_thread.run_sync))
    for kind, name in ((Reading, "open"), (Reading, "keep_manifest"), (TreeWriting, "_ask")):
        monkeypatch.setattr(kind, name, standing_still(getattr(kind, name)))

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio.testing

HERE = Path(__file__).parent
# The whole pair in one process stands beside the tests of the service, the attackers' tools beside this file.
sys.path[:0] = [str(HERE), str(HERE.parent / "service")]

from world import open_world  # noqa: E402 - found on the path that was just set


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made


@pytest.fixture
def fast_clock(monkeypatch):
    """Time passes as soon as nothing else happens: for peers that never answer, over real sockets and threads."""
    monkeypatch.setattr("transporter.jobs.backup.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.jobs.restore.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.jobs.verify.PROGRESS_SECONDS", 60.0)
    monkeypatch.setattr("transporter.link.resilient.STALL_SECONDS", 90.0)
    return trio.testing.MockClock(autojump_threshold=0.05)

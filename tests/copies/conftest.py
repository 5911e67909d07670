from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The whole pair in one process stands beside the tests of the service.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "service")]

from copy_world import open_copy_world  # noqa: E402 - found on the path that was just set


@pytest.fixture
async def world():
    async with open_copy_world() as made:
        yield made

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The whole pair in one process stands beside the tests of the service.
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from world import open_world


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made

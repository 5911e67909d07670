from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers beside this file; the test runner imports tests by path and puts no folder on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from world import open_world


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made

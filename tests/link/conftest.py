from __future__ import annotations

import sys
from pathlib import Path

import pytest

from transporter.clock import SystemClock
from transporter.link.identity import create_identity

# The whole pair in one process stands beside the tests of the service.
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from world import open_world


@pytest.fixture(scope="session")
def identities(tmp_path_factory):
    """Three nodes: two that know each other, and a stranger."""

    def make(name):
        return create_identity(tmp_path_factory.mktemp(name), name, SystemClock())

    return make("alice"), make("bob"), make("mallory")


@pytest.fixture
async def world():
    async with open_world() as made:
        yield made

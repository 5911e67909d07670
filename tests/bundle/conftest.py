from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers beside this file; the test runner imports tests by path and puts no folder on the path by itself.
sys.path.insert(0, str(Path(__file__).parent))

from bundle_world import Node


@pytest.fixture
def node(tmp_path):
    (tmp_path / "site").mkdir()
    return Node(tmp_path / "site" / "A")


@pytest.fixture
def bundle(node, tmp_path):
    node.export(tmp_path / "office.bundle")
    return tmp_path / "office.bundle"


@pytest.fixture
def elsewhere(tmp_path):
    """Another machine, as it were."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    return place

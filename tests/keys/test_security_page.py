"""docs/security.md names a test for each promise: they exist, and the numbers of the page are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from transporter.keys import password, session_key, slot, storage_key, wrap

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_every_test_that_the_page_names_exists(path, name):
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_of_the_threat_model_names_a_test():
    table = PAGE.split("## Threat model")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 20
    for row in rows:
        assert "::" in row.split("|")[3], row


def test_the_numbers_of_the_page():
    prices = password.DEFAULT_PARAMETERS
    assert (prices.memory_kib, prices.iterations, prices.lanes) == (64 * 1024, 3, 4)
    assert (password.MAX_MEMORY_KIB, password.MAX_ITERATIONS, password.MAX_LANES) == (1024**2, 16, 16)
    assert password.MAX_PASSWORD_LENGTH == 4096
    assert wrap.WRAP_OVERHEAD == 97
    assert session_key.SEAL_OVERHEAD == 57
    assert session_key.MAX_CHUNKS_PER_KEY == 2**32
    assert storage_key.MAX_SLOTS == 64
    assert [(kind.value, kind.name) for kind in slot.SlotKind] == [(1, "PASSWORD"), (2, "KEYSET"), (3, "KMS")]

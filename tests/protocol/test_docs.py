"""The pages about the protocol say what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from protocol import limits
from protocol.errors import ProtocolError, TamperingError
from protocol.messages import CONTROL_MESSAGES, DATA_MESSAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def test_the_diagrams_are_current(script):
    draw = script("docs/draw_states.py")
    assert (ROOT / "docs" / "protocol-states.md").read_text() == draw.page()
    assert draw.main(["--check"]) == 0


def test_an_outdated_page_is_noticed(script, tmp_path, monkeypatch):
    draw = script("docs/draw_states.py")
    monkeypatch.setattr(draw, "PAGE", tmp_path / "page.md")
    assert draw.main(["--check"]) == 1
    assert draw.main([]) == 0
    assert draw.main(["--check"]) == 0
    monkeypatch.setitem(draw.states.DATA, "FINISHED", {"Chunk": "OPEN"})
    assert draw.main(["--check"]) == 1


def test_every_limit_is_on_the_page_with_a_reason():
    expected = {}
    for name, value in vars(limits).items():
        if not name.isupper() or name in {"KIB", "MIB", "GIB"}:
            continue
        if dataclasses.is_dataclass(value):
            expected |= {f"{name}.{part}": number for part, number in dataclasses.asdict(value).items()}
        else:
            expected[name] = value
    table = {row[0]: row for row in ROWS if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[a-z_]+)?", row[0])}
    assert {name: int(row[1]) for name, row in table.items()} == expected
    assert [name for name, row in table.items() if not row[2]] == ["U8", "U16", "U32"]


@pytest.mark.parametrize("kind", CONTROL_MESSAGES + DATA_MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_is_on_the_page(kind):
    (row,) = [row for row in ROWS if row[0] == str(kind.KIND) and row[1] == kind.__name__]
    named = {re.sub(r"\s*\(.*?\)", "", part).strip() for part in re.sub(r"\([^)]*\)", "", row[3]).split(",")} - {""}
    assert named == {field.name for field in dataclasses.fields(kind)} - {kind.IN_PAYLOAD}
    assert bool(row[4]) == bool(kind.PAYLOAD)


def test_every_error_is_on_the_page():
    def tree(kind):
        return [deep for each in kind.__subclasses__() for deep in [each, *tree(each)]]

    named = {row[0] for row in ROWS}
    assert {kind.__name__ for kind in tree(ProtocolError) if kind.__module__ == "protocol.errors"} <= named
    for check in re.findall(r'"(\w+)"', (TamperingError.__doc__ or "").replace("``", "")):
        assert f"`{check}`" in named

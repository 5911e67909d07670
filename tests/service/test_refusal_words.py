"""What a provider says is read at the other end: it must be right there, too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import transporter.service
from transporter import errors

# Each end is "this node", and "here", to itself. A node is called by its name, or by what it is to the other.
OF_ONE_END = re.compile(r"\b(this node|here)\b")
FILES = sorted(Path(transporter.service.__file__).parent.glob("*.py"))


def words_of_errors(source: str) -> list[tuple[int, str]]:
    """Return the literal parts of all that is given to an error's constructor, with their lines."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and hasattr(errors, node.func.id)
    ]
    return [
        (part.lineno, part.value)
        for call in calls
        for argument in call.args
        for part in ast.walk(argument)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_error_of_a_provider_speaks_of_this_node_or_here(path):
    found = [(line, words) for line, words in words_of_errors(path.read_text()) if OF_ONE_END.search(words)]
    assert found == []


def test_there_are_errors_to_look_at():
    assert sum(len(words_of_errors(path.read_text())) for path in FILES) > 50

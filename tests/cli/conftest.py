from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from transporter.catalog import Catalog, Peer
from transporter.cli.main import run_command
from transporter.keys.password import KdfParameters
from transporter.keys.password_table import PasswordTable


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Node:
    """A home, and the program run in this process."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.capsys = capsys

    def __call__(self, *arguments: str, options: tuple[str, ...] = ()) -> Done:
        self.capsys.readouterr()
        status = run_command(["--home", str(self.path), *options, *arguments])
        out, err = self.capsys.readouterr()
        return Done(status, out, err)

    def json(self, *arguments: str) -> Done:
        return self(*arguments, options=("--json",))

    def quiet(self, *arguments: str) -> Done:
        return self(*arguments, options=("--quiet",))

    def config(self) -> str:
        return (self.path / "config.toml").read_text()

    def add_to_config(self, text: str) -> None:
        with (self.path / "config.toml").open("a") as file:
            file.write(text)


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch):
    """These tests are not about the price of a guess; the documented one is in tests/keys."""
    monkeypatch.setitem(PasswordTable.__init__.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))


@pytest.fixture
def bare(tmp_path, capsys, monkeypatch):
    """A node whose home is not there yet; no terminal, no environment."""
    monkeypatch.delenv("TRANSPORTER_HOME", raising=False)
    monkeypatch.delenv("TRANSPORTER_DEBUG", raising=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return Node(tmp_path / "home", capsys)


@pytest.fixture
def node(bare):
    """A node with a home, called office."""
    assert bare("init", "--name", "office").status == 0
    return bare


@pytest.fixture
def paired(node):
    """A node that knows a peer with a repository, and has a password."""
    with Catalog(node.path / "catalog.db") as catalog:
        catalog.put_peer(Peer("offsite", bytes(32), "127.0.0.1:1", offers=("main",)))
    secret = node.path.parent / "secret"
    secret.write_bytes(b"correct horse\n")
    assert node("password", "add", "office", "--from-file", str(secret)).status == 0
    return node

"""Operators of a home, for tests: their keys on sticks of their own, and the whole way of an approval by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transporter.keys.database import KeyDatabase


class Office:
    """A node with operators: ``office.approve("password.change", "office")`` returns the file with an approval."""

    def __init__(self, node: Any, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.lines: dict[str, dict[str, Any]] = {}
        self.serial = 0
        self.phrase = folder / "phrase"
        self.phrase.write_bytes(b"a phrase of an operator\n")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def create(self, name: str) -> dict[str, Any]:
        done = self.node.json(
            "operator", "create", name, "--key", self.key(name), "--passphrase-file", str(self.phrase)
        )
        assert done.status == 0, done
        (self.lines[name],) = done.objects()
        return self.lines[name]

    def add(self, name: str, *more: str) -> Any:
        facts = self.lines.get(name) or self.create(name)
        return self.node("operator", "add", name, facts["public"], "--fingerprint", facts["fingerprint"], *more)

    def signed(self, *command: str, by: str) -> Any:
        return self.node("approval", *command, "--key", self.key(by), "--passphrase-file", str(self.phrase))

    def put(self, text: str) -> str:
        self.serial += 1
        path = self.folder / f"paper-{self.serial}"
        path.write_text(text)
        return str(path)

    def request(self, *what: str, by: str = "anna") -> str:
        done = self.signed("request", *what, by=by)
        assert done.status == 0, done
        return self.put(done.out)

    def sign(self, request: str, by: str = "bert") -> str:
        done = self.signed("sign", request, "--yes", by=by)
        assert done.status == 0, done
        return self.put(done.out)

    def approve(self, *what: str, by: tuple[str, str] = ("anna", "bert")) -> str:
        return self.sign(self.request(*what, by=by[0]), by[1])

    def require(self, *kinds: str) -> None:
        """Two operators, and what needs them."""
        for name in ("anna", "bert"):
            assert self.add(name).status == 0
        approval = self.approve("four-eyes.require", *sorted(kinds))
        done = self.node("four-eyes", "require", *kinds, "--approval", approval)
        assert done.status == 0, done

    def keys(self) -> KeyDatabase:
        return KeyDatabase(self.node.path / "keys.db")

    def state(self) -> dict[str, Any]:
        """Everything that a refused command must leave as it was: every table, and the trail's length."""
        with self.keys() as keys, keys._read() as db:
            query = "SELECT name FROM sqlite_schema WHERE type = 'table'"
            tables = [row[0] for row in db.execute(query).fetchall()]
            return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}

    def trail(self) -> list[dict[str, Any]]:
        with self.keys() as keys:
            return list(keys.audit.entries())

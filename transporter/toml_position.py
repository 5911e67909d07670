"""Where a key stands in a TOML text, so that an error can name line and column.

Neither ``tomllib`` nor ``tomlkit`` tells. This walks a text that ``tomllib`` has accepted, so it may be lax:
it skips values correctly (strings of all four kinds, nested arrays, inline tables) and remembers keys.
"""

from __future__ import annotations

import re
import tomllib

Position = tuple[int, int]
"""Line and column, both from 1."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LITERAL = re.compile(r"'([^']*)'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'{3,5}", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n#]*")


def find_key(text: str, path: tuple[str, ...]) -> Position:
    """Return where the key at ``path`` is first written, or the nearest table around it, or (1, 1)."""
    places = _Walk(text).places
    for depth in range(len(path), 0, -1):
        at = places.get(path[:depth])
        if at is not None:
            return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return 1, 1


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[tuple[str, ...], int] = {}
        self._document()

    def _document(self) -> None:
        table: tuple[str, ...] = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                table = self._key(())
                self.at = self.text.index("]", self.at)
                while self.text.startswith("]", self.at):
                    self.at += 1
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError("not TOML")
        self.at = match.end()
        return match[match.lastindex or 0]

    def _key(self, table: tuple[str, ...]) -> tuple[str, ...]:
        path = table
        while True:
            self._skip(_SPACE)
            start = self.at
            quote = self.text[self.at]
            name = self._skip(_BASIC if quote == '"' else _LITERAL if quote == "'" else _BARE)
            if quote == '"' and "\\" in name:
                name = tomllib.loads(f'name = "{name}"')["name"]
            path = (*path, name)
            self.places.setdefault(path, start)
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return path
            self.at += 1

    def _pair(self, table: tuple[str, ...]) -> None:
        path = self._key(table)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: tuple[str, ...]) -> None:
        for opening, pattern in (('"""', _LONG_BASIC), ("'''", _LONG_LITERAL), ('"', _BASIC), ("'", _LITERAL)):
            if self.text.startswith(opening, self.at):
                self._skip(pattern)
                return
        if self.text[self.at] not in "[{":
            self._skip(_SCALAR)
            return
        inline, closing = self.text[self.at] == "{", {"[": "]", "{": "}"}[self.text[self.at]]
        self.at += 1
        self._skip(_BLANK)
        while self.text[self.at] != closing:
            if inline:
                self._pair(path)
            else:
                self._value(path)
            self._skip(_BLANK)
            if self.text[self.at] == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1

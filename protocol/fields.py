"""Fields of messages: their types, with bounds, and the tables by which messages become bytes and back.

A type such as ``Bytes32`` is an annotation with its bound in it. The tables are made once, at import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from protocol import limits

# A check returns None, or what is wrong with the value. It never quotes the value.
Check = Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """An integer from ``low`` to ``high``, both included."""

    low: int
    high: int

    def check(self, value: object) -> str | None:
        """Check type and range; a bool is no integer here."""
        if type(value) is not int:
            return "is not an integer"
        return None if self.low <= value <= self.high else "is out of range"


@dataclasses.dataclass(frozen=True, slots=True)
class Sized:
    """Bytes of a length from ``low`` to ``high``, a multiple of ``step``; or none at all where ``empty`` is set."""

    low: int
    high: int
    step: int = 1
    empty: bool = False

    def check(self, value: object) -> str | None:
        """Check type and length."""
        if type(value) is not bytes:
            return "is not binary"
        length = len(value)
        if (self.low <= length <= self.high and not length % self.step) or (self.empty and not length):
            return None
        return "has a wrong length"


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A string of at most ``high`` bytes of UTF-8, without control characters."""

    high: int

    def check(self, value: object) -> str | None:
        """Check type, length and characters: what a peer says is shown on terminals and written to logs."""
        if type(value) is not str:
            return "is not a string"
        # Code points first: encoding a string only to learn that it is far too long would be work for nothing.
        if len(value) > self.high:
            return "is too long"
        if value.isascii():
            return None if value.isprintable() else "holds control characters"
        if any(ch < " " or "\x7f" <= ch <= "\x9f" or "\ud800" <= ch <= "\udfff" for ch in value):
            return "holds control characters"
        return None if len(value.encode()) <= self.high else "is too long"


@dataclasses.dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    words: frozenset[str]

    def check(self, value: object) -> str | None:
        """Check type and membership."""
        return None if type(value) is str and value in self.words else "is not one of the words allowed"


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def check(self, value: object) -> str | None:
        """Check the type."""
        return None if type(value) is bool else "is not a boolean"


@dataclasses.dataclass(frozen=True, slots=True)
class ListOf:
    """At most ``high`` values that each pass ``item``."""

    item: Between | Sized | Text
    high: int

    def check(self, value: object) -> str | None:
        """Check the type, the length, and each item."""
        if type(value) is not list:
            return "is not a list"
        if len(value) > self.high:
            return "is too long"
        check = self.item.check
        for item in value:
            if (wrong := check(item)) is not None:
                return f"has an item that {wrong}"
        return None


Rule = Between | Sized | Text | OneOf | Flag | ListOf

U8 = Annotated[int, Between(0, limits.U8)]
U16 = Annotated[int, Between(0, limits.U16)]
U32 = Annotated[int, Between(0, limits.U32)]
Count = Annotated[int, Between(0, limits.MAX_COUNT)]
CountOrNone = Annotated[int, Between(-1, limits.MAX_COUNT)]
Bytes16 = Annotated[bytes, Sized(16, 16)]
Bytes16OrEmpty = Annotated[bytes, Sized(16, 16, empty=True)]
Bytes32 = Annotated[bytes, Sized(32, 32)]
Bytes32OrEmpty = Annotated[bytes, Sized(32, 32, empty=True)]
Ids = Annotated[bytes, Sized(0, limits.MAX_IDS * limits.ID, step=limits.ID)]
Name = Annotated[str, Text(limits.MAX_NAME)]
Word = Annotated[str, Text(limits.MAX_WORD)]
Sentence = Annotated[str, Text(limits.MAX_TEXT)]
Bool = Annotated[bool, Flag()]


@dataclasses.dataclass(frozen=True, slots=True)
class FieldTable:
    """What encoding and decoding need to know of one message type.

    ``header`` are the fields that travel in the header, ``in_payload`` the one that travels as the payload, if any.
    ``required`` are the names that must be there; a field with a default may be missing (an older peer).
    """

    header: tuple[tuple[str, Check], ...]
    required: frozenset[str]
    in_payload: tuple[str, Check] | None


def table_of(message: type[Any], in_payload: str | None) -> FieldTable:
    """Make the table of a message type from its annotations."""
    hints = get_type_hints(message, include_extras=True)
    checks: dict[str, Check] = {}
    required = set()
    for field in dataclasses.fields(message):
        hint = hints[field.name]
        rules = (
            [extra for extra in get_args(hint)[1:] if isinstance(extra, Rule)] if get_origin(hint) is Annotated else []
        )
        if len(rules) != 1:
            raise TypeError(f"{message.__name__}.{field.name}: a field needs one rule")
        checks[field.name] = rules[0].check
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.add(field.name)
    payload = None if in_payload is None else (in_payload, checks.pop(in_payload))
    if payload is not None:
        required.discard(payload[0])
    return FieldTable(tuple(checks.items()), frozenset(required), payload)

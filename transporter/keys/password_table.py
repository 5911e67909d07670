"""The passwords of a home: their hashes, sealed under the master key; passwords themselves are nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey, UnknownPassword, UsageError
from transporter.keys.open_database import OpenDatabase
from transporter.keys.password import (
    DEFAULT_PARAMETERS,
    SALT_LENGTH,
    KdfParameters,
    PasswordHash,
    UserKey,
    hash_password,
)
from transporter.keys.places import password_place
from transporter.keys.secret import SYSTEM
from transporter.keys.wrap import unwrap, wrap

MAX_NAME: Final = 64
"""Characters of a password's name: it stands on one line of a table."""

MAX_HINT: Final = 200
"""Characters of a hint."""

_INSERT: Final = """INSERT INTO passwords (name, salt, memory_kib, iterations, lanes, hint, created_ns, sealed)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""


@dataclass(frozen=True, slots=True)
class PasswordInfo:
    """A line of ``password list``: nothing secret. ``changed_ns`` is 0 for one that never was."""

    name: str
    hint: str
    created_ns: int
    changed_ns: int
    params: KdfParameters


class PasswordTable(OpenDatabase):
    """``parameters`` is the price of passwords added or changed from now on."""

    def __init__(self, path: Path, *, clock: Clock = SYSTEM, parameters: KdfParameters = DEFAULT_PARAMETERS) -> None:
        super().__init__(path, clock)
        self._parameters = parameters

    def add_password(self, name: str, password: bytes, hint: str = "") -> UserKey:
        """Keep the hash of ``password`` under ``name``, with a salt of its own.

        Raises:
            UsageError: the name is taken or unfit, the hint holds the password, or the password is empty.
        """
        _check_name(name)
        check_hint(hint, password)
        if self._find("name = ?", name) is not None:
            raise _taken(name)  # before the dear hashing; asked again below, in the transaction
        salt = self._clock.random_bytes(SALT_LENGTH)
        return self.remember_hash(name, hash_password(password, salt, self._parameters), hint)

    def remember_hash(self, name: str, key: PasswordHash, hint: str = "") -> UserKey:
        """Keep a hash that was made elsewhere, as from the salt of a point whose password a person just typed."""
        _check_name(name)
        check_hint(hint, b"")
        price = key.parameters
        sealed = wrap(self._kek, key.raw, password_place(name, key.salt, price), clock=self._clock)
        now = self._clock.now_ns()
        row = (name, key.salt, price.memory_kib, price.iterations, price.lanes, hint, now, sealed)
        with self._write() as db:
            if db.execute("SELECT 1 FROM passwords WHERE name = ?", (name,)).fetchone():
                raise _taken(name)
            other = db.execute("SELECT name FROM passwords WHERE salt = ?", (key.salt,)).fetchone()
            if other:
                raise UsageError(f"this password is kept already, as {other[0]!r}", "use that name")
            self._record(db, "password.add", password=name)
            db.execute(_INSERT, row)
        return UserKey(name, key)

    def user_key(self, name: str) -> UserKey:
        """Return the user key kept as ``name``; `UnknownPassword` if there is none."""
        return unknown_or(self._find("name = ?", name), name)

    def list(self) -> list[PasswordInfo]:
        """Return the passwords by name, nothing secret."""
        query = """SELECT name, hint, created_ns, changed_ns, memory_kib, iterations, lanes FROM passwords
            ORDER BY name"""
        with self._read() as db:
            rows = db.execute(query).fetchall()
        return [PasswordInfo(row[0], row[1], row[2], row[3], KdfParameters(*row[4:])) for row in rows]

    # ---- within ----

    def _find(self, condition: str, value: str | bytes) -> UserKey | None:
        query = f"SELECT name, salt, memory_kib, iterations, lanes, sealed FROM passwords WHERE {condition}"
        with self._read() as db:
            row = db.execute(query, (value,)).fetchone()
        if row is None:
            return None
        name, salt, parameters = row[0], row[1], KdfParameters(*row[2:5])
        try:
            raw = unwrap(self._kek, row[5], password_place(name, salt, parameters))
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return UserKey(name, PasswordHash.from_raw(raw, salt, parameters))


def _check_name(name: str) -> None:
    if not (1 <= len(name) <= MAX_NAME and name.isprintable() and name == name.strip()):
        raise UsageError(
            f"a password's name is one line of 1 to {MAX_NAME} characters, without spaces around it", "choose another"
        )


def check_hint(hint: str, password: bytes) -> None:
    """Refuse a hint that is no line, too long, or holds ``password`` (empty: not known). Raises UsageError."""
    if len(hint) > MAX_HINT or not (hint == "" or hint.isprintable()):
        raise UsageError(f"a hint is one line of at most {MAX_HINT} characters", "choose a shorter hint")
    if password and password in hint.encode("utf-8", "surrogateescape"):
        raise UsageError("the hint gives the password away", "choose a hint that only helps those who know it")


def unknown_or(found: UserKey | None, name: str) -> UserKey:
    """Return what was found. Raises UnknownPassword about ``name``."""
    if found is None:
        raise UnknownPassword.of(name)
    return found


def _taken(name: str) -> UsageError:
    return UsageError(f"a password is kept as {name!r} already", "choose another name")

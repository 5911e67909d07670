"""The passwords of a home: their hashes, sealed under the master key; passwords themselves are nowhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transporter.clock import Clock
from transporter.errors import UnknownPassword, UsageError
from transporter.keys.approval_table import ApprovalTable
from transporter.keys.audit_trail import Fact
from transporter.keys.deeds import Deed, deed
from transporter.keys.hash_lock import HashLock, HashLocks, HashRow
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
from transporter.keys.settings import KeySettings

MAX_NAME: Final = 64
"""Characters of a password's name: it stands on one line of a table."""

NO_SERVICE: Final = "none"
"""What people write in the place of a service where the master key alone is to lock a password."""

MAX_HINT: Final = 200
"""Characters of a hint."""

_INSERT: Final = """INSERT INTO passwords (name, salt, memory_kib, iterations, lanes, hint, created_ns, sealed, kms,
    kms_wrapped) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


_MOST_RECOVERED: Final = 2**63 - 1
"""What a target says how many points a password opens is shown, and relied upon for nothing; eight bytes hold it."""


@dataclass(frozen=True, slots=True)
class PasswordInfo:
    """A line of ``password list``: nothing secret. ``changed_ns`` is 0 for one that never was; ``kms`` may be empty."""

    name: str
    hint: str
    created_ns: int
    changed_ns: int
    params: KdfParameters
    kms: str


class PasswordTable(HashLocks, ApprovalTable):
    """``parameters`` is the price of passwords added or changed from now on."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = SYSTEM,
        parameters: KdfParameters = DEFAULT_PARAMETERS,
        settings: Callable[[], KeySettings] | None = None,
    ) -> None:
        super().__init__(path, clock, parameters, settings)

    def add_password(self, name: str, password: bytes, hint: str = "", kms: str = "") -> UserKey:
        """Keep the hash of ``password`` under ``name``, with a salt of its own; ``kms``: the service that locks it.

        Raises:
            UsageError: the name is taken or unfit, the hint holds the password, or the password is empty.
            ConfigError, `KMS_ERRORS`: the service does not do it; nothing was kept.
            NeedsApproval, RefusedByPeer.
        """
        _check_name(name)
        check_hint(hint, password)
        if self._is_kept(name):
            raise _taken(name)  # before the dear hashing; asked again below, in the transaction
        self.check_approved(deed_of_new(name))
        salt = self._clock.random_bytes(SALT_LENGTH)
        return self.remember_hash(name, hash_password(password, salt, self._parameters), hint, kms)

    def remember_hash(self, name: str, key: PasswordHash, hint: str = "", kms: str = "") -> UserKey:
        """Keep a hash that was made elsewhere, as from the salt of a point whose password a person just typed.

        Raises as `add_password`.
        """
        what = deed_of_new(name)
        self._before(what)
        lock = self.new_hash_lock(kms)  # a service is asked outside any transaction
        with self._write() as db:
            self._insert_hash(db, name, key, hint, lock, **self._approved(db, what))
        return UserKey(name, key, kms)

    def recover_password(self, name: str, found: Sequence[PasswordHash], points: Sequence[int] = ()) -> None:
        """Keep again a password that points were made with, with each salt it was ``found`` with: name, "name 2", ….

        ``points``: how many each opens. That is kept: no storage key of theirs is here to say that it is in use.

        Raises as `remember_hash`; NeedsApproval, RefusedByPeer.
        """
        what = deed("password.recover", name)
        self._before(what)
        lock = self.new_hash_lock("")
        with self._write() as db:
            facts = self._approved(db, what)
            for number, key in enumerate(found):
                kept_as = name if number == 0 else f"{name} {number + 1}"
                self._insert_hash(db, kept_as, key, "", lock, **facts)
                opened = points[number] if number < len(points) else 0
                row = (recovered_row(kept_as), min(opened, _MOST_RECOVERED).to_bytes(8, "big"))
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)

    @staticmethod
    def _recovered(db: sqlite3.Connection, name: str) -> int:
        """Return how many points a password opened when it was recovered."""
        row = db.execute("SELECT value FROM meta WHERE name = ?", (recovered_row(name),)).fetchone()
        return 0 if row is None else int.from_bytes(row[0], "big")

    def _insert_hash(
        self, db: sqlite3.Connection, name: str, key: PasswordHash, hint: str, lock: HashLock, **facts: Fact
    ) -> None:
        _check_name(name)
        check_hint(hint, b"")
        price = key.parameters
        sealed = self._seal_hash(key, lock, password_place(name, key.salt, price))
        now = self._clock.now_ns()
        row = (
            name,
            key.salt,
            price.memory_kib,
            price.iterations,
            price.lanes,
            hint,
            now,
            sealed,
            lock.service,
            lock.wrapped,
        )
        if db.execute("SELECT 1 FROM passwords WHERE name = ?", (name,)).fetchone():
            raise _taken(name)
        other = db.execute("SELECT name FROM passwords WHERE salt = ?", (key.salt,)).fetchone()
        if other:
            raise UsageError(f"this password is kept already, as {other[0]!r}", "use that name")
        self._record(db, "password.add", password=name, **({"kms": lock.service} if lock.service else {}), **facts)
        db.execute(_INSERT, row)

    def user_key(self, name: str, held: UserKey | None = None) -> UserKey:
        """Return the user key kept as ``name``; `UnknownPassword` if there is none.

        ``held``: the one that a job began with; while the password is the same, no service is asked for it again.
        """
        return unknown_or(self._find("name = ?", name, held), name)

    def set_password_kms(self, name: str, kms: str) -> UserKey:
        """Have another service lock the hash, or (empty) none but the master key.

        Raises UnknownPassword, UsageError (its change is not finished), ConfigError, `KMS_ERRORS`, NeedsApproval,
        RefusedByPeer.
        """
        key = self.user_key(name)
        what = deed("password.kms", name, kms or NO_SERVICE)
        self._before(what)
        lock = self.new_hash_lock(kms)
        sealed = self._seal_hash(key.hash, lock, password_place(name, key.salt, key.params))
        with self._write() as db:
            if db.execute("SELECT 1 FROM password_changes WHERE name = ?", (name,)).fetchone():
                raise UsageError(
                    f"the last change of the password {name!r} is not finished",
                    f"finish it first: transporter password change {name} --resume",
                )
            facts = self._approved(db, what)
            self._record(db, "password.kms", password=name, before=key.kms, now=kms, **facts)
            changed = db.execute(
                "UPDATE passwords SET sealed = ?, kms = ?, kms_wrapped = ? WHERE name = ? AND salt = ?",
                (sealed, kms, lock.wrapped, name, key.salt),
            )
            if changed.rowcount != 1:
                raise UsageError(f"the password {name!r} was changed meanwhile", "run it again")
        self._scrape()
        return UserKey(name, key.hash, kms)

    def list(self) -> list[PasswordInfo]:
        """Return the passwords by name, nothing secret."""
        query = """SELECT name, hint, created_ns, changed_ns, memory_kib, iterations, lanes, kms FROM passwords
            ORDER BY name"""
        with self._read() as db:
            rows = db.execute(query).fetchall()
        return [PasswordInfo(row[0], row[1], row[2], row[3], KdfParameters(*row[4:7]), row[7]) for row in rows]

    # ---- within ----

    def _find(self, condition: str, value: str | bytes, held: UserKey | None = None) -> UserKey | None:
        row = self._row(condition, value)
        return None if row is None else self._open_hash(row, password_place(row.name, row.salt, row.price), held)

    def _row(self, condition: str, value: str | bytes) -> HashRow | None:
        with self._read() as db:
            row = db.execute(f"SELECT {HashRow.COLUMNS} FROM passwords WHERE {condition}", (value,)).fetchone()
        return None if row is None else HashRow.of(row)

    def _is_kept(self, name: str) -> bool:
        return self._row("name = ?", name) is not None


def recovered_row(name: str) -> str:
    """Return the name of the row in ``meta`` that says how many points a password opened when it was recovered."""
    return f"recovered {name}"


def deed_of_new(name: str) -> Deed:
    """Return what it is to keep a new password. Raises UsageError for a name that no password can have."""
    _check_name(name)
    return deed("password.add", name)


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

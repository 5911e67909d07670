"""Changing and removing passwords: what of the key database hangs on one is wrapped anew, or goes with it.

A change has two halves. The first is one transaction here (`change_password`): the new hash takes the old one's place,
and everything below it in this database is wrapped anew. The old hash is kept aside, so that points whose slots are
not replaced yet still open. The second replaces those slots, wherever they lie (jobs/rewrap.py); it may take long, be
killed, and be gone on with. `finish_change` forgets the old hash: only then does the old password open nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from transporter.errors import DamagedData, NoKey, UsageError
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.password import SALT_LENGTH, KdfParameters, PasswordHash, UserKey, hash_password
from transporter.keys.password_table import PasswordTable, check_hint, unknown_or
from transporter.keys.places import change_place, domain_place, password_place, run_place, storage_key_place
from transporter.keys.wrap import unwrap, wrap

_BELOW: Final = ("storage_keys", "runs", "domains")
"""Tables whose rows name the password that they are wrapped under."""


@dataclass(frozen=True, slots=True)
class UnfinishedChange:
    """An old hash that slots may still be wrapped under; ``name`` is the password that takes its place."""

    name: str
    began_ns: int
    old: PasswordHash = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasswordUse:
    """How much of the key database hangs on a password: nobody else's copy of it is here."""

    points: int
    runs: int
    domains: int


class PasswordChanges(PasswordTable):
    """See the head of the file."""

    def change_password(self, name: str, password: bytes, hint: str | None = None) -> UserKey:
        """Put ``password`` in the place of the one kept as ``name``; ``hint`` None keeps the hint.

        Durable as a whole or not at all. Afterwards `unfinished_changes` has the old hash.

        Raises:
            UnknownPassword: there is none of that name.
            UsageError: the password is empty, the hint holds it, or the last change has not been finished.
        """
        check_hint(hint or "", password)
        unknown_or(self._find("name = ?", name), name)  # before the dear hashing
        new = hash_password(password, self._clock.random_bytes(SALT_LENGTH), self._parameters)
        with self._write() as db:
            old = unknown_or(self._find("name = ?", name), name)
            # Two old hashes would be two old passwords at large, and what replaces slots knows of one.
            _refuse_unfinished(db, name)
            self._record(db, "password.change", password=name, points=self._count(db, "storage_keys", name))
            self._set_aside(db, old)
            self._replace(db, UserKey(name, new), hint)
            self._wrap_anew(db, old, UserKey(name, new))
        return UserKey(name, new)

    def unfinished_changes(self, name: str = "") -> list[UnfinishedChange]:
        """Return the old hashes that are still kept, oldest first; of one password, or of all."""
        query = """SELECT name, salt, memory_kib, iterations, lanes, sealed, began_ns FROM password_changes
            WHERE ?1 IN ('', name) ORDER BY began_ns, salt"""
        with self._read() as db:
            rows = db.execute(query, (name,)).fetchall()
        return [UnfinishedChange(row[0], row[6], self._old(row).hash) for row in rows]

    def finish_change(self, salt: bytes, *, replaced: int, given_up: int = 0, unreached: Sequence[str] = ()) -> None:
        """Forget an old hash: ``replaced`` slots were.

        ``given_up`` points could not be opened by it any more, and ``unreached`` places were left out.
        """
        with self._write() as db:
            row = db.execute("SELECT name FROM password_changes WHERE salt = ?", (salt,)).fetchone()
            if row is None:
                return
            self._record(
                db, "password.changed", password=row[0], slots=replaced, given_up=given_up, left_out=list(unreached)
            )
            db.execute("DELETE FROM password_changes WHERE salt = ?", (salt,))
        self._scrape()

    def use_of(self, name: str) -> PasswordUse:
        """Count what hangs on a password in this database. Raises UnknownPassword."""
        unknown_or(self._find("name = ?", name), name)
        with self._read() as db:
            return PasswordUse(*(self._count(db, table, name) for table in _BELOW))

    def remove_password(self, name: str) -> PasswordUse:
        """Forget a password and everything that is wrapped under it here; points stay, for whoever knows the password.

        Raises:
            UnknownPassword: there is none of that name.
            UsageError: its change has not been finished: the old hash would be lost with it.
        """
        with self._write() as db:
            unknown_or(self._find("name = ?", name), name)
            _refuse_unfinished(db, name)
            use = PasswordUse(*(self._count(db, table, name) for table in _BELOW))
            self._record(db, "password.remove", password=name, points=use.points)
            for table in _BELOW:
                db.execute(f"DELETE FROM {table} WHERE password = ?", (name,))
            db.execute("DELETE FROM passwords WHERE name = ?", (name,))
        self._scrape()
        return use

    def find_by_salt(self, salt: bytes) -> UserKey | None:
        """Return the user key made with ``salt``, also that of a change under way; None: somebody must type it."""
        found = self._find("salt = ?", salt)
        if found is not None:
            return found
        query = "SELECT name, salt, memory_kib, iterations, lanes, sealed FROM password_changes WHERE salt = ?"
        with self._read() as db:
            row = db.execute(query, (salt,)).fetchone()
        return None if row is None else self._old(row)

    # ---- within ----

    def _set_aside(self, db: sqlite3.Connection, old: UserKey) -> None:
        price = old.params
        sealed = wrap(self._kek, old.hash.raw, change_place(old.name, old.salt, price), clock=self._clock)
        now = self._clock.now_ns()
        row = (old.salt, old.name, price.memory_kib, price.iterations, price.lanes, now, sealed)
        db.execute("INSERT INTO password_changes VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _replace(self, db: sqlite3.Connection, new: UserKey, hint: str | None) -> None:
        price = new.params
        sealed = wrap(self._kek, new.hash.raw, password_place(new.name, new.salt, price), clock=self._clock)
        db.execute(
            """UPDATE passwords SET salt = ?, memory_kib = ?, iterations = ?, lanes = ?, hint = coalesce(?, hint),
                changed_ns = ?, sealed = ? WHERE name = ?""",
            (
                new.salt,
                price.memory_kib,
                price.iterations,
                price.lanes,
                hint,
                self._clock.now_ns(),
                sealed,
                new.name,
            ),
        )

    def _wrap_anew(self, db: sqlite3.Connection, old: UserKey, new: UserKey) -> None:
        """Wrap what hangs on the password under the new one; what the old one does not open is of no use to anybody."""
        rows = db.execute("SELECT point, sealed FROM storage_keys WHERE password = ?", (new.name,)).fetchall()
        for point, sealed in rows:
            again = self._moved(old, new, sealed, storage_key_place(point), KEY_LENGTH)
            db.execute("UPDATE storage_keys SET sealed = ? WHERE point = ?", (again, point))
        rows = db.execute("SELECT job, run, sealed FROM runs WHERE password = ?", (new.name,)).fetchall()
        for job, run, sealed in rows:
            again = self._moved(old, new, sealed, run_place(job, run), 2 * KEY_LENGTH)
            db.execute("UPDATE runs SET sealed = ? WHERE job = ? AND run = ?", (again, job, run))
        rows = db.execute("SELECT job, sealed FROM domains WHERE password = ?", (new.name,)).fetchall()
        for job, sealed in rows:
            again = self._moved(old, new, sealed, domain_place(job), KEY_LENGTH)
            db.execute("UPDATE domains SET sealed = ? WHERE job = ?", (again, job))

    def _moved(self, old: UserKey, new: UserKey, sealed: bytes, place: bytes, length: int) -> bytes:
        try:
            plain = unwrap(old.hash.kek, sealed, place, length=length)
        except (NoKey, DamagedData):  # of an older password of that name, or rotten: of no use either way
            return sealed
        return wrap(new.hash.kek, plain, place, clock=self._clock)

    def _old(self, row: Sequence[Any]) -> UserKey:
        name, salt, price = row[0], row[1], KdfParameters(*row[2:5])
        try:
            raw = unwrap(self._kek, row[5], change_place(name, salt, price))
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return UserKey(name, PasswordHash.from_raw(raw, salt, price))

    @staticmethod
    def _count(db: sqlite3.Connection, table: str, name: str) -> int:
        row = db.execute(f"SELECT count(*) FROM {table} WHERE password = ?", (name,)).fetchone()
        return int(row[0])


def unfinished_change(name: str) -> UsageError:
    """Return the error about a change that has to be finished first."""
    return UsageError(
        f"the last change of the password {name!r} is not finished",
        f"finish it first: transporter password change {name} --resume",
    )


def _refuse_unfinished(db: sqlite3.Connection, name: str) -> None:
    if db.execute("SELECT 1 FROM password_changes WHERE name = ?", (name,)).fetchone():
        raise unfinished_change(name)

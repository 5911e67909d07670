"""Changing and removing passwords: what of the key database hangs on one is wrapped anew, or goes with it.

A change has two halves. The first is here (`change_password`): in one transaction the new hash takes the old one's
place, and the old one is kept aside, so that what still lies under it opens. Then everything below it in this database
is wrapped anew, some rows at a time: nobody who waits for the database waits longer than for some of them. The second
half replaces the slots of points, wherever they lie (jobs/rewrap.py). Both may take long, be killed, and be gone on
with. `finish_change` wraps anew what a kill left here, and forgets the old hash: only then does the old password open
nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from transporter.errors import DamagedData, NoKey, UnknownPassword, UsageError
from transporter.keys.deeds import Deed, deed
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.hash_lock import HashLock, HashRow
from transporter.keys.password import SALT_LENGTH, PasswordHash, UserKey, hash_password
from transporter.keys.password_table import PasswordTable, check_hint, recovered_row, unknown_or
from transporter.keys.places import change_place, domain_place, password_place, run_place, storage_key_place
from transporter.keys.wrap import unwrap, wrap

_BELOW: Final = ("storage_keys", "runs", "domains")
"""Tables whose rows name the password that they are wrapped under."""

BATCH: Final = 1000
"""Rows that are wrapped anew in one transaction: 10 ms of writing and a flush of the disk, of the 15 s (`BUSY_SECONDS`)
that another process waits. The wrapping, ten times as long, is outside it, and leaves the others room."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table below a password: the columns of its key, how many bytes are sealed, and what to."""

    name: str
    key: tuple[str, ...]
    length: int
    place: Callable[..., bytes]


_TABLES: Final = (
    _Table("storage_keys", ("point",), KEY_LENGTH, storage_key_place),
    _Table("runs", ("job", "run"), 2 * KEY_LENGTH, run_place),
    _Table("domains", ("job",), KEY_LENGTH, domain_place),
)


@dataclass(frozen=True, slots=True)
class UnfinishedChange:
    """An old hash that slots may still be wrapped under; ``name`` is the password that takes its place."""

    name: str
    began_ns: int
    old: PasswordHash = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasswordUse:
    """How much of the key database hangs on a password: nobody else's copy of it is here.

    ``recovered``: points that it opened when it was recovered. No key of theirs is kept here beside it.
    """

    points: int
    runs: int
    domains: int
    recovered: int = 0


class PasswordChanges(PasswordTable):
    """See the head of the file."""

    def change_password(self, name: str, password: bytes, hint: str | None = None) -> UserKey:
        """Put ``password`` in the place of the one kept as ``name``; ``hint`` None keeps the hint.

        The new hash is durable as a whole or not at all. Afterwards `unfinished_changes` has the old one.

        Raises:
            UnknownPassword: there is none of that name.
            UsageError: the password is empty, the hint holds it, or the last change has not been finished.
            NeedsApproval, RefusedByPeer: two operators must have signed for it.
        """
        check_hint(hint or "", password)
        what = deed("password.change", name)
        self._refuse_unknown(name)  # before anything dear
        self._before(what)
        held = self.user_key(name)  # before the dear hashing; and no service is asked in the transaction
        new = hash_password(password, self._clock.random_bytes(SALT_LENGTH), self._parameters)
        with self._write() as db:
            old = unknown_or(self._find("name = ?", name, held), name)
            row = self._row("name = ?", name)
            assert row is not None
            lock = self.hash_lock(row)  # from the cache: it was asked for above
            # Two old hashes would be two old passwords at large, and what replaces slots knows of one.
            _refuse_unfinished(db, name)
            facts = self._approved(db, what)
            points = self._count(db, "storage_keys", name)
            self._record(db, "password.change", password=name, points=points, **facts)
            self._set_aside(db, old, lock)
            self._replace(db, UserKey(name, new), hint, lock)
        self._wrap_anew(old, UserKey(name, new))
        return UserKey(name, new, old.kms)

    def unfinished_changes(self, name: str = "") -> list[UnfinishedChange]:
        """Return the old hashes that are still kept, oldest first; of one password, or of all."""
        query = f"""SELECT began_ns, {HashRow.COLUMNS} FROM password_changes
            WHERE ?1 IN ('', name) ORDER BY began_ns, salt"""
        with self._read() as db:
            rows = db.execute(query, (name,)).fetchall()
        return [UnfinishedChange(row[1], row[0], self._old(HashRow.of(row[1:])).hash) for row in rows]

    def count_unfinished(self, name: str) -> int:
        """Return how many old hashes of a password are still kept; nothing is opened."""
        with self._read() as db:
            row = db.execute("SELECT count(*) FROM password_changes WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    def finish_change(self, salt: bytes, *, replaced: int, given_up: int = 0, unreached: Sequence[str] = ()) -> None:
        """Forget an old hash, once nothing here is under it any more: ``replaced`` slots were.

        ``given_up`` points could not be opened by it any more, and ``unreached`` places were left out: to lose those
        may need two operators (NeedsApproval).
        """
        with self._read() as db:
            row = db.execute(f"SELECT {HashRow.COLUMNS} FROM password_changes WHERE salt = ?", (salt,)).fetchone()
        if row is None:
            return
        old = self._old(HashRow.of(row))
        # Nothing comes to lie under the old hash any more (`_wrap_under`): behind this nothing does.
        self._wrap_anew(old, self.user_key(old.name))
        loss = deed("password.give-up", old.name) if given_up or unreached else None
        if loss is not None:
            self._before(loss)
        with self._write() as db:
            row = db.execute("SELECT name FROM password_changes WHERE salt = ?", (salt,)).fetchone()
            if row is None:
                return
            self._record(
                db,
                "password.changed",
                password=row[0],
                slots=replaced,
                given_up=given_up,
                left_out=list(unreached),
                **(self._approved(db, loss) if loss is not None else {}),
            )
            db.execute("DELETE FROM password_changes WHERE salt = ?", (salt,))
        self._scrape()

    def use_of(self, name: str) -> PasswordUse:
        """Count what hangs on a password in this database. Raises UnknownPassword."""
        self._refuse_unknown(name)
        with self._read() as db:
            return self._use(db, name)

    def _use(self, db: sqlite3.Connection, name: str) -> PasswordUse:
        points, runs, domains = (self._count(db, table, name) for table in _BELOW)
        return PasswordUse(points, runs, domains, self._recovered(db, name))

    def jobs_sealed(self, name: str) -> list[str]:
        """Return of which jobs a password seals the chunks: TENANT/JOB at a target, PEER/REPOSITORY/JOB at a source."""
        with self._read() as db:
            rows = db.execute("SELECT job FROM domains WHERE password = ? ORDER BY job", (name,)).fetchall()
        return [row[0] for row in rows]

    def remove_password(self, name: str, *, in_use: bool = False) -> PasswordUse:
        """Forget a password and everything that is wrapped under it here; points stay, for whoever knows the password.

        ``in_use``: the configuration uses it. That, and what hangs on it here, makes it a forced removal.

        Raises:
            UnknownPassword: there is none of that name.
            UsageError: its change has not been finished: the old hash would be lost with it.
            NeedsApproval, RefusedByPeer: two operators must have signed for it.
        """
        self._before(_removal(name, self.use_of(name), in_use=in_use))
        with self._write() as db:
            self._refuse_unknown(name)
            _refuse_unfinished(db, name)
            use = self._use(db, name)
            facts = self._approved(db, _removal(name, use, in_use=in_use))
            self._record(db, "password.remove", password=name, points=use.points, **facts)
            for table in _BELOW:
                db.execute(f"DELETE FROM {table} WHERE password = ?", (name,))
            db.execute("DELETE FROM passwords WHERE name = ?", (name,))
            db.execute("DELETE FROM meta WHERE name = ?", (recovered_row(name),))
        self._scrape()
        return use

    def find_by_salt(self, salt: bytes) -> UserKey | None:
        """Return the user key made with ``salt``, also that of a change under way; None: somebody must type it."""
        found = self._find("salt = ?", salt)
        if found is not None:
            return found
        query = f"SELECT {HashRow.COLUMNS} FROM password_changes WHERE salt = ?"
        with self._read() as db:
            row = db.execute(query, (salt,)).fetchone()
        return None if row is None else self._old(HashRow.of(row))

    def knows_salt(self, salt: bytes) -> bool:
        """Tell whether `find_by_salt` has something to open; no service is asked."""
        with self._read() as db:
            query = "SELECT 1 FROM passwords WHERE salt = ?1 UNION SELECT 1 FROM password_changes WHERE salt = ?1"
            return db.execute(query, (salt,)).fetchone() is not None

    # ---- within ----

    def _refuse_unknown(self, name: str) -> None:
        if not self._is_kept(name):
            raise UnknownPassword.of(name)

    def _set_aside(self, db: sqlite3.Connection, old: UserKey, lock: HashLock) -> None:
        price = old.params
        sealed = self._seal_hash(old.hash, lock, change_place(old.name, old.salt, price))
        now = self._clock.now_ns()
        row = (old.salt, old.name, price.memory_kib, price.iterations, price.lanes, now, sealed)
        db.execute(
            "INSERT INTO password_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, lock.service, lock.wrapped)
        )

    def _replace(self, db: sqlite3.Connection, new: UserKey, hint: str | None, lock: HashLock) -> None:
        price = new.params
        sealed = self._seal_hash(new.hash, lock, password_place(new.name, new.salt, price))
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

    def _wrap_anew(self, old: UserKey, new: UserKey) -> None:
        """Wrap what hangs on the password under the new one; what the old one does not open is of no use to anybody.

        What was done stays done, and is not done again. Not within a transaction.
        """
        for table in _TABLES:
            after: tuple[Any, ...] = ()
            while rows := self._some(table, new.name, after):
                after = rows[-1][:-1]
                moved = [(again, *row) for row in rows if (again := self._moved(old, new, table, row)) is not None]
                self._put_back(table, moved)

    def _some(self, table: _Table, name: str, after: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the next rows of a password: their keys, and what is sealed."""
        key = ", ".join(table.key)
        beyond = f"AND ({key}) > ({', '.join('?' * len(after))})" if after else ""
        query = f"SELECT {key}, sealed FROM {table.name} WHERE password = ? {beyond} ORDER BY {key} LIMIT ?"
        with self._read() as db:
            return db.execute(query, (name, *after, BATCH)).fetchall()

    def _put_back(self, table: _Table, moved: list[tuple[Any, ...]]) -> None:
        """Store what was wrapped anew, where nobody has stored something else meanwhile."""
        if moved:
            same = " AND ".join(f"{column} = ?" for column in (*table.key, "sealed"))
            with self._write() as db:
                db.executemany(f"UPDATE {table.name} SET sealed = ? WHERE {same}", moved)

    def _moved(self, old: UserKey, new: UserKey, table: _Table, row: tuple[Any, ...]) -> bytes | None:
        """Return what a row holds under the new password; None where the old one does not open it."""
        *key, sealed = row
        place = table.place(*key)
        try:
            plain = unwrap(old.hash.kek, sealed, place, length=table.length)
        except (NoKey, DamagedData):  # it was done before; or of an older password of that name, or rotten
            return None
        return wrap(new.hash.kek, plain, place, clock=self._clock)

    def _set_aside_key(self, name: str) -> UserKey | None:
        """Return the old key of a password whose change is not finished."""
        with self._read() as db:
            row = db.execute(f"SELECT {HashRow.COLUMNS} FROM password_changes WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._old(HashRow.of(row))

    def _old(self, row: HashRow) -> UserKey:
        return self._open_hash(row, change_place(row.name, row.salt, row.price))

    @staticmethod
    def _count(db: sqlite3.Connection, table: str, name: str) -> int:
        row = db.execute(f"SELECT count(*) FROM {table} WHERE password = ?", (name,)).fetchone()
        return int(row[0])


def _removal(name: str, use: PasswordUse, *, in_use: bool) -> Deed:
    lost = in_use or use != PasswordUse(0, 0, 0)
    return deed("password.remove-in-use" if lost else "password.remove", name)


def unfinished_change(name: str) -> UsageError:
    """Return the error about a change that has to be finished first."""
    return UsageError(
        f"the last change of the password {name!r} is not finished",
        f"finish it first: transporter password change {name} --resume",
    )


def _refuse_unfinished(db: sqlite3.Connection, name: str) -> None:
    if db.execute("SELECT 1 FROM password_changes WHERE name = ?", (name,)).fetchone():
        raise unfinished_change(name)

"""The file of the key database, opened: the lock, the master key, transactions, and the audit trail beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from transporter.clock import Clock
from transporter.database_errors import transaction, translated
from transporter.errors import DamagedData, NoKey
from transporter.keys.audit_trail import AUDIT_LOG, AuditTrail, Fact, Head
from transporter.keys.database_schema import KEY_DATABASE, connect
from transporter.keys.derive import AUDIT_TRAIL, bind, hkdf, same
from transporter.keys.master_key import load_master_key
from transporter.keys.wrap import unwrap, wrap

MASTER_KEY_NAME: Final = "master.key"
_AUDIT_PLACE: Final = bind(b"audit head")
_NUMBER: Final = 8
_HASH: Final = 32


class OpenDatabase:
    """``path`` is `keys.db`; `master.key` and `audit.log` stand beside it. Mode 0600, and refused otherwise."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._connection = connect(path)
        try:
            self._kek = self._open_master()
        except BaseException:
            self._connection.close()
            raise
        self.audit = AuditTrail(path.with_name(AUDIT_LOG), clock, hkdf(self._kek, AUDIT_TRAIL))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    # ---- audit ----

    def audit_head(self) -> Head:
        """Return how far the audit trail went when this database last wrote to it."""
        with self._read() as db:
            return self._audit_head(db)

    def begin_audit_anew(self) -> Path | None:
        """Set a broken trail aside and begin another, whose first entry says so; return where the old one lies now."""
        with self._write() as db:
            head = self._audit_head(db)
            aside = self.audit.set_aside()
            facts: dict[str, Fact] = {"last": head.number, "last_hash": head.hash, "file": aside.name if aside else ""}
            self._remember(db, self.audit.append("audit.begun-anew", facts))
        return aside

    def _audit_head(self, db: sqlite3.Connection) -> Head:
        row = db.execute("SELECT value FROM meta WHERE name = 'audit'").fetchone()
        if row is None:
            return Head()
        try:
            plain = unwrap(self._kek, row[0], _AUDIT_PLACE, length=_NUMBER + _HASH)
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return Head(int.from_bytes(plain[:_NUMBER], "big"), plain[_NUMBER:].hex())

    def record(self, event: str, **facts: Fact) -> None:
        """Add an entry to the audit trail that belongs to no change of this database."""
        with self._write() as db:
            self._record(db, event, **facts)

    def _record(self, db: sqlite3.Connection, event: str, **facts: Fact) -> None:
        """Add an entry to the audit trail before the transaction under way commits what it tells of."""
        self._remember(db, self.audit.append(event, facts, self._audit_head(db)))

    def _remember(self, db: sqlite3.Connection, head: Head) -> None:
        plain = head.number.to_bytes(_NUMBER, "big") + bytes.fromhex(head.hash)
        sealed = wrap(self._kek, plain, _AUDIT_PLACE, clock=self._clock)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('audit', ?)", (sealed,))

    # ---- within ----

    def _scrape(self) -> None:
        """Empty the write-ahead log: what was deleted still stands in it, until every connection is closed.

        As good as it goes: a reader of this moment keeps it from being emptied.
        """
        with self._read() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _open_master(self) -> bytes:
        path = self._path.with_name(MASTER_KEY_NAME)
        with self._write() as db:  # the write lock: two new processes must agree on one master key
            row = db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
            key = load_master_key(path, create=row is None, clock=self._clock)
            if row is None:
                db.execute("INSERT INTO meta VALUES ('master', ?)", (key.key_id,))
            elif not same(row[0], key.key_id):
                raise NoKey(f"{path} is not the master key of this key database", "put back the file that was with it")
        return key.kek

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(KEY_DATABASE, self._path):
            yield self._connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(KEY_DATABASE, self._path), transaction(self._connection):
            yield self._connection

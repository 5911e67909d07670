"""The file of the key database, opened: the lock, the master key, transactions, and the audit trail beside it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from transporter.clock import Clock
from transporter.database_errors import transaction, translated
from transporter.errors import DamagedData, JobFailed, NoKey
from transporter.keys.audit_trail import AUDIT_LOG, AuditTrail, Fact, Head
from transporter.keys.database_schema import KEY_DATABASE, connect
from transporter.keys.derive import AUDIT_TRAIL, bind, hkdf, same
from transporter.keys.kms_access import KmsAccess
from transporter.keys.master_key import MasterKey, master_key_line
from transporter.keys.master_lock import DEFAULT_FILE, Lock, decode_lock, encode_lock
from transporter.keys.master_sources import SOURCES, Surroundings, new_master_key, not_the_key, source_of
from transporter.keys.password import DEFAULT_PARAMETERS, KdfParameters
from transporter.keys.private_file import create_private
from transporter.keys.settings import KeySettings, settings_beside
from transporter.keys.wrap import unwrap, wrap

MASTER_KEY_NAME: Final = DEFAULT_FILE
AUDIT_PLACE: Final = bind(b"audit head")
AUDIT_KEY_PLACE: Final = bind(b"audit key")
HOME_ID: Final = 16
_NUMBER: Final = 8
_HASH: Final = 32


_opened: Final[dict[tuple[str, bytes], MasterKey]] = {}
"""Master keys that this process had to ask somebody for, by database and key id: a person types a pass phrase once, and
a daemon whose service goes away goes on. Not of files: who takes the file away means it."""


class OpenDatabase:
    """``path`` is `keys.db`; `audit.log` stands beside it, and by default `master.key`. Mode 0600, refused otherwise.

    ``parameters``: the price of a pass phrase from now on. ``settings``: the configuration, by default of the
    `config.toml` beside it.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        parameters: KdfParameters = DEFAULT_PARAMETERS,
        settings: Callable[[], KeySettings] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._parameters = parameters
        self._settings = settings or settings_beside(path)
        self._lock = threading.RLock()
        self._kms_entries: list[tuple[str, dict[str, Fact]]] = []
        self.kms = KmsAccess(lambda: self._settings().kms, clock, self._record_kms)
        self._key_id = b""
        self._connection = connect(path)
        try:
            self._use_master(self._open_master(), self.lock())
        except BaseException:
            self._connection.close()
            raise
        self.audit = AuditTrail(path.with_name(AUDIT_LOG), clock, self._audit_key())
        self._flush_kms()

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
            plain = unwrap(self._kek, row[0], AUDIT_PLACE, length=_NUMBER + _HASH)
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
        sealed = wrap(self._kek, plain, AUDIT_PLACE, clock=self._clock)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('audit', ?)", (sealed,))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep everybody from changing this database or its audit trail meanwhile: copies of both then fit together.

        Seconds at most: others wait, and give up after `BUSY_SECONDS`. Nothing is to be changed within, here neither.
        """
        with self._write():
            yield

    # ---- within ----

    def _scrape(self) -> None:
        """Empty the write-ahead log: what was deleted still stands in it, until every connection is closed.

        As good as it goes: a reader of this moment keeps it from being emptied.
        """
        with self._read() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # ---- the master key ----

    def master_key(self) -> MasterKey:
        """Return the master key itself, wherever it lies: for a bundle, whose node keeps it in a file of its own."""
        return self._master

    def lock(self) -> Lock:
        """Return where the master key lies."""
        with self._read() as db:
            return self._lock_row(db)

    def around(self) -> Surroundings:
        """Return what the places of a master key need."""
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'home'").fetchone()
        if row is None:  # of a version before
            with self._write() as db:
                home_id = self._clock.random_bytes(HOME_ID)
                db.execute("INSERT OR IGNORE INTO meta VALUES ('home', ?)", (home_id,))
                row = db.execute("SELECT value FROM meta WHERE name = 'home'").fetchone()
        return self._around(row[0])

    def _around(self, home_id: bytes) -> Surroundings:
        return Surroundings(self._path.parent, home_id, self.kms, self._clock, self._parameters)

    def _use_master(self, key: MasterKey, lock: Lock) -> None:
        self._master, self._kek, self._key_id = key, key.kek, key.key_id
        if lock.kind != "file":
            _opened[str(self._path), key.key_id] = key

    def _open_master(self) -> MasterKey:
        key = self._make_master() or self._load_master()
        if key is None:  # it was moved between the two looks at it
            key = self._load_master()
        if key is None:
            with self._read() as db:
                raise not_the_key(self._lock_row(db), self._path.parent)
        return key

    def _load_master(self) -> MasterKey | None:
        """Return the master key; None where what lies in its place is another. Asks outside any transaction."""
        with self._read() as db:
            (key_id,) = db.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
            lock = self._lock_row(db)
            row = db.execute("SELECT value FROM meta WHERE name = 'home'").fetchone()
        known = _opened.get((str(self._path), key_id))
        if known is not None:
            return known
        key = SOURCES[lock.kind].get(lock, self._around(row[0] if row is not None else b""))
        return key if same(key_id, key.key_id) else None

    def _make_master(self) -> MasterKey | None:
        """Make the master key of a new database, where ``[keys] master`` says; None where there is one."""
        with self._read() as db:
            if db.execute("SELECT 1 FROM meta WHERE name = 'master'").fetchone() is not None:
                return None
        target = self._settings().master
        around = self._around(self._clock.random_bytes(HOME_ID))
        if target == "file":
            return self._make_file(around)
        source, _kind, name = source_of(target)
        key = new_master_key(target, around)
        lock = source.put(source.lock(name, around, key), around, key)
        with self._write() as db:
            made = self._insert_master(db, around, key, lock)
        if not made:
            source.drop(lock, around)
            return None
        return key

    def _make_file(self, around: Surroundings) -> MasterKey | None:
        path = around.folder / DEFAULT_FILE
        with self._write() as db:  # the write lock: two new processes must agree on one master key
            if db.execute("SELECT 1 FROM meta WHERE name = 'master'").fetchone() is not None:
                return None
            lock = Lock("file", DEFAULT_FILE)
            if not path.exists():
                try:
                    create_private(path, master_key_line(MasterKey.generate(self._clock)).encode())
                except FileExistsError:
                    pass  # it came from elsewhere: it is the one
            key = SOURCES["file"].get(lock, around)
            self._insert_master(db, around, key, lock)
        return key

    @staticmethod
    def _insert_master(db: sqlite3.Connection, around: Surroundings, key: MasterKey, lock: Lock) -> bool:
        """Write down that ``key`` is the one; False where another process was first."""
        if db.execute("SELECT 1 FROM meta WHERE name = 'master'").fetchone() is not None:
            return False
        rows = (("master", key.key_id), ("lock", encode_lock(lock)), ("home", around.home_id))
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        return True

    @staticmethod
    def _lock_row(db: sqlite3.Connection) -> Lock:
        row = db.execute("SELECT value FROM meta WHERE name = 'lock'").fetchone()
        return decode_lock(None if row is None else row[0])

    def _audit_key(self) -> bytes:
        """Return the key of the audit trail: the first master key's, kept when that one is replaced."""
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'audit key'").fetchone()
        if row is None:
            return hkdf(self._kek, AUDIT_TRAIL)
        try:
            return unwrap(self._kek, row[0], AUDIT_KEY_PLACE)
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None

    # ---- what services did ----

    def _record_kms(self, event: str, **facts: str | int) -> None:
        with self._lock:
            self._kms_entries.append((event, dict(facts)))
            if self._key_id and not self._connection.in_transaction and hasattr(self, "audit"):
                self._flush_kms()

    def _flush_kms(self) -> None:
        """Write down what services wrapped and unwrapped while the trail could not be written."""
        while self._kms_entries:
            event, facts = self._kms_entries.pop(0)
            try:
                self.record(event, **facts)
            except DamagedData:
                # A broken trail stops every change of keys; it must not stop a restore, nor the command that mends it.
                if event != "kms.unwrap":
                    raise

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(KEY_DATABASE, self._path):
            self._check_master()
            yield self._connection

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(KEY_DATABASE, self._path), transaction(self._connection):
            self._check_master()
            yield self._connection
        if self._kms_entries and self._key_id and not self._connection.in_transaction:
            self._flush_kms()

    def _check_master(self) -> None:
        """Use nothing under a master key that was replaced meanwhile: what it would write nobody could open."""
        if not self._key_id:
            return
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
        if row is None or not same(row[0], self._key_id):
            raise JobFailed("the master key of this home was replaced meanwhile", "run it again; restart the daemon")

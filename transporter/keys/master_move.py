"""Moving the master key to another place: a new key, and everything that lies under the old one wrapped anew.

    1  keys.db   row `pending`: the new place, where something may lie from now on
    2  outside   the new key is put there
    3  keys.db   one transaction: every column under the master key wrapped anew, rows `master` and `lock` replaced,
                 row `pending`: the old place
    4  outside   what lies in the old place is overwritten and removed
    5  keys.db   row `pending` deleted

Killed before 3 is durable the database opens the old way, after it the new one; what lies in a place that opens nothing
is removed by the next move, or by `keys master-key clean`. One move at a time (flock on the lock file beside it).
Processes that have the database open notice (`_check_master`), and write nothing under the old key.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from transporter.errors import DamagedData, JobBusy, NoKey, TransporterError
from transporter.keys.approval_table import ApprovalTable
from transporter.keys.deeds import Deed, deed
from transporter.keys.derive import same
from transporter.keys.master_key import MasterKey
from transporter.keys.master_lock import Lock, decode_lock, encode_lock
from transporter.keys.master_sources import SOURCES, new_master_key, source_of
from transporter.keys.open_database import AUDIT_KEY_PLACE, AUDIT_PLACE
from transporter.keys.operator_table import POLICY
from transporter.keys.password import KdfParameters
from transporter.keys.places import (
    change_place,
    job_zone_place,
    operator_place,
    password_place,
    plain_domain_place,
    policy_place,
    recovered_place,
    recovery_place,
)
from transporter.keys.wrap import WRAP_OVERHEAD, unwrap, wrap

UNDER_MASTER: Final = frozenset(
    {"passwords", "password_changes", "plain_domains", "recoveries", "recovered_keys", "operators", "job_zones"}
)
"""Tables whose column ``sealed`` is under the master key. A test compares them, and those below, with the schema."""

NOT_UNDER_MASTER: Final = frozenset({"storage_keys", "runs", "domains", "keysets"})
"""Tables whose column ``sealed`` is under a user key, or a keyset's own pass phrase or service."""


class MasterMove(ApprovalTable):
    """See the head of the file."""

    def move_master(self, target: str) -> Lock:
        """Lock this database by ``target`` (as ``[keys] master`` writes it) and a new master key.

        Raises JobBusy, UsageError, NoKey, ConfigError, `KMS_ERRORS`, NeedsApproval, RefusedByPeer; nothing has changed
        then.
        """
        source, _kind, name = source_of(target)
        what = deed("master-key.set", target)
        self._before(what)
        with self._moving():
            self._clean()
            around = self.around()
            key = new_master_key(target, around)
            lock = source.lock(name, around, key)
            with self._write() as db:
                _set_pending(db, lock)
            try:
                lock = source.put(lock, around, key)
                old = self._replace_master(key, lock, what)
            except BaseException:
                # Whatever was raised may have been raised behind the commit, and then that key is the only way in.
                if not self._is_master(key):
                    # What may lie there was never in use: where it cannot be removed it is no harm.
                    with suppress(TransporterError):
                        source.drop(lock, around)
                    self._forget_pending()
                raise
            self._use_master(key, lock)
            SOURCES[old.kind].drop(old, around)
            self._forget_pending()
            self._scrape()
        return lock

    def pending(self) -> Lock | None:
        """Return a place in which a former master key, or one that never came into use, may still lie."""
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'pending'").fetchone()
        return None if row is None else decode_lock(row[0])

    def clean_master(self) -> Lock | None:
        """Remove what an interrupted move left; return where it lay. Raises JobBusy."""
        with self._moving():
            return self._clean()

    # ---- within ----

    def _is_master(self, key: MasterKey) -> bool:
        with self._lock:
            row = self._connection.execute("SELECT value FROM meta WHERE name = 'master'").fetchone()
        return row is not None and same(row[0], key.key_id)

    def _clean(self) -> Lock | None:
        left, lock = self.pending(), self.lock()
        if left is None:
            return None
        if (left.kind, left.name) != (lock.kind, lock.name):
            SOURCES[left.kind].drop(left, self.around())
        self._forget_pending()
        return left

    def _forget_pending(self) -> None:
        with self._write() as db:
            db.execute("DELETE FROM meta WHERE name = 'pending'")

    def _replace_master(self, key: MasterKey, lock: Lock, what: Deed) -> Lock:
        """Step 3; return the old lock."""
        audit_key = self._audit_key()
        with self._write() as db:
            old = self._lock_row(db)
            # The entry is made under the old key, and the head that remembers it is wrapped anew with the rest.
            facts = self._approved(db, what)
            self._record(db, "master-key.set", before=old.text(), now=lock.text(), **facts)
            _wrap_anew(db, _Rewrapping(self, key))
            sealed = wrap(key.kek, audit_key, AUDIT_KEY_PLACE, clock=self._clock)
            rows = (("audit key", sealed), ("master", key.key_id), ("lock", encode_lock(lock)))
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            _set_pending(db, old)
        return old

    def again(self, key: MasterKey, sealed: bytes, place: bytes) -> bytes:
        """Return a cryptogram of the master key that is in use, under ``key``. Raises DamagedData."""
        try:
            plain = unwrap(self._kek, sealed, place, length=len(sealed) - WRAP_OVERHEAD)
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return wrap(key.kek, plain, place, clock=self._clock)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        path = self._path.with_name(f".{self._path.name}.moving")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobBusy("the master key is being moved by another process", "wait until it has ended") from None
            yield
        finally:
            os.close(handle)


class _Rewrapping:
    def __init__(self, keys: MasterMove, key: MasterKey) -> None:
        self._keys = keys
        self._key = key

    def __call__(self, sealed: bytes, place: bytes) -> bytes:
        return self._keys.again(self._key, sealed, place)


def _set_pending(db: sqlite3.Connection, lock: Lock) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES ('pending', ?)", (encode_lock(lock),))


def _wrap_anew(db: sqlite3.Connection, again: _Rewrapping) -> None:
    query = "SELECT salt, sealed, name, memory_kib, iterations, lanes FROM "
    for salt, sealed, name, *price in db.execute(query + "passwords").fetchall():
        new = again(sealed, password_place(name, salt, KdfParameters(*price)))
        db.execute("UPDATE passwords SET sealed = ? WHERE name = ?", (new, name))
    for salt, sealed, name, *price in db.execute(query + "password_changes").fetchall():
        new = again(sealed, change_place(name, salt, KdfParameters(*price)))
        db.execute("UPDATE password_changes SET sealed = ? WHERE salt = ?", (new, salt))
    for job, sealed in db.execute("SELECT job, sealed FROM plain_domains").fetchall():
        db.execute("UPDATE plain_domains SET sealed = ? WHERE job = ?", (again(sealed, plain_domain_place(job)), job))
    # A one-time key that was used, or whose time is over, is gone.
    query = "SELECT request, sealed FROM recoveries WHERE length(sealed) > 0"
    for request, sealed in db.execute(query).fetchall():
        new = again(sealed, recovery_place(request))
        db.execute("UPDATE recoveries SET sealed = ? WHERE request = ?", (new, request))
    for point, sealed in db.execute("SELECT point, sealed FROM recovered_keys").fetchall():
        new = again(sealed, recovered_place(point))
        db.execute("UPDATE recovered_keys SET sealed = ? WHERE point = ?", (new, point))
    for name, identity, added_ns, sealed in db.execute("SELECT name, id, added_ns, sealed FROM operators").fetchall():
        new = again(sealed, operator_place(name, identity, added_ns))
        db.execute("UPDATE operators SET sealed = ? WHERE name = ?", (new, name))
    for job, sealed in db.execute("SELECT job, sealed FROM job_zones").fetchall():
        db.execute("UPDATE job_zones SET sealed = ? WHERE job = ?", (again(sealed, job_zone_place(job)), job))
    for (sealed,) in db.execute("SELECT value FROM meta WHERE name = ?", (POLICY,)).fetchall():
        db.execute("UPDATE meta SET value = ? WHERE name = ?", (again(sealed, policy_place()), POLICY))
    for (sealed,) in db.execute("SELECT value FROM meta WHERE name = 'audit'").fetchall():
        db.execute("UPDATE meta SET value = ? WHERE name = 'audit'", (again(sealed, AUDIT_PLACE),))

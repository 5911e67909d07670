"""The key database of a home: user keys, so that no one types a password twice, and the keys of runs under way.

Several processes may have it open (the daemon and commands), and any thread may call it. Passwords themselves are
never in it. What is remembered of a run is durable when the call returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from transporter.errors import NoKey
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.escrow_table import EscrowTable
from transporter.keys.job_zones import JobZones
from transporter.keys.kms_slot import PreparedKmsSlot, open_kms_slot, prepare_kms_slot
from transporter.keys.master_move import MasterMove
from transporter.keys.open_database import MASTER_KEY_NAME
from transporter.keys.password import UserKey
from transporter.keys.password_changes import PasswordChanges, PasswordUse, UnfinishedChange
from transporter.keys.password_table import MAX_HINT, MAX_NAME, PasswordInfo
from transporter.keys.places import domain_place, plain_domain_place, run_place, storage_key_place
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.slot import KmsSlot
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import unwrap, wrap

__all__ = [
    "MASTER_KEY_NAME",
    "MAX_HINT",
    "MAX_NAME",
    "KeyDatabase",
    "PasswordInfo",
    "PasswordUse",
    "RememberedRun",
    "UnfinishedChange",
]


MOST_PREPARED: Final = 256
"""Runs whose slot is held ready: one that loses its link and comes again asks no service a second time."""

MOST_RUNS: Final = 4096
"""Runs of a job that are remembered. One more takes the place of the oldest, whose chunks are then sent again: a tenant
whose sessions never commit neither fills the database nor makes each start read them all."""

_prepared: Final[dict[tuple[str, str, str, bytes], PreparedKmsSlot]] = {}


@dataclass(frozen=True, slots=True)
class RememberedRun:
    """The keys of a run that did not commit; they open its orphan chunks and never seal again."""

    run_id: bytes
    session_key: SessionKey = field(repr=False)
    metakey: MetaKey = field(repr=False)


class KeyDatabase(PasswordChanges, EscrowTable, JobZones, MasterMove):
    """``path`` is `keys.db`; `master.key` stands beside it. Both have mode 0600 and are refused otherwise.

    ``parameters`` is the price of passwords added from now on.
    """

    # ---- storage keys ----

    def put_storage_key(self, point_id: bytes, storage_key: StorageKey, user_key: UserKey) -> None:
        """Keep the storage key of a point, wrapped under ``user_key``; replaces an older one."""
        with self._write() as db:
            sealed = self._wrap_under(user_key, storage_key.secret, storage_key_place(point_id))
            db.execute(
                "INSERT OR REPLACE INTO storage_keys VALUES (?, ?, ?, ?)",
                (point_id, user_key.name, self._clock.now_ns(), sealed),
            )

    def storage_key(self, point_id: bytes) -> StorageKey | None:
        """Return the storage key kept for a point, or None (also when its password is no longer kept).

        That of its run, else one that came by a recovery.
        """
        with self._read() as db:
            row = db.execute("SELECT password, sealed FROM storage_keys WHERE point = ?", (point_id,)).fetchone()
        plain = self._unwrap(row, storage_key_place(point_id), KEY_LENGTH)
        return self.recovered_key(point_id) if plain is None else StorageKey(plain)

    def storage_keys_before(self, moment_ns: int) -> int:
        """Return how many of the storage keys that are kept here were made before a moment, ns since the epoch."""
        with self._read() as db:
            row = db.execute("SELECT count(*) FROM storage_keys WHERE created_ns < ?", (moment_ns,)).fetchone()
        return int(row[0])

    def drop_storage_key(self, point_id: bytes) -> None:
        """Forget the storage key of a point that was removed."""
        self.drop_storage_keys([point_id])

    def drop_storage_keys(self, point_ids: Sequence[bytes]) -> None:
        """Forget the storage keys of points that were removed; those of which there is none, too."""
        rows = [(point_id,) for point_id in point_ids]
        with self._write() as db:
            for table in ("storage_keys", "recovered_keys"):
                db.executemany(f"DELETE FROM {table} WHERE point = ?", rows)

    # ---- runs under way ----

    def remember_run(
        self, job: str, run_id: bytes, session_key: SessionKey, metakey: MetaKey, user_key: UserKey
    ) -> None:
        """Keep the keys of a run before its first chunk is sent; durable when this returns."""
        with self._write() as db:
            sealed = self._wrap_under(user_key, session_key.secret + metakey.secret, run_place(job, run_id))
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
                (job, run_id, user_key.name, self._clock.now_ns(), sealed),
            )
            db.execute(
                "DELETE FROM runs WHERE job = ? AND run IN (SELECT run FROM runs WHERE job = ?"
                " ORDER BY created_ns DESC, run DESC LIMIT -1 OFFSET ?)",
                (job, job, MOST_RUNS),
            )

    def runs(self, job: str) -> tuple[RememberedRun, ...]:
        """Return the runs of ``job`` that did not commit, oldest first.

        A run whose password is no longer kept is left out: its chunks are sent again, which costs time only.
        """
        query = "SELECT run, password, sealed FROM runs WHERE job = ? ORDER BY created_ns, run"
        with self._read() as db:
            rows = db.execute(query, (job,)).fetchall()
        found = []
        for run_id, password, sealed in rows:
            plain = self._unwrap((password, sealed), run_place(job, run_id), 2 * KEY_LENGTH)
            if plain is not None:
                keys = SessionKey(plain[:KEY_LENGTH]), MetaKey(plain[KEY_LENGTH:])
                found.append(RememberedRun(run_id, *keys))
        return tuple(found)

    def forget_runs(self, job: str) -> None:
        """Forget the runs of ``job``: it committed, and the point's ring holds what is still needed."""
        with self._write() as db:
            db.execute("DELETE FROM runs WHERE job = ?", (job,))

    # ---- domains ----

    def domain_key(self, job: str) -> ChunkIdKey | None:
        """Return the chunk-id key of the job's domain, or None if there is none yet (or its password is not kept)."""
        with self._read() as db:
            row = db.execute("SELECT password, sealed FROM domains WHERE job = ?", (job,)).fetchone()
        plain = self._unwrap(row, domain_place(job), KEY_LENGTH)
        return None if plain is None else ChunkIdKey(plain)

    def put_domain_key(self, job: str, key: ChunkIdKey, user_key: UserKey) -> None:
        """Keep ``key`` as the job's, wrapped under ``user_key``; replaces the one before."""
        with self._write() as db:
            self._put_domain(db, job, key, user_key)

    def ensure_domain_key(self, job: str, user_key: UserKey, fresh: ChunkIdKey | None = None) -> ChunkIdKey:
        """Return the job's chunk-id key, making it (or taking ``fresh``) if there is none; two processes get the same.

        It is wrapped again when the job has changed to another password, and made anew when nothing opens it any more.
        """
        with self._write() as db:
            row = db.execute("SELECT password FROM domains WHERE job = ?", (job,)).fetchone()
            existing = self.domain_key(job)
            key = existing or fresh or ChunkIdKey.generate(self._clock)
            if existing is None or row is None or row[0] != user_key.name:
                self._put_domain(db, job, key, user_key)
        return key

    def ensure_plain_domain_key(self, job: str) -> ChunkIdKey:
        """Return the chunk-id key of a job that nobody seals, making it first if there is none; as above.

        There is no password to wrap it under: the master key does, under another context than a sealed job's.
        """
        place = plain_domain_place(job)
        with self._write() as db:
            row = db.execute("SELECT sealed FROM plain_domains WHERE job = ?", (job,)).fetchone()
            if row is not None:
                return ChunkIdKey(unwrap(self._kek, row[0], place))
            key = ChunkIdKey.generate(self._clock)
            sealed = wrap(self._kek, key.secret, place, clock=self._clock)
            db.execute("INSERT INTO plain_domains VALUES (?, ?, ?)", (job, self._clock.now_ns(), sealed))
        return key

    def has_domain(self, job: str) -> bool:
        """Tell whether a job has a chunk-id key, under a password or none."""
        query = "SELECT 1 FROM domains WHERE job = ?1 UNION ALL SELECT 1 FROM plain_domains WHERE job = ?1"
        with self._read() as db:
            return db.execute(query, (job,)).fetchone() is not None

    def domains_below(self, prefix: str) -> int:
        """Return how many jobs whose name begins with ``prefix`` have one."""
        query = "SELECT COUNT(*) FROM {} WHERE job >= ? AND job < ?"
        place = (prefix, prefix + chr(0x10FFFF))
        with self._read() as db:
            counts = [db.execute(query.format(table), place).fetchone()[0] for table in ("domains", "plain_domains")]
        return sum(counts)

    # ---- services ----

    def prepare_kms_slot(self, user_key: UserKey, tenant: str, point: bytes) -> PreparedKmsSlot | None:
        """Get all that the service of a password must give for the slot of a new point; None where it has none.

        Before a run seals anything: an outage after that is of no matter to it. Raises ConfigError, `KMS_ERRORS`.
        """
        if not user_key.kms:
            return None
        # With the tenant, to which the service binds it: a node that is target and tenant of this one knows the id of a
        # run before this end asks for its slot.
        place = (str(self._path), user_key.kms, tenant, point)
        known = _prepared.get(place)
        if known is None:
            known = prepare_kms_slot(self.kms, user_key.kms, tenant, point, self._clock)
            while len(_prepared) >= MOST_PREPARED:
                _prepared.pop(next(iter(_prepared)), None)
            _prepared[place] = known
        return known

    def open_kms_slot(self, slot: KmsSlot, tenant: str, point: bytes, context: bytes) -> StorageKey:
        """Return the storage key in a service's slot; see `kms_slot.open_kms_slot`."""
        return open_kms_slot(self.kms, slot, tenant, point, context)

    def kms_uses(self) -> dict[str, list[str]]:
        """Return by service what it locks here: "the master key", "password office", "keyset 2026"."""
        found: dict[str, list[str]] = {}
        lock = self.lock()
        if lock.kind == "kms":
            found[lock.name] = ["the master key"]
        with self._read() as db:
            for kind, table in (("password", "passwords"), ("keyset", "keysets")):
                for service, name in db.execute(f"SELECT kms, name FROM {table} WHERE kms != '' ORDER BY name"):
                    found.setdefault(service, []).append(f"{kind} {name}")
        return found

    # ---- within ----

    def _put_domain(self, db: sqlite3.Connection, job: str, key: ChunkIdKey, user_key: UserKey) -> None:
        sealed = self._wrap_under(user_key, key.secret, domain_place(job))
        row = (job, user_key.name, self._clock.now_ns(), sealed)
        db.execute("INSERT OR REPLACE INTO domains VALUES (?, ?, ?, ?)", row)

    def _wrap_under(self, user_key: UserKey, secret: bytes, place: bytes) -> bytes:
        """Wrap for the password of that name as it is now: a run that began before a change holds the one before."""
        current = self._find("name = ?", user_key.name, held=user_key) or user_key
        return wrap(current.hash.kek, secret, place, clock=self._clock)

    def _unwrap(self, row: tuple[str, bytes] | None, place: bytes, length: int) -> bytes | None:
        """Open a sealed column with the user key that its row names; None if there is no row or no such password."""
        if row is None:
            return None
        # The old key of a change that is under way, or was killed, opens what was not wrapped anew yet.
        for look in (lambda name: self._find("name = ?", name), self._set_aside_key):
            user_key = look(row[0])
            if user_key is not None:
                with suppress(NoKey):  # the name was given to another password since
                    return unwrap(user_key.hash.kek, row[1], place, length=length)
        return None

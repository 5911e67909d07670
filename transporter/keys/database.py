"""The key database of a home: user keys, so that no one types a password twice, and the keys of runs under way.

Several processes may have it open (the daemon and commands), and any thread may call it. Passwords themselves are
never in it. What is remembered of a run is durable when the call returns.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from transporter.clock import Clock
from transporter.database_errors import transaction, translated
from transporter.errors import DamagedData, NoKey, UnknownPassword, UsageError
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database_schema import KEY_DATABASE, connect
from transporter.keys.derive import KEY_LENGTH, bind, same
from transporter.keys.master_key import load_master_key
from transporter.keys.password import (
    DEFAULT_PARAMETERS,
    SALT_LENGTH,
    KdfParameters,
    PasswordHash,
    UserKey,
    hash_password,
)
from transporter.keys.secret import SYSTEM
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import unwrap, wrap

MASTER_KEY_NAME: Final = "master.key"

MAX_NAME: Final = 64
"""Characters of a password's name: it stands on one line of a table."""

MAX_HINT: Final = 200
"""Characters of a hint."""


@dataclass(frozen=True, slots=True)
class PasswordInfo:
    """A line of ``password list``: nothing secret."""

    name: str
    hint: str
    created_ns: int
    params: KdfParameters


@dataclass(frozen=True, slots=True)
class RememberedRun:
    """The keys of a run that did not commit; they open its orphan chunks and never seal again."""

    run_id: bytes
    session_key: SessionKey = field(repr=False)
    metakey: MetaKey = field(repr=False)


class KeyDatabase:
    """``path`` is `keys.db`; `master.key` stands beside it. Both have mode 0600 and are refused otherwise.

    ``parameters`` is the price of passwords added from now on.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM, parameters: KdfParameters = DEFAULT_PARAMETERS) -> None:
        self._path = path
        self._clock = clock
        self._parameters = parameters
        self._lock = threading.RLock()
        self._connection = connect(path)
        try:
            self._kek = self._open_master()
        except BaseException:
            self._connection.close()
            raise

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
        return f"<KeyDatabase {self._path}>"

    # ---- passwords ----

    def add_password(self, name: str, password: bytes, hint: str = "") -> UserKey:
        """Keep the hash of ``password`` under ``name``, with a salt of its own.

        Raises:
            UsageError: the name is taken or unfit, the hint holds the password, or the password is empty.
        """
        _check_name(name)
        if password and password in hint.encode("utf-8", "surrogateescape"):
            raise UsageError("the hint gives the password away", "choose a hint that only helps those who know it")
        if self._find("name = ?", name) is not None:
            raise _taken(name)  # before the dear hashing; asked again below, in the transaction
        salt = self._clock.random_bytes(SALT_LENGTH)
        return self.remember_hash(name, hash_password(password, salt, self._parameters), hint)

    def remember_hash(self, name: str, key: PasswordHash, hint: str = "") -> UserKey:
        """Keep a hash that was made elsewhere, as from the salt of a point whose password a person just typed."""
        _check_name(name)
        if len(hint) > MAX_HINT or not (hint == "" or hint.isprintable()):
            raise UsageError(f"a hint is one line of at most {MAX_HINT} characters", "choose a shorter hint")
        price = key.parameters
        sealed = wrap(self._kek, key.raw, _password_place(name, key.salt, price), clock=self._clock)
        row = (name, key.salt, price.memory_kib, price.iterations, price.lanes, hint, self._clock.now_ns(), sealed)
        with self._write() as db:
            if db.execute("SELECT 1 FROM passwords WHERE name = ?", (name,)).fetchone():
                raise _taken(name)
            other = db.execute("SELECT name FROM passwords WHERE salt = ?", (key.salt,)).fetchone()
            if other:
                raise UsageError(f"this password is kept already, as {other[0]!r}", "use that name")
            db.execute("INSERT INTO passwords VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return UserKey(name, key)

    def user_key(self, name: str) -> UserKey:
        """Return the user key kept as ``name``; `UnknownPassword` if there is none."""
        found = self._find("name = ?", name)
        if found is None:
            raise UnknownPassword.of(name)
        return found

    def find_by_salt(self, salt: bytes) -> UserKey | None:
        """Return the user key made with ``salt``, or None: then a person must type the password."""
        return self._find("salt = ?", salt)

    def list(self) -> list[PasswordInfo]:
        """Return the passwords by name, nothing secret."""
        query = "SELECT name, hint, created_ns, memory_kib, iterations, lanes FROM passwords ORDER BY name"
        with self._read() as db:
            rows = db.execute(query).fetchall()
        return [PasswordInfo(row[0], row[1], row[2], KdfParameters(*row[3:])) for row in rows]

    # ---- storage keys ----

    def put_storage_key(self, point_id: bytes, storage_key: StorageKey, user_key: UserKey) -> None:
        """Keep the storage key of a point, wrapped under ``user_key``; replaces an older one."""
        place = bind(b"storage key", point_id)
        sealed = wrap(user_key.hash.kek, storage_key.secret, place, clock=self._clock)
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO storage_keys VALUES (?, ?, ?, ?)",
                (point_id, user_key.name, self._clock.now_ns(), sealed),
            )

    def storage_key(self, point_id: bytes) -> StorageKey | None:
        """Return the storage key kept for a point, or None (also when its password is no longer kept)."""
        with self._read() as db:
            row = db.execute("SELECT password, sealed FROM storage_keys WHERE point = ?", (point_id,)).fetchone()
        plain = self._unwrap(row, bind(b"storage key", point_id), KEY_LENGTH)
        return None if plain is None else StorageKey(plain)

    def drop_storage_key(self, point_id: bytes) -> None:
        """Forget the storage key of a point that was removed."""
        with self._write() as db:
            db.execute("DELETE FROM storage_keys WHERE point = ?", (point_id,))

    # ---- runs under way ----

    def remember_run(
        self, job: str, run_id: bytes, session_key: SessionKey, metakey: MetaKey, user_key: UserKey
    ) -> None:
        """Keep the keys of a run before its first chunk is sent; durable when this returns."""
        sealed = wrap(
            user_key.hash.kek, session_key.secret + metakey.secret, _run_place(job, run_id), clock=self._clock
        )
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
                (job, run_id, user_key.name, self._clock.now_ns(), sealed),
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
            plain = self._unwrap((password, sealed), _run_place(job, run_id), 2 * KEY_LENGTH)
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
        plain = self._unwrap(row, bind(b"domain", job.encode()), KEY_LENGTH)
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
        place = bind(b"plain domain", job.encode())
        with self._write() as db:
            row = db.execute("SELECT sealed FROM plain_domains WHERE job = ?", (job,)).fetchone()
            if row is not None:
                return ChunkIdKey(unwrap(self._kek, row[0], place))
            key = ChunkIdKey.generate(self._clock)
            sealed = wrap(self._kek, key.secret, place, clock=self._clock)
            db.execute("INSERT INTO plain_domains VALUES (?, ?, ?)", (job, self._clock.now_ns(), sealed))
        return key

    # ---- within ----

    def _put_domain(self, db: sqlite3.Connection, job: str, key: ChunkIdKey, user_key: UserKey) -> None:
        sealed = wrap(user_key.hash.kek, key.secret, bind(b"domain", job.encode()), clock=self._clock)
        row = (job, user_key.name, self._clock.now_ns(), sealed)
        db.execute("INSERT OR REPLACE INTO domains VALUES (?, ?, ?, ?)", row)

    def _unwrap(self, row: tuple[str, bytes] | None, place: bytes, length: int) -> bytes | None:
        """Open a sealed column with the user key that its row names; None if there is no row or no such password."""
        if row is None:
            return None
        user_key = self._find("name = ?", row[0])
        if user_key is None:
            return None
        try:
            return unwrap(user_key.hash.kek, row[1], place, length=length)
        except NoKey:  # the name was given to another password since
            return None

    def _find(self, condition: str, value: str | bytes) -> UserKey | None:
        query = f"SELECT name, salt, memory_kib, iterations, lanes, sealed FROM passwords WHERE {condition}"
        with self._read() as db:
            row = db.execute(query, (value,)).fetchone()
        if row is None:
            return None
        name, salt, parameters = row[0], row[1], KdfParameters(*row[2:5])
        try:
            raw = unwrap(self._kek, row[5], _password_place(name, salt, parameters))
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return UserKey(name, PasswordHash.from_raw(raw, salt, parameters))

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


def _check_name(name: str) -> None:
    if not (1 <= len(name) <= MAX_NAME and name.isprintable() and name == name.strip()):
        raise UsageError(
            f"a password's name is one line of 1 to {MAX_NAME} characters, without spaces around it", "choose another"
        )


def _taken(name: str) -> UsageError:
    return UsageError(f"a password is kept as {name!r} already", "choose another name")


def _password_place(name: str, salt: bytes, price: KdfParameters) -> bytes:
    numbers = (price.memory_kib, price.iterations, price.lanes)
    return bind(b"password", name.encode(), salt, *(number.to_bytes(4, "big") for number in numbers))


def _run_place(job: str, run_id: bytes) -> bytes:
    return bind(b"run", job.encode(), run_id)

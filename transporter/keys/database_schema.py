"""The tables of the key database, and how its file is opened.

No column holds a secret in clear. ``sealed`` columns are cryptograms (wrap.py): of a password's hash, and of what
belongs to no password, under the master key; of everything else under the password hash (user key), so that all below
a password go with it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from transporter.database_errors import transaction, translated, use_write_ahead_log
from transporter.errors import UnsupportedFormat
from transporter.keys.private_file import check_private, create_private

SCHEMA_VERSION: Final = 5

KEY_DATABASE: Final = "the key database"

BUSY_SECONDS: Final = 15.0
"""How long to wait for another process's transaction: each writes a few rows, so only a stopped one takes longer."""

_SCHEMA_1: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE passwords (name TEXT PRIMARY KEY, salt BLOB NOT NULL UNIQUE, memory_kib INTEGER NOT NULL,
        iterations INTEGER NOT NULL, lanes INTEGER NOT NULL, hint TEXT NOT NULL, created_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE storage_keys (point BLOB PRIMARY KEY, password TEXT NOT NULL, created_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE runs (job TEXT NOT NULL, run BLOB NOT NULL, password TEXT NOT NULL, created_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL, PRIMARY KEY (job, run)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE domains (job TEXT PRIMARY KEY, password TEXT NOT NULL, created_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE plain_domains (job TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, sealed BLOB NOT NULL)
        STRICT, WITHOUT ROWID""",
)

# 2: passwords can be changed. `changed_ns` 0: never. `password_changes` holds the hash of an old password until every
# slot that it opens has been replaced; its salt finds it, as it finds a password's.
_SCHEMA_2: Final = (
    "ALTER TABLE passwords ADD COLUMN changed_ns INTEGER NOT NULL DEFAULT 0",
    """CREATE TABLE password_changes (salt BLOB PRIMARY KEY, name TEXT NOT NULL, memory_kib INTEGER NOT NULL,
        iterations INTEGER NOT NULL, lanes INTEGER NOT NULL, began_ns INTEGER NOT NULL, sealed BLOB NOT NULL)
        STRICT, WITHOUT ROWID""",
)
# 3: keysets. At an escrow a keyset has its private half (`sealed`, under its pass phrase), elsewhere the public one.
# `nodes`: who may ask for a recovery, of what it sealed itself, and of what those sealed that it `stands_for` (it was
# rebuilt). `recoveries`: what this node asked for, its one-time key under the master key.
# `answers`: requests that were answered here, each once. `recovered_keys`: storage keys, under the master key.
_SCHEMA_3: Final = (
    """CREATE TABLE keysets (id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ns INTEGER NOT NULL,
        added_ns INTEGER NOT NULL, retired_ns INTEGER NOT NULL DEFAULT 0, public BLOB NOT NULL, signing BLOB NOT NULL,
        salt BLOB, memory_kib INTEGER, iterations INTEGER, lanes INTEGER, sealed BLOB) STRICT, WITHOUT ROWID""",
    """CREATE TABLE nodes (pin BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, public BLOB NOT NULL,
        registered_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    "CREATE TABLE stands_for (pin BLOB, maker BLOB, PRIMARY KEY (pin, maker)) STRICT, WITHOUT ROWID",
    """CREATE TABLE recoveries (request BLOB PRIMARY KEY, point BLOB NOT NULL, expires_ns INTEGER NOT NULL,
        applied_ns INTEGER NOT NULL DEFAULT 0, facts BLOB NOT NULL, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE answers (request BLOB PRIMARY KEY, pin BLOB NOT NULL, point BLOB NOT NULL,
        answered_ns INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE recovered_keys (point BLOB PRIMARY KEY, recovered_ns INTEGER NOT NULL, sealed BLOB NOT NULL)
        STRICT, WITHOUT ROWID""",
)
# 4: services (KMS). Where `kms` names one, what is in `sealed` lies under a key of its own that the service wrapped
# (`kms_wrapped`): a password's hash under that and then under the master key, a keyset's private half under that alone.
_SCHEMA_4: Final = tuple(
    statement
    for table in ("passwords", "password_changes", "keysets")
    for statement in (
        f"ALTER TABLE {table} ADD COLUMN kms TEXT NOT NULL DEFAULT ''",
        f"ALTER TABLE {table} ADD COLUMN kms_wrapped BLOB NOT NULL DEFAULT x''",
    )
)
# 5: four eyes. `operators`: who may sign approvals, each public key under the master key. `approvals`: what they signed
# (`approval` proves itself); `request` is used once, `used_ns` 0: not yet. `job_zones`: the zone that each job last ran
# in, under the master key; the zone in clear and `approved_by` (who let it be a weaker one) are for lists.
_SCHEMA_5: Final = (
    """CREATE TABLE operators (name TEXT PRIMARY KEY, id BLOB NOT NULL UNIQUE, added_ns INTEGER NOT NULL,
        sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE approvals (request BLOB PRIMARY KEY, hash BLOB NOT NULL UNIQUE, operation TEXT NOT NULL,
        subject BLOB NOT NULL, expires_ns INTEGER NOT NULL, applied_ns INTEGER NOT NULL,
        used_ns INTEGER NOT NULL DEFAULT 0, approval BLOB NOT NULL) STRICT, WITHOUT ROWID""",
    """CREATE TABLE job_zones (job TEXT PRIMARY KEY, zone TEXT NOT NULL, approved_by TEXT NOT NULL,
        sealed BLOB NOT NULL) STRICT, WITHOUT ROWID""",
)
_SCHEMAS: Final = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4, _SCHEMA_5)


def connect(path: Path) -> sqlite3.Connection:
    """Open (or create, mode 0600) the file; WAL, so that the daemon and a command work beside each other.

    ``synchronous=FULL``: what was committed survives a power cut. ``secure_delete``: a dropped key's cells are zeroed.
    """
    for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        exists = check_private(each)
        if each == path and not exists:
            try:
                create_private(path, b"")
            except FileExistsError:
                check_private(path)
    with translated(KEY_DATABASE, path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with translated(KEY_DATABASE, path):
            use_write_ahead_log(connection)
            for pragma in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            _ensure_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def has_password(path: Path, name: str) -> bool:
    """Tell whether a password is kept as ``name``, without what it takes to open anything: a command starts fast."""
    connection = connect(path)
    try:
        with translated(KEY_DATABASE, path):
            return connection.execute("SELECT 1 FROM passwords WHERE name = ?", (name,)).fetchone() is not None
    finally:
        connection.close()


def is_escrow(path: Path) -> bool:
    """Tell whether the private half of a keyset is kept in the database at ``path``; False where there is none yet."""
    if not path.exists():
        return False
    connection = connect(path)
    try:
        with translated(KEY_DATABASE, path):
            query = "SELECT 1 FROM keysets WHERE sealed IS NOT NULL LIMIT 1"
            return connection.execute(query).fetchone() is not None
    finally:
        connection.close()


def approved_zones(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return, of each job that two operators let run in a weaker zone: zone, and their names. As `has_password`.

    For lists: what is enforced is under the master key, and what proves it is the audit trail.
    """
    if not path.exists():
        return {}
    connection = connect(path)
    try:
        with translated(KEY_DATABASE, path):
            rows = connection.execute("SELECT job, zone, approved_by FROM job_zones WHERE approved_by != ''").fetchall()
            return {job: (zone, names.split("\n")) for job, zone, names in rows}
    finally:
        connection.close()


def _ensure_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring those of an older version up to date: all of it or nothing."""
    with transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise UnsupportedFormat(f"{path} is of a newer version", "use the version of the program that wrote it")
        for statements in _SCHEMAS[version:]:
            for statement in statements:
                connection.execute(statement)
        if version != SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

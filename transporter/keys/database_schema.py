"""The tables of the key database, and how its file is opened.

No column holds a secret in clear. ``sealed`` columns are cryptograms (wrap.py): of a password's hash, and of what
belongs to no password, under the master key; of everything else under the password hash (user key), so that all below
a password go with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from transporter.errors import DamagedData, DiskFull, JobFailed, UnsupportedFormat
from transporter.keys.private_file import check_private, create_private

SCHEMA_VERSION: Final = 1

BUSY_SECONDS: Final = 15.0
"""How long to wait for another process's transaction: each writes a few rows, so only a stopped one takes longer."""

_SCHEMA: Final = (
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
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with translated(path):
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            _ensure_schema(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors of our own."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise JobFailed(
                f"the key database {path} is in use by a process that does not let go", "stop it, then try again"
            ) from None
        if name.startswith("SQLITE_FULL"):
            raise DiskFull(f"no room left for the key database {path}", "free some room") from None
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise DamagedData(f"the key database {path} is damaged", "put back a copy of it") from None
        raise JobFailed(f"the key database {path} cannot be used: {error}", "check the disk and its rights") from None


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the write lock taken first, so that no two processes read the same state and both write."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _ensure_schema(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise UnsupportedFormat(f"{path} is of a newer version", "use the version of the program that wrote it")

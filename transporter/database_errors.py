"""What SQLite raises over a file of the home, as errors of our own; and the two things that must be done with care.

Opening it beside another process that does, and transactions that leave the right error to raise.

For the catalog and the key database. The index of a repository is a cache and has its own words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transporter.errors import DamagedData, DiskFull, JobFailed, TransporterError

# A second attempt finds the switch made by whoever was in its way; more are for one that died in the midst of it.
_SWITCH_ATTEMPTS = 3

# The second: no room for the shared memory file that a write-ahead log needs to be opened.
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")


def translate(error: sqlite3.Error, file: str) -> TransporterError:
    """Return the error a user meets; ``file`` says which one it is, in words."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JobFailed(f"{file} is in use by a process that does not let go", "stop it, then try again")
    if name.startswith(_FULL):
        return DiskFull(f"no room left for {file}", "free some room")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DamagedData(f"{file} is damaged", "put back a copy of it")
    # Read-only, or of another user: of the two files that a write-ahead log has beside it, too.
    return JobFailed(
        f"{file} cannot be used: {error}",
        "is the disk read-only, or the file (or -wal and -shm beside it) another user's? check that, and their modes",
    )


@contextmanager
def translated(what: str, path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors of our own. ``what``: what the file at ``path`` is, with its article."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        raise translate(error, f"{what} {path}") from None


def use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Have a database keep a write-ahead log, waiting for others that are just doing the same to a new file.

    SQLite itself does not wait: the switch reads first, and of two readers that want to write it refuses one at once,
    whatever its timeout. Raises what SQLite does when the file stays locked for longer than that.
    """
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or attempt == _SWITCH_ATTEMPTS - 1:
                raise
        # This waits, as it has not read anything before.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the write lock taken first, so that no two processes read the same state and both write."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled it back already, and a second time would hide what happened.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise

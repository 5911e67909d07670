"""SQLite connections of the index: one that writes, under a lock, and a small pool that readers borrow from.

WAL, so readers never wait. ``synchronous=FULL`` costs one fsync for each pack of 64 MiB and buys that a pack, once its
journal name is gone, is in the index even after a power cut.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transporter.errors import DiskFull, JobFailed, TransporterError, UsageError
from transporter.repository import files, limits
from transporter.repository.errors import DamagedIndex

# What Python makes of rows whose types are not those of the schema, and of a schema that is not text.
_WRONG_TYPES = (AttributeError, OverflowError, TypeError, ValueError)

# Our statements fit our schema: if one does not, the schema or a row is not what we wrote. (Code 0: text that is none.)
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
)


@contextmanager
def index_errors() -> Iterator[None]:
    """Turn SQLite's errors into those a user meets."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error) from error
    except UnicodeDecodeError as error:  # of a message that quotes a damaged schema
        raise damaged_index() from error


def damaged_index() -> DamagedIndex:
    """Return the error for an index that contradicts itself."""
    return DamagedIndex(
        "the repository's index is damaged", "run `transporter repository rebuild-index`; the packs are not touched"
    )


def translate(error: sqlite3.Error) -> TransporterError:
    """Return the error a user meets for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("no room left in the repository: cannot write its index", "free some space and run it again")
    if code in _DAMAGE or (not code and isinstance(error, sqlite3.OperationalError)):
        return damaged_index()
    return JobFailed(
        f"the repository's index cannot be used: {error}",
        "look at the folder `index` of the repository; `transporter repository rebuild-index` makes a lost one anew",
    )


class Connections:
    """All connections to one index. Thread-safe."""

    def __init__(self, path: Path, *, writable: bool, schema: str) -> None:
        self.path = path
        self._writable = writable
        self._schema = schema
        self._write_lock = threading.Lock()
        self._state = threading.Condition()  # the four below
        self._pool: list[sqlite3.Connection] = []
        self._borrowed = 0
        self._closed = False
        self._swapping = False
        self._writer = self._open_writer()

    def _open_writer(self) -> sqlite3.Connection | None:
        if not self._writable:
            return None
        with index_errors():
            connection = self._connect(limits.WRITER_CACHE)
            try:
                connection.executescript(self._schema)
            except BaseException:
                connection.close()
                raise
            return connection

    def _connect(self, cache: int) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if self._writable else 'ro'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=60)
        try:
            if self._writable:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA cache_size=-{cache // 1024}")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Borrow a read connection."""
        with self._state:
            self._state.wait_for(lambda: not self._swapping)
            if self._closed:
                raise JobFailed("the repository is closed", "open it again")
            self._borrowed += 1
            connection = self._pool.pop() if self._pool else None
        with index_errors():
            try:
                if connection is None:
                    connection = self._connect(limits.READER_CACHE)
                yield connection
            except _WRONG_TYPES as error:
                raise damaged_index() from error
            finally:
                with self._state:
                    self._borrowed -= 1
                    if connection is not None:
                        if self._closed or self._swapping or len(self._pool) >= limits.READER_POOL:
                            connection.close()
                        else:
                            self._pool.append(connection)
                    self._state.notify_all()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: all of it or nothing."""
        with index_errors(), self._write_lock:
            if self._writer is None:
                raise UsageError("the repository is open for reading only", "open it for writing")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def swap(self, fresh: Path) -> None:
        """Put another file in the index's place while readers wait.

        All connections are closed first: the last one removes the old write-ahead log by its name, which the new
        index will have.
        """
        with self._write_lock:
            with self._state:
                self._state.wait_for(lambda: not self._swapping)
                self._swapping = True
                self._state.wait_for(lambda: not self._borrowed)
                self._close_pool()
            try:
                if self._writer is not None:
                    self._writer.close()
                remove_log(self.path)
                files.replace(fresh, self.path)
                files.sync_folder(self.path.parent)
            finally:
                self._writer = self._open_writer()
                with self._state:
                    self._swapping = False
                    self._state.notify_all()

    def _close_pool(self) -> None:
        while self._pool:
            self._pool.pop().close()

    def close(self) -> None:
        """Close all connections; the last one folds the write-ahead log into the file."""
        with self._state:
            self._closed = True
            self._close_pool()
            self._state.wait_for(lambda: not self._borrowed)
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None


def remove_log(path: Path) -> None:
    """Remove what SQLite keeps beside a database that nobody has open."""
    for suffix in ("-wal", "-shm", "-journal"):
        files.unlink(path.with_name(path.name + suffix))

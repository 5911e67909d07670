"""Blocks of file-system indexes that lie at peers, kept here too, as they were stored: sealed.

A search over a line would ask for the same blocks each time. What is kept opens with the keys of the points alone, is
checked as what the peer sends is checked, and may go at any time: whatever is wrong with the file, it is thrown away.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transporter.keys.session_key import is_sealed

CACHE_BYTES: Final = 256 << 20
"""Stored bytes: the indexes of four million files, at some 60 bytes a file. The rest is asked for at the peer."""
KEEP_BYTES: Final = CACHE_BYTES * 3 // 4
"""What is left when it was full, so that it is not tidied at each search."""
AT_ONCE: Final = 2 << 20
"""Bytes that are written together."""
BUSY_SECONDS: Final = 2.0
"""Another process writes for milliseconds; whoever waits longer asks the peer."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS blocks (chunk BLOB NOT NULL, codec INTEGER NOT NULL, plain INTEGER NOT NULL,
    stored BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS places ON blocks (chunk);
"""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block as a peer stores it."""

    chunk_id: bytes
    codec: int
    plain_length: int
    stored: bytes


class IndexCache:
    """The file ``path``. Thread-safe; several processes may have it open. Nothing raises for what is in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._waiting: list[StoredBlock] = []
        self._size = 0
        self._database: sqlite3.Connection | None = None
        with suppress(sqlite3.Error, OSError):
            path.touch(mode=0o600)
            self._database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            with self._usable():
                # No fsync, and no log beside it: a cache that a crash took is made again.
                self._database.execute("PRAGMA synchronous = OFF")
                self._database.executescript(_SCHEMA)

    def get(self, ids: Sequence[bytes]) -> list[StoredBlock]:
        """Return those of some blocks (≤ 1,000) that are here, in no order, as they are: nothing is proved of them."""
        with self._lock, self._usable():
            if self._database is None:
                return []
            marks = ",".join("?" * len(ids))
            query = f"SELECT chunk, codec, plain, stored FROM blocks WHERE chunk IN ({marks})"
            rows = self._database.execute(query, list(ids)).fetchall()
            return [StoredBlock(*row) for row in rows if _is_block(row)]
        return []

    def put(self, block: StoredBlock) -> bool:
        """Take in a block, unless it is not sealed; returns whether so many wait that it is time to `flush`."""
        if not is_sealed(block.stored):
            return False
        with self._lock:
            self._waiting.append(block)
            self._size += len(block.stored)
            return self._size >= AT_ONCE

    def flush(self) -> None:
        """Write what waits; what was here longest makes room."""
        with self._lock:
            blocks, self._waiting, self._size = self._waiting, [], 0
            if self._database is None or not blocks:
                return
            with self._usable():
                self._write(self._database, blocks)

    @staticmethod
    def _write(database: sqlite3.Connection, blocks: Iterable[StoredBlock]) -> None:
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(
                "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)",
                [(one.chunk_id, one.codec, one.plain_length, one.stored) for one in blocks],
            )
            (held,) = database.execute("SELECT coalesce(sum(length(stored)), 0) FROM blocks").fetchone()
            if held > CACHE_BYTES:
                database.execute(
                    "DELETE FROM blocks WHERE rowid IN (SELECT rowid FROM (SELECT rowid, sum(length(stored))"
                    " OVER (ORDER BY rowid DESC) AS newer FROM blocks) WHERE newer > ?)",
                    (KEEP_BYTES,),
                )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self.flush()
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _usable(self) -> _Usable:
        return _Usable(self)

    def give_up(self, error: sqlite3.Error) -> None:
        """Go on without the file; a damaged one is removed, so that the next search begins a new one."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error), closing(database):
                pass
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")):
            with suppress(OSError):
                self._path.unlink()


class _Usable:
    """A ``with`` in which what SQLite raises ends the use of the cache, and nothing else."""

    def __init__(self, cache: IndexCache) -> None:
        self._cache = cache

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, sqlite3.Error):
            return False
        self._cache.give_up(error)
        return True


def _is_block(row: tuple[object, ...]) -> bool:
    """Tell whether a row has the types of a block: the file is nobody's promise."""
    chunk, codec, plain, stored = row
    return isinstance(chunk, bytes) and isinstance(codec, int) and isinstance(plain, int) and isinstance(stored, bytes)

"""What goes into a bundle, taken from a home in use: copies that fit together, in memory alone.

The key database and the audit trail are copied under the database's write lock, so that the last entry of the one is
what the other remembers; the daemon may run. The databases are copied by SQLite's own backup, which minds what still
stands in a write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from transporter.bundle import manifest as names
from transporter.bundle.manifest import LIMITS, Member
from transporter.catalog import Catalog
from transporter.database_errors import translated
from transporter.errors import ConfigError, DamagedData, JobFailed
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.database_schema import KEY_DATABASE
from transporter.keys.private_file import check_private

PIECE: Final = 256 << 10
"""Bytes of a trail that are read at a time."""

_WITHOUT_PRIVATE_HALVES: Final = """UPDATE keysets SET salt = NULL, memory_kib = NULL, iterations = NULL, lanes = NULL,
    sealed = NULL, kms = '', kms_wrapped = x''"""
# A node made of a bundle keeps the master key in a file of its own, wherever this one has it.
_WITH_MASTER_IN_FILE: Final = ("DELETE FROM meta WHERE name IN ('lock', 'pending')",)
# An invitation works once, and nobody knows which of these were used since.
_WITHOUT_INVITATIONS: Final = ("DELETE FROM invitations",)


@dataclass(frozen=True)
class Trail:
    """The audit trail as far as it went: the first ``length`` bytes of an open file that is only ever appended to."""

    file: BinaryIO
    length: int

    def pieces(self) -> Iterator[bytes]:
        """Yield those bytes. Raises JobFailed when they are not there any more."""
        at = 0
        while at < self.length:
            piece = os.pread(self.file.fileno(), min(PIECE, self.length - at), at)
            if not piece:
                raise JobFailed("the audit trail was cut off while it was read", "run `transporter audit verify`")
            at += len(piece)
            yield piece


@dataclass(frozen=True)
class Snapshot:
    """Every member but the trail, by name, and the trail."""

    contents: dict[str, bytes]
    trail: Trail

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member."""
        return self.trail.pieces() if name == names.AUDIT else iter((self.contents[name],))

    def members(self) -> list[Member]:
        """Return name, length and hash of each, in order. Raises JobFailed for one that is too large."""
        return [self._member(name) for name in LIMITS]

    def _member(self, name: str) -> Member:
        digest, length = blake3(), 0
        for piece in self.pieces(name):
            digest.update(piece)
            length += len(piece)
        if length > LIMITS[name]:
            raise JobFailed(
                f"{name} is larger than a bundle holds ({LIMITS[name] >> 20} MiB)", "copy the stopped home instead"
            )
        return Member(name, length, digest.digest())


@contextmanager
def take_snapshot(home: Home, config: bytes, keys: KeyDatabase, *, with_keysets: bool) -> Iterator[Snapshot]:
    """Yield what a bundle of ``home`` holds; ``config`` is its configuration as it was read and found sound.

    Raises ConfigError, NoKey, DamagedData, JobFailed.
    """
    changes = _WITH_MASTER_IN_FILE if with_keysets else (*_WITH_MASTER_IN_FILE, _WITHOUT_PRIVATE_HALVES)
    if not check_private(keys.audit.path):
        raise ConfigError(f"{keys.audit.path} is missing", "run `transporter audit begin-anew`")
    with keys.audit.path.open("rb") as file:
        with keys.frozen():
            copy = _copied(home.keys_db, KEY_DATABASE)
            trail = Trail(file, os.fstat(file.fileno()).st_size)
        key_database = _serialized(copy, KEY_DATABASE, changes)
        with Catalog(home.catalog_db):  # brings its tables up to date
            copy = _copied(home.catalog_db, "the catalog")
        catalog = _serialized(copy, "the catalog", _WITHOUT_INVITATIONS)
        contents = {
            names.CONFIG: config,
            names.IDENTITY_KEY: _read(home.identity_key),
            names.IDENTITY_CERTIFICATE: _read(home.identity_certificate),
            names.MASTER: keys.master_key().secret,
            names.KEYS: key_database,
            names.CATALOG: catalog,
        }
        yield Snapshot(contents, trail)


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file of at most ``limit`` bytes; the caller refuses one byte more."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def _read(path: Path) -> bytes:
    return read_bounded(path, LIMITS[path.name])


def _copied(path: Path, what: str) -> sqlite3.Connection:
    """Return a copy of the database at ``path`` in memory. Raises JobFailed for one that is too large for that."""
    with translated(what, path), closing(_read_only(path)) as source:
        pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        if pages * size > names.MAX_DATABASE:
            raise JobFailed(
                f"{path} is larger than a bundle holds ({names.MAX_DATABASE >> 20} MiB)",
                "copy the stopped home instead",
            )
        copy = sqlite3.connect(":memory:", isolation_level=None)
        try:
            source.backup(copy)
        except BaseException:
            copy.close()
            raise
    return copy


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)


def _serialized(copy: sqlite3.Connection, what: str, changes: Sequence[str]) -> bytes:
    """Return the copy as the bytes of a file, once ``changes`` were made to it, and close it. Raises DamagedData."""
    with closing(copy):
        for change in changes:
            copy.execute(change)
        if copy.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            raise DamagedData(f"{what} is damaged", "put back a copy of it")
        # What was deleted, now or before, is not to travel in free pages.
        copy.execute("VACUUM")
        return copy.serialize()

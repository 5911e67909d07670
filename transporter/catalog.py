"""The catalog of a home (``catalog.db``, SQLite): peers, invitations, the history of jobs, each job's last point.

The command line and the daemon use it at once: write-ahead log, a busy timeout, short transactions. One ``Catalog``
may be used by several threads. Nothing in it opens a backup; it is still private (mode 0600).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transporter.catalog_chain import CHAIN_SCHEMA, ChainTable
from transporter.database_errors import transaction, translate, translated, use_write_ahead_log
from transporter.errors import (
    ConfigError,
    DamagedData,
    DiskFull,
    IdentityRefused,
    TransporterError,
    UnsupportedFormat,
)

SCHEMA_VERSION = 3
_CATALOG = "the catalog"
BUSY_TIMEOUT = 20.0
"""Seconds to wait for another process's transaction; ours last milliseconds, so this is only met by a stuck disk."""

_SCHEMA = """
CREATE TABLE peers (
    name TEXT PRIMARY KEY,
    pin BLOB NOT NULL UNIQUE CHECK (length(pin) = 32),
    address TEXT NOT NULL,
    tenant TEXT NOT NULL,
    added_ns INTEGER NOT NULL,
    link TEXT NOT NULL DEFAULT '',
    via TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE offers (
    peer TEXT NOT NULL REFERENCES peers(name) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    PRIMARY KEY (peer, repository)
) STRICT, WITHOUT ROWID;
CREATE TABLE rights (
    peer TEXT NOT NULL REFERENCES peers(name) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    may_remove INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (peer, repository)
) STRICT, WITHOUT ROWID;
CREATE TABLE invitations (
    secret_hash BLOB PRIMARY KEY CHECK (length(secret_hash) = 32),
    repository TEXT NOT NULL,
    expires_ns INTEGER NOT NULL,
    used_ns INTEGER,
    may_remove INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    operation TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    finished_ns INTEGER,
    exit_status INTEGER,
    code TEXT NOT NULL DEFAULT '',
    what TEXT NOT NULL DEFAULT '',
    point BLOB,
    statistics TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX runs_of_job ON runs (job, id);
CREATE TABLE last_points (
    job TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    point BLOB NOT NULL CHECK (length(point) = 16),
    point_hash BLOB NOT NULL CHECK (length(point_hash) = 32),
    domain BLOB NOT NULL,
    manifest TEXT NOT NULL,
    committed_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# From version 1: how the link to a peer comes about.
_UPGRADE_TO_2 = (
    "ALTER TABLE peers ADD COLUMN link TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE peers ADD COLUMN via TEXT NOT NULL DEFAULT ''",
)

# From version 2: who may remove points, and the points that this home has committed (`catalog_chain`).
_UPGRADE_TO_3 = (
    "ALTER TABLE rights ADD COLUMN may_remove INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE invitations ADD COLUMN may_remove INTEGER NOT NULL DEFAULT 0",
    CHAIN_SCHEMA,
)

_UPGRADES = (_UPGRADE_TO_2, _UPGRADE_TO_3)

# `Peer.link`: who dials. Empty: this node, each time it wants something (or nobody has to).
PEER_DIALS = "peer-dials"
"""The peer keeps a connection parked here, and comes when it is called."""
WE_DIAL = "we-dial"
"""This node keeps a connection parked there, so that the peer can call it."""
PROXY_HOST = "proxy-host"
"""The peer is a proxy host: this node keeps a connection parked there, and reaches others through it."""


@dataclass(frozen=True)
class Peer:
    """Another node. ``pin``: SHA-256 of its public key. ``address``: where we dial it, or empty.

    ``offers``: its repositories that we may use. ``rights``: ours that it may use, as the tenant ``tenant``;
    ``removes``: those of them where it may remove points, too. ``link``: who dials (see `PEER_DIALS` and its
    neighbours). ``via``: the name of the proxy host that leads to it.
    """

    name: str
    pin: bytes
    address: str = ""
    tenant: str = ""
    offers: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    added_ns: int = 0
    link: str = ""
    via: str = ""
    removes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Invitation:
    """One we gave out: whoever proves to know the secret behind the hash may use the repository.

    ``may_remove``: and remove points there.
    """

    secret_hash: bytes = field(repr=False)
    repository: str
    expires_ns: int
    used_ns: int | None = None
    may_remove: bool = False


@dataclass(frozen=True)
class Run:
    """One run of a job; ``exit_status`` is ``None`` while it goes on, or after a crash."""

    run_id: int
    job: str
    operation: str
    started_ns: int
    finished_ns: int | None
    exit_status: int | None
    code: str
    what: str
    point: bytes | None
    statistics: dict[str, Any]


@dataclass(frozen=True)
class LastPoint:
    """The newest committed point of a job: what the next incremental builds on. ``manifest`` is a path in the cache."""

    job: str
    destination: str
    point: bytes
    point_hash: bytes
    domain: bytes
    manifest: Path
    committed_ns: int


class Catalog(ChainTable):
    """Opens (and makes) ``catalog.db``. Raises ``UnsupportedFormat`` for one of a newer version.

    Every method raises ``DiskFull``, ``DamagedData`` and ``JobFailed`` for what the disk does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unusable(path, error) from None
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise _unusable(path, error) from None
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        use_write_ahead_log(self._database)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        with transaction(self._database):
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise UnsupportedFormat(
                    f"{self.path} was made by a newer version (schema {version})", "upgrade this transporter"
                )
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._database.execute(statement)
                self._database.execute(CHAIN_SCHEMA)
            for statements in _UPGRADES[version - 1 :] if version else ():
                for statement in statements:
                    self._database.execute(statement)
            if version != SCHEMA_VERSION:
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(_CATALOG, self.path), transaction(self._database):
            yield self._database

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, translated(_CATALOG, self.path):
            return self._database.execute(query, values).fetchall()

    # Peers

    def peers(self) -> list[Peer]:
        """Return all peers by name."""
        return [self._peer(row) for row in self._rows(f"{_PEER} ORDER BY name")]

    def peer(self, name: str) -> Peer | None:
        """Return the peer of that name."""
        return next((self._peer(row) for row in self._rows(f"{_PEER} WHERE name = ?", name)), None)

    def peer_by_pin(self, pin: bytes) -> Peer | None:
        """Return the peer that has this public key."""
        return next((self._peer(row) for row in self._rows(f"{_PEER} WHERE pin = ?", pin)), None)

    def _peer(self, row: tuple[Any, ...]) -> Peer:
        name, pin, address, tenant, added_ns, link, via = row
        offers = self._rows("SELECT repository FROM offers WHERE peer = ? ORDER BY repository", name)
        rights = self._rows("SELECT repository, may_remove FROM rights WHERE peer = ? ORDER BY repository", name)
        names = tuple(o for (o,) in offers), tuple(r for r, _ in rights)
        removes = tuple(r for r, may_remove in rights if may_remove)
        return Peer(name, pin, address, tenant, *names, added_ns, link, via, removes)

    def put_peer(self, peer: Peer) -> None:
        """Add a peer, or bring one of the same public key up to date: offers and rights add up, the rest stays known.

        Raises ``IdentityRefused`` when another public key has that name already.
        """
        with self._transaction() as database:
            known = database.execute("SELECT pin FROM peers WHERE name = ?", (peer.name,)).fetchone()
            if known and known[0] != peer.pin:
                raise IdentityRefused(
                    f"there is a peer called {peer.name!r} with another identity",
                    f"if that node was set up anew, run `transporter peer remove {peer.name}` first",
                )
            renamed = database.execute("SELECT name FROM peers WHERE pin = ?", (peer.pin,)).fetchone()
            if renamed and renamed[0] != peer.name:
                raise IdentityRefused(
                    f"this node is known already, as {renamed[0]!r}",
                    f"use that name, or run `transporter peer remove {renamed[0]}` first",
                )
            database.execute(
                "INSERT INTO peers (name, pin, address, tenant, added_ns, link, via) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET "
                + ", ".join(
                    f"{column} = CASE excluded.{column} WHEN '' THEN {column} ELSE excluded.{column} END"
                    for column in ("address", "tenant", "link", "via")
                ),
                (peer.name, peer.pin, peer.address, peer.tenant, peer.added_ns, peer.link, peer.via),
            )
            for table, repositories in (("offers", peer.offers), ("rights", peer.rights)):
                rows = [(peer.name, repository) for repository in repositories]
                database.executemany(f"INSERT OR IGNORE INTO {table} (peer, repository) VALUES (?, ?)", rows)
            database.executemany(
                "UPDATE rights SET may_remove = 1 WHERE peer = ? AND repository = ?",
                [(peer.name, repository) for repository in peer.removes],
            )

    def set_may_remove(self, name: str, repository: str, *, allowed: bool) -> None:
        """Let a peer remove points in a repository that it may use, or no more. Raises ConfigError."""
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE rights SET may_remove = ? WHERE peer = ? AND repository = ?", (allowed, name, repository)
            ).rowcount
            if not changed:
                raise ConfigError(
                    f"there is no peer {name!r} that may use a repository {repository!r} of this home",
                    "`transporter peer list` shows who may use what",
                )

    def remove_peer(self, name: str) -> bool:
        """Forget a peer and its rights; return whether there was one."""
        with self._transaction() as database:
            return database.execute("DELETE FROM peers WHERE name = ?", (name,)).rowcount > 0

    def replace_peer(self, old: str, new: str) -> str:
        """Let ``new`` be the tenant that ``old`` was, with its rights, and forget ``old``; return the tenant's name.

        For a node that was lost and made anew: restore points belong to the tenant. Raises ConfigError.
        """
        with self._transaction() as database:
            find = "SELECT tenant FROM peers WHERE name = ?"
            rows = {name: database.execute(find, (name,)).fetchone() for name in (old, new)}
            for name, row in rows.items():
                if row is None or old == new:
                    raise ConfigError(f"there is no other peer {name!r}", "`transporter peer list` shows them")
            tenant = str(rows[old][0])
            if not tenant:
                raise ConfigError(f"{old} was no tenant here: it has no restore points", "nothing to do")
            database.execute("UPDATE peers SET tenant = ? WHERE name = ?", (tenant, new))
            database.execute(
                "INSERT OR IGNORE INTO rights (peer, repository, may_remove)"
                " SELECT ?, repository, may_remove FROM rights WHERE peer = ?",
                (new, old),
            )
            database.execute("DELETE FROM peers WHERE name = ?", (old,))
        return tenant

    # Invitations

    def add_invitation(self, invitation: Invitation) -> None:
        """Remember an invitation that was given out."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO invitations (secret_hash, repository, expires_ns, may_remove) VALUES (?, ?, ?, ?)",
                (invitation.secret_hash, invitation.repository, invitation.expires_ns, invitation.may_remove),
            )

    def invitations(self) -> list[Invitation]:
        """Return all invitations, used and expired ones too (so that a refusal can say which it is)."""
        rows = self._rows("SELECT secret_hash, repository, expires_ns, used_ns, may_remove FROM invitations")
        return [_invitation(row) for row in rows]

    def use_invitation(self, secret_hash: bytes, now_ns: int) -> Invitation:
        """Use up an invitation: it works once. Raises ``IdentityRefused`` when it is unknown, used or expired."""
        with self._transaction() as database:
            row = database.execute(
                "SELECT secret_hash, repository, expires_ns, used_ns, may_remove FROM invitations"
                " WHERE secret_hash = ?",
                (secret_hash,),
            ).fetchone()
            if row is None:
                what = "the inviting node does not know this invitation"
                raise IdentityRefused(what, "ask for a new one: transporter invite")
            invitation = _invitation(row)
            if invitation.used_ns is not None:
                raise IdentityRefused("this invitation was used already", "ask for a new one: transporter invite")
            if now_ns >= invitation.expires_ns:
                raise IdentityRefused("this invitation has expired", "ask for a new one: transporter invite")
            database.execute("UPDATE invitations SET used_ns = ? WHERE secret_hash = ?", (now_ns, secret_hash))
            return invitation

    # The history of jobs

    def run_started(self, job: str, operation: str, started_ns: int) -> int:
        """Write down that a run began; return its number."""
        with self._transaction() as database:
            cursor = database.execute(
                "INSERT INTO runs (job, operation, started_ns) VALUES (?, ?, ?)", (job, operation, started_ns)
            )
            return int(cursor.lastrowid or 0)

    def run_finished(
        self,
        run_id: int,
        *,
        finished_ns: int,
        exit_status: int,
        code: str = "",
        what: str = "",
        point: bytes | None = None,
        statistics: dict[str, Any] | None = None,
    ) -> None:
        """Write down how a run ended."""
        with self._transaction() as database:
            database.execute(
                "UPDATE runs SET finished_ns = ?, exit_status = ?, code = ?, what = ?, point = ?, statistics = ?"
                " WHERE id = ?",
                (finished_ns, exit_status, code, what, point, json.dumps(statistics or {}), run_id),
            )

    def runs(self, job: str | None = None, limit: int = 100) -> list[Run]:
        """Return the newest runs, newest first."""
        chosen = "WHERE job = ?" if job is not None else "WHERE ? IS NULL"
        rows = self._rows(
            "SELECT id, job, operation, started_ns, finished_ns, exit_status, code, what, point, statistics"
            f" FROM runs {chosen} ORDER BY id DESC LIMIT ?",
            job,
            limit,
        )
        return [Run(*(*row[:-1], json.loads(row[-1]))) for row in rows]

    def last_backup(self, job: str) -> Run | None:
        """Return the newest backup that made a point, with gaps or without, whatever was done with the job since."""
        rows = self._rows(
            "SELECT id, job, operation, started_ns, finished_ns, exit_status, code, what, point, statistics FROM runs"
            " WHERE job = ? AND operation = 'backup' AND exit_status IN (0, 8) ORDER BY id DESC LIMIT 1",
            job,
        )
        return next((Run(*(*row[:-1], json.loads(row[-1]))) for row in rows), None)

    # The last point of a job

    def put_last_point(self, last: LastPoint) -> None:
        """Remember the point that was just committed."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO last_points"
                " (job, destination, point, point_hash, domain, manifest, committed_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    last.job,
                    last.destination,
                    last.point,
                    last.point_hash,
                    last.domain,
                    os.fspath(last.manifest),
                    last.committed_ns,
                ),
            )

    def last_point(self, job: str) -> LastPoint | None:
        """Return the job's last point, or ``None`` before the first."""
        rows = self._rows(
            "SELECT job, destination, point, point_hash, domain, manifest, committed_ns FROM last_points WHERE job = ?",
            job,
        )
        return next((LastPoint(*(*row[:5], Path(row[5]), row[6])) for row in rows), None)


def _unusable(path: Path, error: sqlite3.Error) -> TransporterError:
    """Return what to tell of a catalog that does not open. One that is sound is nothing to move away."""
    known = translate(error, f"{_CATALOG} {path}")
    if isinstance(known, DiskFull):
        return known
    damaged = isinstance(known, DamagedData)
    remedy = "put back a copy, or move it away: peers must then be paired again" if damaged else known.remedy
    return ConfigError(f"{path} cannot be used: {error}", remedy)


def _invitation(row: tuple[Any, ...]) -> Invitation:
    return Invitation(row[0], row[1], row[2], row[3], bool(row[4]))


_PEER = "SELECT name, pin, address, tenant, added_ns, link, via FROM peers"

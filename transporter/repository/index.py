"""The index: where each chunk lies. A cache in SQLite that can be rebuilt from the packs' footers alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from transporter.repository import limits
from transporter.repository.connections import Connections, damaged_index
from transporter.repository.record import Entry

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (repository BLOB NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS domains (no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS keys (no INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS tenants (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    packs INTEGER NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS packs (no INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, tenant INTEGER NOT NULL,
    records INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS folders (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL, checked_ns INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (domain INTEGER NOT NULL, chunk BLOB NOT NULL, key INTEGER NOT NULL,
    pack INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL, plain INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    PRIMARY KEY (domain, chunk, key)) WITHOUT ROWID;
"""
INDEX_VERSION: Final = 1
_LOCATE: Final = """
SELECT c.chunk, k.id, p.name, c.offset, c.stored, c.plain, c.codec
FROM chunks c JOIN keys k ON k.no = c.key JOIN packs p ON p.no = c.pack WHERE c.domain = ? AND c.chunk IN ({})
"""


class Location(NamedTuple):
    """A record and the pack (its name) that holds it."""

    pack: bytes
    entry: Entry


class PackRow(NamedTuple):
    """A pack as the index knows it."""

    name: bytes
    tenant: str
    records: int
    bytes: int


class Folder(NamedTuple):
    """A folder of packs that agreed with the index: its modification time, and when that was seen (ns; 0: not yet)."""

    name: str
    mtime_ns: int
    checked_ns: int


class Usage(NamedTuple):
    """What a tenant's packs hold."""

    tenant: str
    packs: int
    records: int
    bytes: int


class Index(Connections):
    """The chunk index of one repository. Thread-safe."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        super().__init__(path, writable=writable, schema=SCHEMA)
        self._keys: dict[int, bytes] = {}

    # -- identity -------------------------------------------------------------------------------------------------

    def belongs_to(self, repository_id: bytes) -> bool:
        """Tell whether this is the index of that repository, in a version this program writes."""
        with self.reader() as connection:
            row = connection.execute("SELECT repository, version FROM meta").fetchone()
        return bool(row == (repository_id, INDEX_VERSION))

    def claim(self, repository_id: bytes) -> None:
        """Make an empty index that of a repository."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM meta")
            connection.execute("INSERT INTO meta VALUES (?, ?)", (repository_id, INDEX_VERSION))

    # -- writing --------------------------------------------------------------------------------------------------

    def add_pack(self, pack: PackRow, entries: Sequence[Entry], folder_mtime_ns: int | None = None) -> bool:
        """Enter a pack and its records, in one durable transaction; False if the pack is known already.

        A chunk that is stored already (same domain, id and key) keeps its first place.
        """
        with self.transaction() as connection:
            tenant = self._number_of_tenant(connection, pack.tenant)
            if connection.execute("SELECT 1 FROM packs WHERE name = ?", (pack.name,)).fetchone():
                return False
            number = connection.execute(
                "INSERT INTO packs (name, tenant, records, bytes) VALUES (?, ?, ?, ?)",
                (pack.name, tenant, pack.records, pack.bytes),
            ).lastrowid
            self._put_chunks(connection, number, entries)
            connection.execute(
                "UPDATE tenants SET packs = packs + 1, records = records + ?, bytes = bytes + ? WHERE no = ?",
                (pack.records, pack.bytes, tenant),
            )
            if folder_mtime_ns is not None:
                # Another pack may come within one tick of the file system's clock: not to be trusted yet.
                self._put_folder(connection, pack.name.hex()[:2], folder_mtime_ns, 0)
        return True

    def _put_chunks(self, connection: sqlite3.Connection, number: int | None, entries: Sequence[Entry]) -> None:
        domains = {d: self._number(connection, "domains", d) for d in {e.domain for e in entries}}
        keys = {k: self._number(connection, "keys", k) for k in {e.key_id for e in entries}}
        connection.executemany(
            "INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    domains[e.domain],
                    e.chunk_id,
                    keys[e.key_id],
                    number,
                    e.offset,
                    e.stored_length,
                    e.plain_length,
                    e.codec,
                )
                for e in sorted(entries)  # neighbours in the tree are written together
            ],
        )

    def drop_pack(self, name: bytes) -> int:
        """Forget a pack and every chunk whose place is in it (a scan of the table: packs vanish rarely).

        Returns how many chunks. Some of them may lie in another pack too: see ``packs_with_more``.
        """
        with self.transaction() as connection:
            row = connection.execute("SELECT no, tenant, records, bytes FROM packs WHERE name = ?", (name,)).fetchone()
            if row is None:
                return 0
            number, tenant, records, size = row
            forgotten = connection.execute("DELETE FROM chunks WHERE pack = ?", (number,)).rowcount
            connection.execute("DELETE FROM packs WHERE no = ?", (number,))
            connection.execute(
                "UPDATE tenants SET packs = packs - 1, records = records - ?, bytes = bytes - ? WHERE no = ?",
                (records, size, tenant),
            )
        return forgotten

    def packs_with_more(self) -> list[bytes]:
        """Return the packs that hold chunks whose place is another pack, or was one that is gone (a scan)."""
        query = (
            "SELECT p.name FROM packs p LEFT JOIN (SELECT pack, count(*) AS known FROM chunks GROUP BY pack) c"
            " ON c.pack = p.no WHERE p.records > coalesce(c.known, 0)"
        )
        with self.reader() as connection:
            return [name for (name,) in connection.execute(query)]

    def add_chunks(self, pack: bytes, entries: Sequence[Entry]) -> None:
        """Give those chunks of a known pack that have no place theirs in it."""
        with self.transaction() as connection:
            row = connection.execute("SELECT no FROM packs WHERE name = ?", (pack,)).fetchone()
            if row is not None:
                self._put_chunks(connection, row[0], entries)

    def set_folders(self, folders: Iterable[Folder]) -> None:
        """Remember that the index agrees with these folders of packs."""
        with self.transaction() as connection:
            for folder in folders:
                self._put_folder(connection, *folder)

    @staticmethod
    def _put_folder(connection: sqlite3.Connection, name: str, mtime_ns: int, checked_ns: int) -> None:
        connection.execute("INSERT OR REPLACE INTO folders VALUES (?, ?, ?)", (name, mtime_ns, checked_ns))

    @staticmethod
    def _number(connection: sqlite3.Connection, table: str, identifier: bytes) -> int:
        connection.execute(f"INSERT OR IGNORE INTO {table} (id) VALUES (?)", (identifier,))
        number: int = connection.execute(f"SELECT no FROM {table} WHERE id = ?", (identifier,)).fetchone()[0]
        return number

    @staticmethod
    def _number_of_tenant(connection: sqlite3.Connection, name: str) -> int:
        connection.execute("INSERT OR IGNORE INTO tenants (name, packs, records, bytes) VALUES (?, 0, 0, 0)", (name,))
        number: int = connection.execute("SELECT no FROM tenants WHERE name = ?", (name,)).fetchone()[0]
        return number

    # -- reading --------------------------------------------------------------------------------------------------

    def knows_domain(self, domain: bytes) -> bool:
        """Tell whether any chunk of ``domain`` was ever published."""
        with self.reader() as connection:
            return connection.execute("SELECT 1 FROM domains WHERE id = ?", (domain,)).fetchone() is not None

    def keys_of(self, domain: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """Return the key ids under which each chunk is stored; unknown chunks are left out."""
        found: dict[bytes, tuple[bytes, ...]] = {}
        with self.reader() as connection:
            row = connection.execute("SELECT no FROM domains WHERE id = ?", (domain,)).fetchone()
            if row is None:
                return found
            for start in range(0, len(ids), limits.LOOKUP_BATCH):
                batch = ids[start : start + limits.LOOKUP_BATCH]
                marks = ",".join("?" * len(batch))
                rows = connection.execute(
                    f"SELECT chunk, key FROM chunks WHERE domain = ? AND chunk IN ({marks})", (row[0], *batch)
                ).fetchall()
                for chunk, key in rows:
                    key_id = self._key_id(connection, key)
                    found[chunk] = (*found[chunk], key_id) if chunk in found else (key_id,)
        return found

    def _key_id(self, connection: sqlite3.Connection, number: int) -> bytes:
        key_id = self._keys.get(number)
        if key_id is None:
            key_id = connection.execute("SELECT id FROM keys WHERE no = ?", (number,)).fetchone()[0]
            if len(self._keys) >= 1024:  # one key for each run: only the recent ones are asked for again and again
                self._keys.clear()
            self._keys[number] = key_id
        return key_id

    def locate(self, domain: bytes, ids: Sequence[bytes]) -> list[Location]:
        """Return every place of every chunk, in no order."""
        places: list[Location] = []
        asked = set(ids)
        with self.reader() as connection:
            row = connection.execute("SELECT no FROM domains WHERE id = ?", (domain,)).fetchone()
            if row is None:
                return places
            for start in range(0, len(ids), limits.LOOKUP_BATCH):
                batch = ids[start : start + limits.LOOKUP_BATCH]
                query = _LOCATE.format(",".join("?" * len(batch)))
                for chunk, key_id, pack, offset, stored, plain, codec in connection.execute(query, (row[0], *batch)):
                    sane = 0 <= offset < 1 << 62 and 0 < stored <= limits.STORED_LENGTH
                    if len(pack) != 32 or chunk not in asked or not sane:
                        raise damaged_index()  # before anything of that size, or for another chunk, is read
                    places.append(Location(pack, Entry(domain, chunk, key_id, offset, stored, plain, codec)))
        return places

    def knows_pack(self, name: bytes) -> bool:
        """Tell whether a pack is in the index."""
        with self.reader() as connection:
            found = connection.execute("SELECT 1 FROM packs WHERE name = ?", (name,)).fetchone()
        return found is not None

    def tenant_of(self, pack: bytes) -> str | None:
        """Return whose pack it is, None if it is not known."""
        with self.reader() as connection:
            query = "SELECT t.name FROM packs p JOIN tenants t ON t.no = p.tenant WHERE p.name = ?"
            row = connection.execute(query, (pack,)).fetchone()
        return None if row is None else str(row[0])

    def pack_folders(self) -> list[str]:
        """Return the folders (two hex digits each) in which the index expects packs."""
        with self.reader() as connection:
            rows = connection.execute("SELECT DISTINCT substr(name, 1, 1) FROM packs").fetchall()
        return sorted(name.hex() for (name,) in rows)

    def packs_of_folder(self, folder: str) -> list[bytes]:
        """Return the names of the packs the index expects in a folder (two hex digits)."""
        low = bytes.fromhex(folder)
        with self.reader() as connection:
            if low == b"\xff":
                rows = connection.execute("SELECT name FROM packs WHERE name >= ?", (low,)).fetchall()
            else:
                rows = connection.execute(
                    "SELECT name FROM packs WHERE name >= ? AND name < ?", (low, bytes([low[0] + 1]))
                ).fetchall()
            return [name for (name,) in rows]

    def folders(self) -> dict[str, Folder]:
        """Return the folders of packs as they were when they last agreed with the index."""
        with self.reader() as connection:
            return {
                row[0]: Folder(*row) for row in connection.execute("SELECT name, mtime_ns, checked_ns FROM folders")
            }

    def usage(self, tenant: str | None = None) -> list[Usage]:
        """Return what is stored, tenant by tenant (or for one)."""
        where, values = ("", ()) if tenant is None else (" WHERE name = ?", (tenant,))
        with self.reader() as connection:
            query = f"SELECT name, packs, records, bytes FROM tenants{where} ORDER BY name"
            return [Usage(*row) for row in connection.execute(query, values)]

    def last_pack(self) -> int:
        """Return the number of the newest pack (0: none)."""
        with self.reader() as connection:
            number: int = connection.execute("SELECT coalesce(max(no), 0) FROM packs").fetchone()[0]
        return number

    def count_chunks(self, last_pack: int) -> int:
        """Return how many chunks have their place in packs up to that number (a scan)."""
        with self.reader() as connection:
            count: int = connection.execute("SELECT count(*) FROM chunks WHERE pack <= ?", (last_pack,)).fetchone()[0]
        return count

    def check(self) -> list[str]:
        """Return what SQLite finds wrong with the file (nothing: [])."""
        with self.reader() as connection:
            lines = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(10)")]
        return [] if lines == ["ok"] else lines

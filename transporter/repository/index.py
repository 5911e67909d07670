"""The index: where each chunk lies. A cache in SQLite that can be rebuilt from the packs' footers alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from transporter.repository import limits
from transporter.repository.connections import Connections, damaged_index
from transporter.repository.index_schema import IN_USE, INDEX_VERSION, REMOVED, SCHEMA
from transporter.repository.record import Entry

_LOCATE: Final = """
SELECT c.chunk, k.id, p.name, c.offset, c.stored, c.plain, c.codec
FROM chunks c JOIN keys k ON k.no = c.key JOIN packs p ON p.no = c.pack WHERE c.domain = ? AND c.chunk IN ({})
"""

_ROWS: Final = """
SELECT domain, chunk, key, pack, offset, stored, plain, codec FROM chunks WHERE domain = ? AND chunk IN ({})
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


class Moment(NamedTuple):
    """Where an index is in its life: what tells a session's beginning from what `prune` did later.

    ``era``: 16 random bytes of each index that was made, since a new one counts anew; ``epoch``: the newest one under
    which all chunks that nobody needed are doomed; ``pack``: the number of the newest pack.
    """

    era: bytes
    epoch: int
    pack: int


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

    def claim(self, repository_id: bytes, era: bytes) -> None:
        """Make an empty index that of a repository; ``era``: 16 bytes that no other index of it has."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM meta")
            connection.execute(
                "INSERT INTO meta (repository, version, era, epoch) VALUES (?, ?, ?, 0)",
                (repository_id, INDEX_VERSION, era),
            )

    def moment(self) -> Moment:
        """Return the present moment of this index."""
        with self.reader() as connection:
            era, epoch = connection.execute("SELECT era, epoch FROM meta").fetchone()
            pack = connection.execute("SELECT coalesce(max(no), 0) FROM packs").fetchone()[0]
            if not (len(era) == 16 and epoch >= 0 and pack >= 0):
                raise damaged_index()
        return Moment(era, epoch, pack)

    # -- writing --------------------------------------------------------------------------------------------------

    def add_pack(self, pack: PackRow, entries: Sequence[Entry], folder_mtime_ns: int | None = None) -> bool:
        """Enter a pack and its records, in one durable transaction; False if the pack is known already.

        A chunk that is stored already (same domain, id and key) keeps its first place, and is not doomed any more.
        """
        with self.transaction() as connection:
            number, new = self.put_pack(connection, pack, folder_mtime_ns)
            self._put_chunks(connection, number, entries)
        return new

    def replace_pack(self, old: bytes, pack: PackRow | None, entries: Sequence[Entry], folder_mtime_ns: int) -> int:
        """Forget a pack and enter another (None: none) in one transaction; return what `drop_pack` does.

        So nobody who asks meanwhile is told that a chunk that lies in both is unknown. The same pack may have come of
        an attempt that was cut short: then its copies are what is left.
        """
        with self.transaction() as connection:
            forgotten = self._drop_pack(connection, old)
            if pack is not None:
                number, _ = self.put_pack(connection, pack, folder_mtime_ns)
                self._put_chunks(connection, number, entries)
        return forgotten

    def put_pack(self, connection: sqlite3.Connection, pack: PackRow, folder_mtime_ns: int | None) -> tuple[int, bool]:
        """Enter a pack without its records, in the caller's transaction; return its number, and whether it is new.

        One that is known already is in use again, whatever `prune` had in mind for it: the same plain chunks may be
        sent once more, and make the same pack.
        """
        row = connection.execute("SELECT no, state FROM packs WHERE name = ?", (pack.name,)).fetchone()
        if row is not None:
            connection.execute("UPDATE packs SET state = ? WHERE no = ?", (IN_USE, row[0]))
            if row[1] == REMOVED:
                self._count(connection, pack)
            return int(row[0]), False
        tenant = self._number_of_tenant(connection, pack.tenant)
        number = connection.execute(
            "INSERT INTO packs (name, tenant, records, bytes) VALUES (?, ?, ?, ?)",
            (pack.name, tenant, pack.records, pack.bytes),
        ).lastrowid
        assert number is not None
        self._count(connection, pack)
        if folder_mtime_ns is not None:
            # Another pack may come within one tick of the file system's clock: not to be trusted yet.
            self._put_folder(connection, pack.name.hex()[:2], folder_mtime_ns, 0)
        return number, True

    @staticmethod
    def _count(connection: sqlite3.Connection, pack: PackRow) -> None:
        connection.execute(
            "UPDATE tenants SET packs = packs + 1, records = records + ?, bytes = bytes + ? WHERE name = ?",
            (pack.records, pack.bytes, pack.tenant),
        )

    def number_pack(self, pack: PackRow, entries: Sequence[Entry]) -> tuple[int, dict[bytes, int], dict[bytes, int]]:
        """Enter a pack without its records; return its number, and those of the records' domains and keys."""
        with self.transaction() as connection:
            number, _ = self.put_pack(connection, pack, None)
            return number, *self._numbers_of(connection, entries)

    def put_rows(self, rows: Iterable[tuple[int, bytes, int, int, int, int, int, int]]) -> None:
        """Enter records as rows of `chunks`, without ``doomed``; those of a known chunk and key are left out."""
        with self.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", rows)

    def _numbers_of(
        self, connection: sqlite3.Connection, entries: Sequence[Entry]
    ) -> tuple[dict[bytes, int], dict[bytes, int]]:
        domains = {d: self._number(connection, "domains", d) for d in {e.domain for e in entries}}
        keys = {k: self._number(connection, "keys", k) for k in {e.key_id for e in entries}}
        return domains, keys

    def _put_chunks(self, connection: sqlite3.Connection, number: int, entries: Sequence[Entry]) -> None:
        domains, keys = self._numbers_of(connection, entries)
        connection.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"
            " ON CONFLICT DO UPDATE SET doomed = 0 WHERE doomed > 0",
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
            return self._drop_pack(connection, name)

    @staticmethod
    def _drop_pack(connection: sqlite3.Connection, name: bytes) -> int:
        row = connection.execute(
            "SELECT no, tenant, records, bytes, state FROM packs WHERE name = ?", (name,)
        ).fetchone()
        if row is None:
            return 0
        number, tenant, records, size, state = row
        if state == REMOVED:  # `prune` has dropped it; only its file was left
            connection.execute("DELETE FROM packs WHERE no = ?", (number,))
            return 0
        forgotten = connection.execute("DELETE FROM chunks WHERE pack = ?", (number,)).rowcount
        connection.execute("DELETE FROM packs WHERE no = ?", (number,))
        connection.execute(
            "UPDATE tenants SET packs = packs - 1, records = records - ?, bytes = bytes - ? WHERE no = ?",
            (records, size, tenant),
        )
        return int(forgotten)

    def packs_with_more(self) -> list[bytes]:
        """Return the packs that hold chunks whose place is another pack, or was one that is gone (a scan)."""
        query = (
            "SELECT p.name FROM packs p LEFT JOIN (SELECT pack, count(*) AS known FROM chunks GROUP BY pack) c"
            " ON c.pack = p.no WHERE p.records > coalesce(c.known, 0) AND p.state = ?"
        )
        with self.reader() as connection:
            return [name for (name,) in connection.execute(query, (IN_USE,))]

    def add_chunks(self, pack: bytes, entries: Sequence[Entry]) -> None:
        """Give those chunks of a known pack that have no place theirs in it; none of one that `prune` looks at."""
        with self.transaction() as connection:
            row = connection.execute("SELECT no FROM packs WHERE name = ? AND state = ?", (pack, IN_USE)).fetchone()
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
        return self._keys_of(domain, ids, "0")[0]  # (works on indexes of version 1, too)

    def asked(self, domain: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """As `keys_of`, for somebody who will rely on the answer: a doomed chunk that is asked for is revived."""
        found, doomed = self._keys_of(domain, ids, "doomed")
        if not doomed:
            return found
        self.revive(domain, doomed)
        for chunk_id in doomed:
            del found[chunk_id]
        # Asked anew: what was doomed may have been deleted before it could be revived.
        return {**found, **self.keys_of(domain, doomed)}

    def revive(self, domain: bytes, ids: Sequence[bytes]) -> int:
        """Make chunks wanted again, durably; return how many records of them were doomed, and are still there."""
        revived = 0
        for start in range(0, len(ids), limits.LOOKUP_BATCH):
            batch = ids[start : start + limits.LOOKUP_BATCH]
            marks = ",".join("?" * len(batch))
            with self.transaction() as connection:
                revived += connection.execute(
                    "UPDATE chunks SET doomed = 0 WHERE domain = (SELECT no FROM domains WHERE id = ?)"
                    f" AND chunk IN ({marks}) AND doomed > 0",
                    (domain, *batch),
                ).rowcount
        return revived

    def _keys_of(
        self, domain: bytes, ids: Sequence[bytes], doomed: str
    ) -> tuple[dict[bytes, tuple[bytes, ...]], list[bytes]]:
        """Return the key ids of each chunk, and the chunks of which a record is doomed (by that column)."""
        found: dict[bytes, tuple[bytes, ...]] = {}
        dying: set[bytes] = set()
        with self.reader() as connection:
            row = connection.execute("SELECT no FROM domains WHERE id = ?", (domain,)).fetchone()
            if row is None:
                return found, []
            # In the order of the tree: neighbours share pages, and of one larger than memory few are read twice.
            ordered = sorted(ids)
            for start in range(0, len(ordered), limits.LOOKUP_BATCH):
                batch = ordered[start : start + limits.LOOKUP_BATCH]
                marks = ",".join("?" * len(batch))
                rows = connection.execute(
                    f"SELECT chunk, key, {doomed} FROM chunks WHERE domain = ? AND chunk IN ({marks})", (row[0], *batch)
                ).fetchall()
                for chunk, key, epoch in rows:
                    key_id = self._keys.get(key) or self._key_id(connection, key)
                    found[chunk] = (*found[chunk], key_id) if chunk in found else (key_id,)
                    if epoch:
                        dying.add(chunk)
        return found, list(dying)

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

    def confirmed(self, name: bytes, entries: Sequence[Entry]) -> tuple[int, list[Entry]]:
        """Return how many of a pack's ``entries`` have their place there exactly as they say, and those that have not.

        Compares rows and makes nothing of them: a scrub asks for every chunk there is.
        """
        with self.reader() as connection:
            row = connection.execute("SELECT no FROM packs WHERE name = ?", (name,)).fetchone()
            if row is None:
                return 0, list(entries)
            domains = self._numbers(connection, "domains", {entry.domain for entry in entries})
            keys = self._numbers(connection, "keys", {entry.key_id for entry in entries})
            # -1: a number that no row has. In the order of the tree, so that a page is read once.
            wanted = sorted(
                (domains.get(e[0], -1), e[1], keys.get(e[2], -1), row[0], e[3], e[4], e[5], e[6]) for e in entries
            )
            missed = set(wanted)
            for start in range(0, len(wanted), limits.LOOKUP_BATCH):
                batch = wanted[start : start + limits.LOOKUP_BATCH]
                for domain in {item[0] for item in batch}:
                    ids = [item[1] for item in batch if item[0] == domain]
                    query = _ROWS.format(",".join("?" * len(ids)))
                    missed.difference_update(connection.execute(query, (domain, *ids)).fetchall())
        if not missed:
            return len(wanted), []
        places = {(item[1], item[4]) for item in missed}
        return len(wanted) - len(missed), [entry for entry in entries if (entry.chunk_id, entry.offset) in places]

    @staticmethod
    def _numbers(connection: sqlite3.Connection, table: str, ids: Iterable[bytes]) -> dict[bytes, int]:
        query = f"SELECT no FROM {table} WHERE id = ?"
        rows = ((identifier, connection.execute(query, (identifier,)).fetchone()) for identifier in ids)
        return {identifier: row[0] for identifier, row in rows if row is not None}

    def knows_pack(self, name: bytes) -> bool:
        """Tell whether a pack is in the index."""
        with self.reader() as connection:
            found = connection.execute("SELECT 1 FROM packs WHERE name = ?", (name,)).fetchone()
        return found is not None

    def entries_of_pack(self, pack: bytes) -> list[Entry]:
        """Return the chunks whose place is in a pack (a scan of the table: asked only where a pack is damaged)."""
        query = (
            "SELECT d.id, c.chunk, k.id, c.offset, c.stored, c.plain, c.codec FROM chunks c"
            " JOIN domains d ON d.no = c.domain JOIN keys k ON k.no = c.key JOIN packs p ON p.no = c.pack"
            " WHERE p.name = ? ORDER BY c.offset LIMIT ?"
        )
        with self.reader() as connection:
            rows = connection.execute(query, (pack, limits.PACK_RECORDS)).fetchall()
        return [Entry(*row) for row in rows]

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
        above = b"\xff" * 33 if low == b"\xff" else bytes([low[0] + 1])
        with self.reader() as connection:
            rows = connection.execute("SELECT name FROM packs WHERE name >= ? AND name < ?", (low, above)).fetchall()
            return [name for (name,) in rows]

    def is_removed(self, pack: bytes) -> bool:
        """Tell whether `prune` has dropped a pack: then its file need not be there."""
        return self._state_of(pack) == REMOVED

    def is_whole(self, pack: bytes) -> bool:
        """Tell whether every record of a pack has a place, here or elsewhere: not once `prune` has chosen it."""
        return self._state_of(pack) == IN_USE

    def _state_of(self, pack: bytes) -> int:
        with self.reader() as connection:
            row = connection.execute("SELECT state FROM packs WHERE name = ?", (pack,)).fetchone()
        return REMOVED if row is None else int(row[0])

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

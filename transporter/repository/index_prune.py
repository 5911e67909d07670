"""What `prune` does to the index, each in one short transaction: doom, revive, choose packs, delete, move, remove."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from transporter.repository import limits
from transporter.repository.index import Index, PackRow
from transporter.repository.index_schema import CHOSEN, IN_USE, REMOVED
from transporter.repository.record import Entry

# A place of a chunk, as far as `prune` looks at it: chunk id, numbers of its key and its pack, stored length, epoch
# under which it is doomed (0: it is not). Tuples as SQLite makes them: there is one for each chunk of a repository.
ChunkRow: TypeAlias = tuple[bytes, int, int, int, int]


class NumberedPack(NamedTuple):
    """A pack, and its number in the index."""

    number: int
    row: PackRow


class Moved(NamedTuple):
    """Records of one pack that lie in a new one now. ``all_of_it``: no other place is left in the old pack."""

    pack: NumberedPack
    entries: list[Entry]
    all_of_it: bool


class PlacesChanged(Exception):
    """Places of a pack changed while its records were copied: nothing was done."""


class PruneIndex:
    """The index as `prune` sees it; the holder of ``leases/prune`` has the only one."""

    def __init__(self, index: Index) -> None:
        self._index = index

    # -- epochs -----------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Return the epoch that is in the making."""
        with self._index.transaction() as connection:
            epoch: int = connection.execute("SELECT epoch + 1 FROM meta").fetchone()[0]
            # Before anything is doomed: `Index.moment` and the rest count with it from the first row on.
            connection.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?)", (epoch, 1 << 62))
        return epoch

    def complete(self, epoch: int, now_ns: int, used: set[int]) -> None:
        """Note that all is doomed that was to be, and when; epochs under which nothing is (not in ``used``) go.

        One that is dated later, by a clock that was ahead and was set right since, begins its grace now.
        """
        with self._index.transaction() as connection:
            connection.execute("UPDATE epochs SET at_ns = min(at_ns, ?) WHERE no <= ?", (now_ns, epoch))
            connection.execute("UPDATE meta SET epoch = ?", (epoch,))
            gone = [(no,) for (no,) in connection.execute("SELECT no FROM epochs") if no not in used]
            connection.executemany("DELETE FROM epochs WHERE no = ?", gone)

    def epochs(self) -> dict[int, int]:
        """Return the complete epochs and when they were (ns)."""
        with self._index.reader() as connection:
            query = "SELECT no, at_ns FROM epochs WHERE no <= (SELECT epoch FROM meta)"
            return dict(connection.execute(query).fetchall())

    # -- marking ----------------------------------------------------------------------------------------------------

    def domains(self) -> list[tuple[int, bytes]]:
        """Return the domains: number and id."""
        with self._index.reader() as connection:
            return [(no, bytes(name)) for no, name in connection.execute("SELECT no, id FROM domains ORDER BY no")]

    def rows(self, domain: int) -> Iterator[list[ChunkRow]]:
        """Yield all chunks of a domain in key order, in batches; each batch is as it was when it was asked for."""
        chunk, key = b"", -1
        while True:
            with self._index.reader() as connection:
                found = connection.execute(
                    "SELECT chunk, key, pack, stored, doomed FROM chunks WHERE domain = ? AND (chunk, key) > (?, ?)"
                    " ORDER BY chunk, key LIMIT ?",
                    (domain, chunk, key, limits.PRUNE_BATCH),
                ).fetchall()
            if not found:
                return
            yield found
            chunk, key = found[-1][:2]

    def mark(self, domain: int, epoch: int, doom: Sequence[ChunkRow], revive: Sequence[ChunkRow]) -> None:
        """Doom chunks under an epoch, and make others wanted again."""
        with self._index.transaction() as connection:
            connection.executemany(
                "UPDATE chunks SET doomed = ? WHERE domain = ? AND chunk = ? AND key = ? AND doomed = 0",
                [(epoch, domain, chunk, key) for chunk, key, *_ in doom],
            )
            connection.executemany(
                "UPDATE chunks SET doomed = 0 WHERE domain = ? AND chunk = ? AND key = ? AND doomed > 0",
                [(domain, chunk, key) for chunk, key, *_ in revive],
            )

    # -- choosing and deleting --------------------------------------------------------------------------------------

    def packs(self, upto: int, state: int = IN_USE) -> Iterator[NumberedPack]:
        """Yield the packs of a state with numbers up to ``upto``, tenant by tenant."""
        tenant, number = -1, -1
        while True:
            with self._index.reader() as connection:
                found = connection.execute(
                    "SELECT p.tenant, p.no, p.name, t.name, p.records, p.bytes FROM packs p JOIN tenants t"
                    " ON t.no = p.tenant WHERE p.state = ? AND p.no <= ? AND (p.tenant, p.no) > (?, ?)"
                    " ORDER BY p.tenant, p.no LIMIT ?",
                    (state, upto, tenant, number, limits.PRUNE_BATCH),
                ).fetchall()
            if not found:
                return
            tenant, number = found[-1][:2]
            for _tenant, own, name, owner, records, size in found:
                yield NumberedPack(own, PackRow(bytes(name), owner, records, size))

    def choose(self, packs: Sequence[int]) -> None:
        """Choose packs: for good, as chunks lose their places in them from now on; another prune goes on with them."""
        with self._index.transaction() as connection:
            connection.executemany("UPDATE packs SET state = ? WHERE no = ?", [(CHOSEN, number) for number in packs])

    def delete_doomed(self, domain: int, after: bytes, upto_epoch: int) -> tuple[bytes, list[tuple[int, int]], int]:
        """Delete a batch of chunks that are doomed under epochs up to ``upto_epoch`` and lie in chosen packs.

        ``after``: the chunk id behind which the batch begins. Returns that of the next batch (b"": it was the last
        one), for each chosen pack its number and how many chunks still have their place in it, and how many were
        deleted.
        """
        with self._index.transaction() as connection:
            row = connection.execute(
                "SELECT chunk FROM chunks WHERE domain = ? AND chunk > ? ORDER BY chunk LIMIT 1 OFFSET ?",
                (domain, after, limits.PRUNE_BATCH),
            ).fetchone()
            last = b"\xff" * 33 if row is None else row[0]
            chosen = f"pack IN (SELECT no FROM packs WHERE state = {CHOSEN})"
            span = (domain, after, last)
            deleted = connection.execute(
                "DELETE FROM chunks WHERE domain = ? AND chunk > ? AND chunk <= ? AND doomed BETWEEN 1 AND ?"
                f" AND {chosen}",
                (*span, upto_epoch),
            ).rowcount
            left = connection.execute(
                "SELECT pack, count(*) FROM chunks WHERE domain = ? AND chunk > ? AND chunk <= ?"
                f" AND {chosen} GROUP BY pack",
                span,
            ).fetchall()
        return (b"" if row is None else last), left, deleted

    # -- removing and moving ----------------------------------------------------------------------------------------

    def remove(self, packs: Sequence[NumberedPack]) -> list[NumberedPack]:
        """Take chosen packs, in which no chunk has its place any more, out of all counts; return them.

        Not those that were published once more meanwhile.
        """
        with self._index.transaction() as connection:
            return [pack for pack in packs if _remove(connection, pack)]

    def placed(self, pack: NumberedPack, entries: Sequence[Entry]) -> list[Entry]:
        """Return those of a pack's records that are the place of their chunk, in the order of the file."""
        places: set[tuple[int, bytes, int]] = set()
        with self._index.reader() as connection:
            numbers = _Numbers(connection)
            keys = {numbers.of(entry): entry for entry in entries}
            for domain in {domain for domain, _, _ in keys}:
                ids = sorted({chunk for own, chunk, _ in keys if own == domain})
                for start in range(0, len(ids), limits.LOOKUP_BATCH):
                    batch = ids[start : start + limits.LOOKUP_BATCH]
                    query = f"SELECT domain, chunk, key FROM chunks WHERE domain = ? AND chunk IN ({_marks(batch)})"
                    places.update(connection.execute(f"{query} AND pack = ?", (domain, *batch, pack.number)))
        return sorted((keys[place] for place in places if place in keys), key=lambda entry: entry.offset)

    def unknown(self, entries: Sequence[Entry]) -> bool:
        """Tell whether the index knows no place at all of some of these records' chunks, under their keys."""
        for domain in {entry.domain for entry in entries}:
            mine = [entry for entry in entries if entry.domain == domain]
            known = self._index.keys_of(domain, [entry.chunk_id for entry in mine])
            if any(entry.key_id not in known.get(entry.chunk_id, ()) for entry in mine):
                return True
        return False

    def take_in(self, pack: NumberedPack, entries: Sequence[Entry]) -> None:
        """Give chunks that have no place theirs in a chosen pack, and let it be."""
        self._index.add_pack(pack.row, entries)

    def move(self, new: PackRow, folder_mtime_ns: int, moved: Sequence[Moved]) -> None:
        """Enter a pack that compaction wrote, give it the places of its records, and remove packs that are empty now.

        Raises PlacesChanged, with nothing done, if one of the records is not the place of its chunk any more.
        """
        with self._index.transaction() as connection:
            number, _ = self._index.put_pack(connection, new, folder_mtime_ns)
            numbers = _Numbers(connection)
            for old in moved:
                rows = [(number, entry.offset, *numbers.of(entry), old.pack.number) for entry in old.entries]
                changed = connection.executemany(
                    "UPDATE chunks SET pack = ?, offset = ? WHERE domain = ? AND chunk = ? AND key = ? AND pack = ?",
                    sorted(rows, key=itemgetter(2, 3, 4)),  # neighbours in the tree are written together
                ).rowcount
                if changed != len(rows):
                    raise PlacesChanged
                if old.all_of_it and not _remove(connection, old.pack):
                    raise PlacesChanged

    def forget(self, names: Sequence[bytes], unlink: Callable[[Sequence[bytes]], None]) -> None:
        """Have the files of removed packs unlinked, durably, and forget the packs.

        Within the transaction: a pack that is published once more at this moment is either in use before it, and kept,
        or finds after it that its file is gone, and gets its name again (`publish_pack`).
        """
        with self._index.transaction() as connection:
            query = f"SELECT name FROM packs WHERE state = ? AND name IN ({_marks(names)})"
            gone = [bytes(name) for (name,) in connection.execute(query, (REMOVED, *names))]
            unlink(gone)
            connection.executemany("DELETE FROM packs WHERE name = ?", [(name,) for name in gone])

    def removed(self, count: int) -> list[bytes]:
        """Return the names of some removed packs that are not forgotten yet."""
        with self._index.reader() as connection:
            rows = connection.execute("SELECT name FROM packs WHERE state = ? LIMIT ?", (REMOVED, count))
            return [bytes(name) for (name,) in rows]


def _remove(connection: sqlite3.Connection, pack: NumberedPack) -> bool:
    changed = connection.execute(
        "UPDATE packs SET state = ? WHERE no = ? AND name = ? AND state = ?",
        (REMOVED, pack.number, pack.row.name, CHOSEN),
    ).rowcount
    if changed:
        connection.execute(
            "UPDATE tenants SET packs = packs - 1, records = records - ?, bytes = bytes - ? WHERE name = ?",
            (pack.row.records, pack.row.bytes, pack.row.tenant),
        )
    return bool(changed)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


class _Numbers:
    """The index's numbers of domains and keys, asked once for each; bounded by the records of a pack."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[str, bytes], int] = {}

    def of(self, entry: Entry) -> tuple[int, bytes, int]:
        """Return the primary key of a record: domain, chunk, key. −1: the index does not know it."""
        return self._number("domains", entry.domain), entry.chunk_id, self._number("keys", entry.key_id)

    def _number(self, table: str, name: bytes) -> int:
        number = self._known.get((table, name))
        if number is None:
            row = self._connection.execute(f"SELECT no FROM {table} WHERE id = ?", (name,)).fetchone()
            number = self._known[table, name] = -1 if row is None else int(row[0])
        return number

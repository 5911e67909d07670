"""What this home knows of the points that it has committed elsewhere: so that a target cannot drop or exchange one.

A row for each point, by destination (PEER/REPOSITORY) and job; ``number`` is the order of the commits. States:

    committing  its commit was asked for, and its end not seen: it may be there or not
    there       committed, and as far as is known in its place
    removing    this home asked, or is about to ask, for its removal; until the target has said so, nothing is known
    removed     by this home; in the target's recycle bin until ``until_ns``, if that is not 0
    announced   the target says that somebody removed it, and that it lies in its recycle bin until ``until_ns``
    missing     it should be there and is not: told, and kept in mind until it turns up or is given up
    replaced    another one is there under its id: likewise
    moved       it is listed before a point that was committed before it: likewise
    dropped     it has gone, by this home or by the provider's announcement: kept so that no copy brings it back
    unknown     the target lists it and this home never committed it: likewise
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

COMMITTING: Final = "committing"
THERE: Final = "there"
REMOVING: Final = "removing"
REMOVED: Final = "removed"
ANNOUNCED: Final = "announced"
MISSING: Final = "missing"
REPLACED: Final = "replaced"
MOVED: Final = "moved"
UNKNOWN: Final = "unknown"
DROPPED: Final = "dropped"
FAULTS: Final = (MISSING, REPLACED, MOVED, UNKNOWN)
"""States of points that somebody should look into."""
DROPPED_AT_MOST: Final = 10_000
"""Rows of a job at one destination, the newest; some 150 bytes each."""

CHAIN_SCHEMA: Final = """
CREATE TABLE chain (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    job TEXT NOT NULL,
    point BLOB NOT NULL CHECK (length(point) = 16),
    point_hash BLOB NOT NULL,
    committed_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    until_ns INTEGER NOT NULL DEFAULT 0,
    UNIQUE (destination, job, point)
) STRICT
"""


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """One row; ``point_hash`` is empty while the commit is under way. ``committed_ns`` by this home's clock."""

    point: bytes
    point_hash: bytes
    committed_ns: int
    state: str = THERE
    until_ns: int = 0


class ChainTable:
    """The part of the catalog about points that were committed. See `transporter.catalog.Catalog` for errors."""

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        raise NotImplementedError

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def chain(self, destination: str, job: str) -> list[ChainPoint]:
        """Return what is known of a job's points there, in the order of their commits; not those that were dropped."""
        rows = self._rows(
            "SELECT point, point_hash, committed_ns, state, until_ns FROM chain"
            " WHERE destination = ? AND job = ? AND state != ? ORDER BY number",
            destination,
            job,
            DROPPED,
        )
        return [ChainPoint(*row) for row in rows]

    def dropped(self, destination: str, job: str) -> set[bytes]:
        """Return the points of a job that have gone from there for good, or lie in the recycle bin there."""
        rows = self._rows(
            "SELECT point FROM chain WHERE destination = ? AND job = ? AND state IN (?, ?, ?)",
            destination,
            job,
            DROPPED,
            REMOVED,
            ANNOUNCED,
        )
        return {point for (point,) in rows}

    def elsewhere(self, destination: str, points: Iterable[bytes]) -> set[bytes]:
        """Return those of some points that lie at another destination as well, as far as is known.

        Also those of which a target says that they are missing, or moved, or others: it may show them again. Else one
        that is a tenant of this node could say so, and remove points of these ids here. Not what only a target knows.
        """
        rows = self._rows(
            "SELECT DISTINCT point FROM chain WHERE destination != ? AND state NOT IN (?, ?)",
            destination,
            DROPPED,
            UNKNOWN,
        )
        return {point for (point,) in rows} & set(points)

    def put_chain(self, destination: str, job: str, points: Iterable[ChainPoint]) -> None:
        """Remember points, new ones behind all others; those that are known keep their place in the order."""
        rows = [
            (destination, job, each.point, each.point_hash, each.committed_ns, each.state, each.until_ns)
            for each in points
        ]
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO chain (destination, job, point, point_hash, committed_ns, state, until_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, job, point) DO UPDATE SET"
                " point_hash = excluded.point_hash, committed_ns = excluded.committed_ns, state = excluded.state,"
                " until_ns = excluded.until_ns",
                rows,
            )

    def move_chain(self, destination: str, job: str, moves: Iterable[tuple[ChainPoint, ChainPoint | None]]) -> None:
        """Change points from what they were seen as (None: forget them); what was changed meanwhile stays as it is."""
        with self._transaction() as database:
            for old, new in moves:
                known = (destination, job, old.point, old.state, old.point_hash)
                where = "WHERE destination = ? AND job = ? AND point = ? AND state = ? AND point_hash = ?"
                if new is None:
                    database.execute(f"DELETE FROM chain {where}", known)
                else:
                    database.execute(
                        f"UPDATE chain SET point_hash = ?, committed_ns = ?, state = ?, until_ns = ? {where}",
                        (new.point_hash, new.committed_ns, new.state, new.until_ns, *known),
                    )
            of_job = (destination, job, DROPPED)
            database.execute(
                "DELETE FROM chain WHERE destination = ? AND job = ? AND state = ? AND number <= (SELECT number FROM"
                " chain WHERE destination = ? AND job = ? AND state = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (*of_job, *of_job, DROPPED_AT_MOST),
            )

    def replace_chain(self, destination: str, job: str, old: bytes, new: ChainPoint) -> None:
        """Remember that a point took another's place in the order of the commits."""
        where = "WHERE destination = ? AND job = ? AND point IN (?, ?)"
        both = (destination, job, old, new.point)
        with self._transaction() as database:
            # The new one may have it already (`exchange_chain`).
            (number,) = database.execute(f"SELECT min(number) FROM chain {where}", both).fetchone()
            database.execute(f"DELETE FROM chain {where}", both)
            database.execute(
                "INSERT INTO chain (number, destination, job, point, point_hash, committed_ns, state, until_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, destination, job, new.point, new.point_hash, new.committed_ns, new.state, new.until_ns),
            )
            if old != new.point:
                database.execute(
                    "INSERT INTO chain (destination, job, point, point_hash, committed_ns, state)"
                    " VALUES (?, ?, ?, x'', 0, ?)",
                    (destination, job, old, DROPPED),
                )

    def exchange_chain(self, destination: str, job: str, one: bytes, other: bytes) -> None:
        """Have two known points exchange their places in the order of the commits."""
        where = "WHERE destination = ? AND job = ? AND point = ?"
        with self._transaction() as database:
            found = [
                database.execute(f"SELECT number FROM chain {where}", (destination, job, point)).fetchone()
                for point in (one, other)
            ]
            if None in found:
                return
            # By way of a number that none has: no two rows may have the same, not even for a moment.
            for point, number in ((one, -1), (other, found[0][0]), (one, found[1][0])):
                database.execute(f"UPDATE chain SET number = ? {where}", (number, destination, job, point))

    def order_chain(self, destination: str, job: str, points: Sequence[bytes]) -> None:
        """Remember that these points come in this order; others keep their place."""
        with self._transaction() as database:
            where = "WHERE destination = ? AND job = ?"
            rows = database.execute(f"SELECT point, number FROM chain {where}", (destination, job)).fetchall()
            numbers = dict(rows)
            ordered = [point for point in points if point in numbers]
            places = sorted(numbers[point] for point in ordered)
            moves = [(number, point) for number, point in zip(places, ordered, strict=True) if numbers[point] != number]
            # Numbers are unique: out of the way first.
            update = f"UPDATE chain SET number = ? {where} AND point = ?"
            database.executemany(update, [(-number, destination, job, point) for number, point in moves])
            database.executemany(update, [(number, destination, job, point) for number, point in moves])

    def drop_chain(self, destination: str, job: str, points: Iterable[bytes]) -> None:
        """Forget points."""
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM chain WHERE destination = ? AND job = ? AND point = ?",
                [(destination, job, point) for point in points],
            )

    def chain_places(self) -> list[tuple[str, str]]:
        """Return every (destination, job) of which points are known."""
        return [(str(a), str(b)) for a, b in self._rows("SELECT DISTINCT destination, job FROM chain ORDER BY 1, 2")]

    def newest_there(self) -> list[tuple[str, str, int]]:
        """Return (destination, job, when the newest point was committed, ns) of all places that have points."""
        rows = self._rows(
            "SELECT destination, job, max(committed_ns) FROM chain WHERE state = ? GROUP BY destination, job", THERE
        )
        return [(str(destination), str(job), int(newest)) for destination, job, newest in rows]

    def chain_faults(self) -> list[tuple[str, str, ChainPoint]]:
        """Return the points that somebody should look into: (destination, job, point)."""
        marks = ", ".join("?" for _ in FAULTS)
        rows = self._rows(
            "SELECT destination, job, point, point_hash, committed_ns, state, until_ns FROM chain"
            f" WHERE state IN ({marks}) ORDER BY destination, job, number",
            *FAULTS,
        )
        return [(str(row[0]), str(row[1]), ChainPoint(*row[2:])) for row in rows]

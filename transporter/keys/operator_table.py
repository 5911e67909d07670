"""Who may sign approvals, and what needs them: both under the master key, so that no editor changes them.

Once anything needs two operators, changing who they are and what needs them does, too. To begin with it two of them
must sign as well: that proves that both have their keys, before nobody can go back.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

import msgspec

from transporter.errors import DamagedData, NoKey, UsageError
from transporter.keys.deeds import KINDS
from transporter.keys.open_database import OpenDatabase
from transporter.keys.operator_key import PublicOperator
from transporter.keys.places import operator_place, policy_place
from transporter.keys.wrap import WRAP_OVERHEAD, unwrap, wrap

MAX_OPERATORS: Final = 32
"""More would be a list that nobody goes through any more."""

LEAST: Final = 2
POLICY: Final = "four-eyes"


class Policy(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``pin``: of the node that approvals must name; ``kinds``: what needs them; empty: nothing."""

    pin: bytes
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class OperatorInfo:
    """A line of ``operator list``; ``public.name`` is what the operator is called here."""

    public: PublicOperator
    added_ns: int


class OperatorTable(OpenDatabase):
    """See the head of the file."""

    def operators(self) -> list[OperatorInfo]:
        """Return who may sign. Raises DamagedData for one that was put in by other ways."""
        with self._read() as db:
            rows = db.execute("SELECT name, id, added_ns, sealed FROM operators ORDER BY name").fetchall()
        return [self._operator(*row) for row in rows]

    def policy(self) -> Policy | None:
        """Return what needs two operators; None where there was never an operator. Raises DamagedData."""
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = ?", (POLICY,)).fetchone()
            if row is None:
                if db.execute("SELECT 1 FROM operators UNION SELECT 1 FROM approvals").fetchone():
                    raise self._damaged()  # taken out: it came with the first operator
                return None
        try:
            plain = unwrap(self._kek, row[0], policy_place(), length=len(row[0]) - WRAP_OVERHEAD)
            policy = msgspec.msgpack.decode(plain, type=Policy)
        except (NoKey, msgspec.DecodeError):
            raise self._damaged() from None
        return policy

    # ---- within ----

    def _put_policy(self, db: sqlite3.Connection, policy: Policy) -> None:
        sealed = wrap(self._kek, msgspec.msgpack.encode(policy), policy_place(), clock=self._clock)
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (POLICY, sealed))

    def _insert_operator(self, db: sqlite3.Connection, public: PublicOperator) -> None:
        row = db.execute("SELECT name FROM operators WHERE name = ? OR id = ?", (public.name, public.id)).fetchone()
        if row is not None:
            raise UsageError(f"an operator is registered as {row[0]!r} already", "remove that one, or choose another")
        if len(self.operators()) >= MAX_OPERATORS:
            raise UsageError(f"there are {MAX_OPERATORS} operators already", "remove one first")
        now = self._clock.now_ns()
        sealed = wrap(self._kek, public.key, operator_place(public.name, public.id, now), clock=self._clock)
        db.execute("INSERT INTO operators VALUES (?, ?, ?, ?)", (public.name, public.id, now, sealed))

    def _known_operator(self, name: str) -> OperatorInfo:
        found = next((each for each in self.operators() if each.public.name == name), None)
        if found is None:
            raise UsageError(f"no operator is registered as {name!r}", "`transporter operator list` lists them")
        return found

    def _operator(self, name: str, identity: bytes, added_ns: int, sealed: bytes) -> OperatorInfo:
        try:
            key = unwrap(self._kek, sealed, operator_place(name, identity, added_ns))
        except NoKey:
            raise self._damaged() from None
        return OperatorInfo(PublicOperator(name, key), added_ns)

    def _damaged(self) -> DamagedData:
        return DamagedData(f"the key database {self._path} is damaged", "put back a copy of it")


def required(policy: Policy | None) -> list[str]:
    """Return the kinds that need two operators, in the order of the documents."""
    return [] if policy is None else [kind for kind in KINDS if kind in policy.kinds]

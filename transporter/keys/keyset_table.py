"""The keysets that a home knows: public halves everywhere, private ones at the escrow, under their pass phrases."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from transporter.errors import DamagedData, NoKey, UsageError
from transporter.keys.approval_table import ApprovalTable
from transporter.keys.audit_trail import Fact
from transporter.keys.deeds import Deed, deed
from transporter.keys.keyset import PrivateKeyset, PublicKeyset, SealedPrivate, open_private
from transporter.keys.keyset_kms import open_private_by_kms
from transporter.keys.password import KdfParameters

MAX_NAME: Final = 64
"""Characters of a keyset's name: it stands in slots, and on one line of a table."""

MOST_ACTIVE: Final = 4
"""Active keysets at once: each is a slot on every point. A point has 16, and a commit that was killed and repeated
leaves the slots of every attempt: with the password's there is room for three."""

_COLUMNS: Final = """id, name, created_ns, added_ns, retired_ns, public, signing, salt, memory_kib, iterations, lanes,
    sealed, kms, kms_wrapped"""


@dataclass(frozen=True, slots=True)
class KeysetInfo:
    """A line of ``keyset list``. ``retired_ns`` 0: new storage keys are wrapped for it."""

    public: PublicKeyset
    added_ns: int
    retired_ns: int
    private: SealedPrivate | None

    @property
    def active(self) -> bool:
        """Whether new storage keys are wrapped for it."""
        return self.retired_ns == 0


class KeysetTable(ApprovalTable):
    """See the head of the file."""

    def add_keyset(self, public: PublicKeyset, private: SealedPrivate | None, *, event: str) -> KeysetInfo:
        """Keep a keyset, and return it as it is kept; ``event`` names in the audit trail how it came.

        A public half that is known already may get its private one, and a retired keyset comes into use again (under
        the name that it has here). Raises UsageError for one that is known as it is, for a name that another one has,
        and for more than `MOST_ACTIVE` active ones; NeedsApproval, RefusedByPeer.
        """
        check_keyset_name(public.name)
        # Before it is made nobody knows the fingerprint of a new one; afterwards it is what counts, not the name.
        what = deed(event, public.name if event == "keyset.create" else public.fingerprint)
        self._before(what)
        with self._write() as db:
            name = self._name_for(db, public, private)
            return self._add(db, name, public, private, event, self._approved(db, what))

    def rotate_keyset(self, public: PublicKeyset, private: SealedPrivate, retire: Sequence[str]) -> KeysetInfo:
        """Keep a new keyset and retire the ones named ``retire``, at once, by one approval (`rotation`).

        Raises as `add_keyset` and `retire_keyset`.
        """
        check_keyset_name(public.name)
        self._before(self.rotation())
        with self._write() as db:
            name = self._name_for(db, public, private, leaving=len(retire))
            facts = self._approved(db, self.rotation())
            for old in retire:
                self._retire(db, old, facts)
            return self._add(db, name, public, private, "keyset.create", facts)

    def rotation(self) -> Deed:
        """Return what it is to put another keyset in the place of the newest in use whose private half is here.

        By its name: the new one is named by the day that it is made on, which nobody who signs before knows.
        """
        own = [info.public for info in self.keysets() if info.active and info.private is not None]
        return deed("keyset.rotate", own[-1].name if own else "none")

    def _name_for(
        self, db: sqlite3.Connection, public: PublicKeyset, private: SealedPrivate | None, leaving: int = 0
    ) -> str:
        """Return the name under which a keyset is kept; ``leaving``: active ones that go. Raises as `add_keyset`."""
        known = self._keyset("id = ?", public.id)
        if known is not None and known.active and (private is None or known.private is not None):
            raise UsageError(f"the keyset {known.public.name!r} is known already", "nothing to do")
        if known is None and self._keyset("name = ?", public.name) is not None:
            raise UsageError(f"another keyset is called {public.name!r}", "choose another name at the escrow")
        if known is None or not known.active:
            row = db.execute("SELECT count(*) FROM keysets WHERE retired_ns = 0").fetchone()
            if row[0] - leaving >= MOST_ACTIVE:
                raise UsageError(f"there are {MOST_ACTIVE} active keysets already", "retire one first")
        return public.name if known is None else known.public.name

    def _add(
        self,
        db: sqlite3.Connection,
        name: str,
        public: PublicKeyset,
        private: SealedPrivate | None,
        event: str,
        facts: Mapping[str, Fact],
    ) -> KeysetInfo:
        self._record(db, event, keyset=name, id=public.id.hex(), private=private is not None, **facts)
        self._insert(db, public, private)
        return self.keyset(name)

    def _insert(self, db: sqlite3.Connection, public: PublicKeyset, private: SealedPrivate | None) -> None:
        price = private.parameters if private is not None else None
        half = (
            (
                *(private.salt, price.memory_kib, price.iterations, price.lanes),
                *(private.cryptogram, private.kms, private.kms_wrapped),
            )
            if private is not None and price is not None
            else (None, None, None, None, None, "", b"")
        )
        # A private half that is here stays as it is: all of its columns, or none.
        taken = ", ".join(
            f"{column} = CASE WHEN keysets.sealed IS NULL THEN excluded.{column} ELSE keysets.{column} END"
            for column in ("salt", "memory_kib", "iterations", "lanes", "sealed", "kms", "kms_wrapped")
        )
        db.execute(
            f"""INSERT INTO keysets (id, name, created_ns, added_ns, public, signing, salt, memory_kib, iterations,
                lanes, sealed, kms, kms_wrapped) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET retired_ns = 0, {taken}""",
            (public.id, public.name, public.created_ns, self._clock.now_ns(), public.spki, public.signing, *half),
        )

    def keysets(self) -> list[KeysetInfo]:
        """Return all keysets, oldest first."""
        with self._read() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM keysets ORDER BY created_ns, id").fetchall()
        return [_info(row) for row in rows]

    def active_keysets(self) -> list[PublicKeyset]:
        """Return those that every new storage key is wrapped for."""
        return [info.public for info in self.keysets() if info.active]

    def keyset(self, name: str) -> KeysetInfo:
        """Return the keyset of that name. Raises NoKey."""
        found = self._keyset("name = ?", name)
        if found is None:
            raise _no_keyset(name)
        return found

    def keyset_by_id(self, identity: bytes) -> KeysetInfo | None:
        """Return the keyset with that id, or None."""
        return self._keyset("id = ?", identity)

    def open_keyset(self, info: KeysetInfo, pass_phrase: bytes) -> PrivateKeyset:
        """Return the private half; no ``pass_phrase`` is needed where a service keeps it (`SealedPrivate.kms`).

        Raises NoKey where it is not here, WrongPassword, DamagedData, `KMS_ERRORS`.
        """
        if info.private is None:
            raise NoKey(
                f"the private half of the keyset {info.public.name!r} is not here", "ask the escrow that has it"
            )
        return self.open_half(info.public, info.private, pass_phrase)

    def open_half(self, public: PublicKeyset, private: SealedPrivate, pass_phrase: bytes) -> PrivateKeyset:
        """As `open_keyset`, of one that is not kept here (yet)."""
        if private.kms:
            return open_private_by_kms(public, private, self.kms)
        return open_private(public, private, pass_phrase)

    def retire_keyset(self, name: str) -> None:
        """Wrap nothing for it any more; what was wrapped for it stays.

        Raises NoKey, and UsageError the second time; NeedsApproval, RefusedByPeer.
        """
        what = deed("keyset.retire", self.keyset(name).public.name)
        self._before(what)
        with self._write() as db:
            self._retire(db, name, self._approved(db, what))

    def _retire(self, db: sqlite3.Connection, name: str, facts: Mapping[str, Fact]) -> None:
        info = self.keyset(name)
        if not info.active:
            raise UsageError(f"the keyset {name!r} is retired already", "nothing to do")
        self._record(db, "keyset.retire", keyset=name, id=info.public.id.hex(), **facts)
        db.execute("UPDATE keysets SET retired_ns = ? WHERE id = ?", (self._clock.now_ns(), info.public.id))

    def give_out(self, name: str, *, private: bool) -> KeysetInfo:
        """Return a keyset that is to leave this home, entered in the audit trail; ``private``: both halves of it.

        Raises NoKey, UsageError where the private half is not here; NeedsApproval, RefusedByPeer for one.
        """
        info = self.keyset(name)
        if not private:
            self.record("keyset.export", keyset=name, private=False)
            return info
        if info.private is None:
            raise UsageError(f"the private half of keyset {name!r} is not here", "export it where it was made")
        with self.approved(deed("keyset.export-private", name), "keyset.export", keyset=name, private=True):
            return info

    def remove_keyset(self, name: str, *, private: bool = False) -> None:
        """Forget a keyset, also a damaged one. ``private``: also where its private half is here, which is lost then.

        Raises NoKey, UsageError, NeedsApproval, RefusedByPeer.
        """
        with self._read() as db:
            self._before(self._removal(db, name, private=private)[0])
        with self._write() as db:
            what, identity, has_private = self._removal(db, name, private=private)
            facts = self._approved(db, what)
            self._record(db, "keyset.remove", keyset=name, id=identity.hex(), private=has_private, **facts)
            db.execute("DELETE FROM keysets WHERE id = ?", (identity,))
        self._scrape()

    def _removal(self, db: sqlite3.Connection, name: str, *, private: bool) -> tuple[Deed, bytes, bool]:
        """Return what a removal is, the keyset's id, and whether its private half is here. Raises NoKey, UsageError."""
        row = db.execute("SELECT id, sealed FROM keysets WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise _no_keyset(name)
        if row[1] is not None and not private:
            raise UsageError(
                f"the private half of keyset {name!r} is here: points that only it opens would be lost",
                "export it first, or say --force",
            )
        operation = "keyset.remove" if row[1] is None else "keyset.remove-private"
        return deed(operation, name), bytes(row[0]), row[1] is not None

    def _keyset(self, condition: str, value: str | bytes) -> KeysetInfo | None:
        with self._read() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM keysets WHERE {condition}", (value,)).fetchone()
        return None if row is None else _info(row)


def check_keyset_name(name: str) -> None:
    """Refuse a name that is no short line. Raises UsageError."""
    if not (1 <= len(name) <= MAX_NAME and name.isprintable() and name == name.strip() and len(name.encode()) <= 128):
        raise UsageError(f"a keyset's name is one line of 1 to {MAX_NAME} characters", "choose another")


def _no_keyset(name: str) -> NoKey:
    return NoKey(f"there is no keyset {name!r} here", "`transporter keyset list` shows them")


def _info(row: tuple[Any, ...]) -> KeysetInfo:
    identity, name, created_ns, added_ns, retired_ns, spki, signing, salt, memory_kib, iterations, lanes, *rest = row
    sealed, *kms = rest
    try:
        public = PublicKeyset.from_keys(spki, signing, name, created_ns)
    except DamagedData:
        raise _damaged(name) from None
    private = (
        None if sealed is None else SealedPrivate(salt, KdfParameters(memory_kib, iterations, lanes), sealed, *kms)
    )
    if public.id != identity:
        raise _damaged(name)
    return KeysetInfo(public, added_ns, retired_ns, private)


def _damaged(name: str) -> DamagedData:
    return DamagedData(
        f"the keyset {name!r} in the key database is damaged",
        "remove it (transporter keyset remove), and import it again",
    )

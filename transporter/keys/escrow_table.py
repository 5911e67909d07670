"""Recoveries: who may ask an escrow, what it answered; and, at a node, what it asked for and what came of it."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from transporter.errors import DamagedData, IdentityRefused, NoKey, RefusedByPeer, UsageError
from transporter.keys.audit_trail import Fact
from transporter.keys.deeds import MAX_WORDS, Deed, deed
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.keyset import PublicKeyset, fingerprint
from transporter.keys.keyset_table import KeysetTable
from transporter.keys.node_key import pin_of
from transporter.keys.places import recovered_place, recovery_place
from transporter.keys.recovery import Asked, Request
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import unwrap, wrap


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A node that may ask for recoveries; ``pin``: SHA-256 of its public key; ``stands_for``: names of others."""

    pin: bytes
    name: str
    registered_ns: int
    stands_for: tuple[str, ...] = ()


class RingHead(msgspec.Struct, frozen=True, array_like=True):
    """What an answer is proved against: the keyset that made it, and the point's ring: place, length, first key."""

    keyset: bytes
    context: bytes
    length: int
    first: bytes


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request of this node that may still be answered."""

    hash: bytes
    point: bytes
    expires_ns: int
    ring: RingHead
    one_time: bytes = field(repr=False)


class EscrowTable(KeysetTable):
    """See the head of the file."""

    # ---- at the escrow ----

    def register_node(self, name: str, spki: bytes, instead_of: Sequence[str] = ()) -> RegisteredNode:
        """Let a node ask for recoveries of what it sealed itself, and of what the nodes ``instead_of`` sealed.

        Those are named, or given by their fingerprints where they were never registered. A node that is registered
        already under this name may come to stand for more. Raises UsageError where its key,
        or another by that name, is registered, and for a node that is not; NeedsApproval, RefusedByPeer.
        """
        pin = hashlib.sha256(spki).digest()
        what = deed_of_registration(name, pin, instead_of)
        self._before(what)
        with self._write() as db:
            row = db.execute("SELECT name, pin FROM nodes WHERE pin = ? OR name = ?", (pin, name)).fetchone()
            if row is not None and (row != (name, pin) or not instead_of):
                raise UsageError(
                    f"a node is registered as {row[0]!r} already", "remove that one first, or choose a name"
                )
            others = [self._pin_of(db, other) for other in instead_of]
            facts = self._approved(db, what)
            self._record(db, "node.register", node=name, pin=pin.hex(), instead_of=list(instead_of), **facts)
            db.execute("INSERT OR IGNORE INTO nodes VALUES (?, ?, ?, ?)", (pin, name, spki, self._clock.now_ns()))
            for other in others:
                # Those that the other stood for, too: a node may be rebuilt more than once.
                db.execute("INSERT OR IGNORE INTO stands_for VALUES (?, ?)", (pin, other))
                query = "INSERT OR IGNORE INTO stands_for SELECT ?, maker FROM stands_for WHERE pin = ?"
                db.execute(query, (pin, other))
        return next(node for node in self.registered_nodes() if node.pin == pin)

    def remove_node(self, name: str) -> None:
        """Let a node ask no more; others that stand for it still do. Raises UsageError for one not registered."""
        with self._write() as db:
            pin = self._pin_of(db, name)
            self._record(db, "node.remove", node=name)
            db.execute("DELETE FROM stands_for WHERE pin = ?", (pin,))
            db.execute("DELETE FROM nodes WHERE pin = ?", (pin,))

    def _pin_of(self, db: sqlite3.Connection, name: str) -> bytes:
        row = db.execute("SELECT pin FROM nodes WHERE name = ?", (name,)).fetchone()
        if row is None:
            written = re.sub("[^0-9a-f]", "", name.lower().removeprefix("sha256"))
            if len(written) == 64:
                return bytes.fromhex(written)
            raise UsageError(f"no node is registered as {name!r}", "`transporter escrow nodes` lists them")
        return bytes(row[0])

    def registered_nodes(self) -> list[RegisteredNode]:
        """Return who may ask."""
        with self._read() as db:
            rows = db.execute("SELECT pin, name, registered_ns FROM nodes ORDER BY name").fetchall()
            pairs = db.execute("SELECT pin, maker FROM stands_for").fetchall()
        names = {pin: name for pin, name, _ in rows}
        others: dict[bytes, list[str]] = {}
        for pin, maker in pairs:
            others.setdefault(pin, []).append(names.get(maker, maker.hex()[:16]))
        return [RegisteredNode(pin, name, since, tuple(sorted(others.get(pin, ())))) for pin, name, since in rows]

    def registered_as(self, request: Request) -> str:
        """Return the name of who asks. Raises IdentityRefused for a node that is not registered."""
        return self.check_registered(request.node, f" (it calls itself {request.name!r})")

    def check_registered(self, node: bytes, says: str = "") -> str:
        """Return the name of the node with that public key. Raises IdentityRefused for one that is not registered."""
        with self._read() as db:
            row = db.execute("SELECT name FROM nodes WHERE pin = ?", (pin_of(node),)).fetchone()
        if row is None:
            raise IdentityRefused(
                f"this is signed by a node that is not registered here{says}",
                "if it is one of yours: `identity export` there, `escrow register` here",
            )
        return str(row[0])

    def may_open(self, node: bytes, maker: bytes) -> bool:
        """Tell whether points that the node ``maker`` sealed may be opened for ``node`` (pins)."""
        if node == maker:
            return True
        with self._read() as db:
            query = "SELECT 1 FROM stands_for WHERE pin = ? AND maker = ?"
            return db.execute(query, (node, maker)).fetchone() is not None

    def record_refusal(self, request: Request, asked: bytes, why: str) -> None:
        """Note that a request was not answered; ``why``: an error's code."""
        self.record("recovery.refused", pin=pin_of(request.node).hex(), request=asked.hex(), why=why)

    def check_unanswered(self, request: Request, asked: bytes) -> None:
        """Raise RefusedByPeer for a request that was answered here before, or may have been.

        After an import from a bundle nobody knows what was answered between its export and the import: a request from
        before the import may have been among it.
        """
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'imported'").fetchone()
            if row is not None and request.created_ns <= int.from_bytes(row[0], "big"):
                raise RefusedByPeer(
                    "the request is older than the import of this escrow, and may have been answered before that",
                    "make a new one: transporter recover request POINT",
                )
            if db.execute("SELECT 1 FROM answers WHERE request = ?", (asked,)).fetchone():
                raise RefusedByPeer(
                    "this request was answered already", "make a new one: transporter recover request POINT"
                )

    def remember_answer(self, request: Request, asked: bytes, node: str) -> None:
        """Note that a request is answered now: before the answer leaves.

        Raises RefusedByPeer the second time, and NeedsApproval.
        """
        what = deed_of_answer(request, asked)
        self._before(what)
        with self._write() as db:
            self.check_unanswered(request, asked)
            self._record(
                db,
                "recovery.answer",
                node=node,
                pin=pin_of(request.node).hex(),
                tenant=request.tenant,
                repository=request.repository_id.hex(),
                point=request.point.hex(),
                keyset=request.keyset.hex(),
                request=asked.hex(),
                **self._approved(db, what),
            )
            row = (asked, pin_of(request.node), request.point, self._clock.now_ns())
            db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)

    def came_from_bundle(self, **facts: Fact) -> None:
        """Enter that this home was imported just now; ``facts``: of the bundle. See `check_unanswered`."""
        with self._write() as db:
            self._record(db, "config.import", **facts)
            now = self._clock.now_ns().to_bytes(8, "big")
            db.execute("INSERT OR REPLACE INTO meta VALUES ('imported', ?)", (now,))

    # ---- at the node ----

    def remember_request(self, asked: Asked, ring: RingHead) -> None:
        """Keep the one-time key of a request before it leaves."""
        request = asked.request
        sealed = wrap(self._kek, asked.one_time, recovery_place(asked.hash), clock=self._clock)
        row = (asked.hash, request.point, request.expires_ns, msgspec.msgpack.encode(ring), sealed)
        with self._write() as db:
            # One-time keys that nobody can use any more: with an answer of theirs a thief could.
            query = "UPDATE recoveries SET sealed = zeroblob(0) WHERE expires_ns < ?"
            db.execute(query, (self._clock.now_ns(),))
            self._record(
                db,
                "recovery.request",
                point=request.point.hex(),
                job=request.job,
                keyset=request.keyset.hex(),
                request=asked.hash.hex(),
            )
            db.execute("INSERT INTO recoveries (request, point, expires_ns, facts, sealed) VALUES (?, ?, ?, ?, ?)", row)

    def open_request(self, asked: bytes) -> OpenRequest:
        """Return a request by its hash. Raises NoKey for one that is not of this node, RefusedByPeer for an old one."""
        query = "SELECT point, expires_ns, applied_ns, facts, sealed FROM recoveries WHERE request = ?"
        with self._read() as db:
            row = db.execute(query, (asked,)).fetchone()
        if row is None:
            raise NoKey("this answers no request of this node", "apply it where the request was made")
        point, expires_ns, applied_ns, facts, sealed = row
        if applied_ns:
            raise RefusedByPeer("this response was applied already", "nothing to do: the restore point opens here")
        if self._clock.now_ns() > expires_ns:
            raise RefusedByPeer("the request has expired", "make a new one: transporter recover request POINT")
        try:
            ring = msgspec.msgpack.decode(facts, type=RingHead)
            one_time = unwrap(self._kek, sealed, recovery_place(asked))
        except (msgspec.DecodeError, NoKey):
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None
        return OpenRequest(asked, point, expires_ns, ring, one_time)

    def keep_recovered(self, request: OpenRequest, storage_key: StorageKey) -> None:
        """Keep the key that came, and forget the one-time key: once. Raises RefusedByPeer the second time."""
        sealed = wrap(self._kek, storage_key.secret, recovered_place(request.point), clock=self._clock)
        now = self._clock.now_ns()
        with self._write() as db:
            row = db.execute("SELECT applied_ns FROM recoveries WHERE request = ?", (request.hash,)).fetchone()
            if row is None or row[0]:
                raise RefusedByPeer("this response was applied already", "nothing to do: the restore point opens here")
            self._record(db, "recovery.apply", point=request.point.hex(), request=request.hash.hex())
            db.execute(
                "UPDATE recoveries SET applied_ns = ?, sealed = zeroblob(0) WHERE request = ?", (now, request.hash)
            )
            db.execute("INSERT OR REPLACE INTO recovered_keys VALUES (?, ?, ?)", (request.point, now, sealed))
        self._scrape()

    def keyset_of_request(self, asked: bytes) -> PublicKeyset:
        """Return the keyset that a request of this node asked; raises as `open_request`, and NoKey without it."""
        ring = self.open_request(asked).ring
        info = self.keyset_by_id(ring.keyset)
        if info is None:
            raise NoKey(
                f"the keyset {fingerprint(ring.keyset)} is not known here any more",
                "import its public half: transporter keyset import",
            )
        return info.public

    def record_bad_response(self, why: str) -> None:
        """Note that a response was not taken; ``why``: an error's code."""
        self.record("recovery.response-refused", why=why)

    def forget_recovered(self, point: str) -> None:
        """Forget the key of a point (its id in hexadecimal) that came by a recovery. Raises UsageError for none."""
        with self._write() as db:
            done = db.execute("DELETE FROM recovered_keys WHERE lower(hex(point)) = ?", (point,))
            if not done.rowcount:
                raise UsageError(f"no key of {point!r} came by a recovery", "`transporter points` lists ids")
            self._record(db, "recovery.forget", point=point)
        self._scrape()

    def recovered_key(self, point_id: bytes) -> StorageKey | None:
        """Return the storage key of a point that came by a recovery."""
        with self._read() as db:
            row = db.execute("SELECT sealed FROM recovered_keys WHERE point = ?", (point_id,)).fetchone()
        if row is None:
            return None
        try:
            return StorageKey(unwrap(self._kek, row[0], recovered_place(point_id), length=KEY_LENGTH))
        except NoKey:
            raise DamagedData(f"the key database {self._path} is damaged", "put back a copy of it") from None


def deed_of_answer(request: Request, asked: bytes) -> Deed:
    """Return what answering a request is: the request by its hash, and for people the point and the tenant."""
    return deed("recovery.answer", asked.hex(), request.point.hex(), request.tenant)


def deed_of_registration(name: str, pin: bytes, instead_of: Sequence[str]) -> Deed:
    """Return what registering a node is: its name, its fingerprint's digits, and whom it stands for as that was typed.

    Raises UsageError for more of them than an operator would read.
    """
    if len(instead_of) > MAX_WORDS - 2:
        raise UsageError(f"a node stands for at most {MAX_WORDS - 2} others at once", "register it again for the rest")
    return deed("escrow.register", name, pin.hex(), *instead_of)

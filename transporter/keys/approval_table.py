"""Approvals at the node that they are for: taken up, used once with the deed, and kept as the proof of it.

Every method that does something which may need two operators calls `_before` first, outside its transaction (so that
nobody types a password, or waits for a dear hash, in vain), and `_approved` within it: that uses the approval up in the
same transaction as the deed, and gives what the audit trail says of it.

An approval is stored before its deed begins, not yet used: after a crash between the entry in the audit trail and the
commit, the entry of the deed that was not done still has its proof.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from transporter.clock import Clock
from transporter.errors import NeedsApproval, RefusedByPeer, UsageError
from transporter.keys.approval import PIN_LENGTH, SignedApproval, check_time, parse_approval, read_approval
from transporter.keys.approval_proof import prove_entries
from transporter.keys.audit_trail import Fact
from transporter.keys.deeds import OPERATORS, Deed, deed, deed_of_policy
from transporter.keys.operator_key import PublicOperator, check_operator_name
from transporter.keys.operator_table import LEAST, OperatorInfo, OperatorTable, Policy, required
from transporter.keys.password import DEFAULT_PARAMETERS, KdfParameters
from transporter.keys.settings import KeySettings

MAX_WAITING: Final = 64
"""Approvals that were taken up and not used yet: more are a mistake, and those that expired are dropped first."""


@dataclass(frozen=True, slots=True)
class ApprovalInfo:
    """A line of ``approval list``. ``used_ns`` 0: waits for its deed."""

    deed: Deed
    approved_by: tuple[str, str]
    hash: bytes
    expires_ns: int
    used_ns: int


class ApprovalTable(OperatorTable):
    """See the head of the file."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        parameters: KdfParameters = DEFAULT_PARAMETERS,
        settings: Callable[[], KeySettings] | None = None,
    ) -> None:
        super().__init__(path, clock, parameters, settings)
        self._presented: SignedApproval | None = None

    # ---- operators and policy ----

    def add_operator(self, public: PublicOperator, pin: bytes) -> None:
        """Let somebody sign approvals of this node (``pin``: of its identity), under ``public.name``.

        Raises UsageError where the name or the key is registered, NeedsApproval, RefusedByPeer.
        """
        check_operator_name(public.name)
        what = deed("operator.add", public.name, public.fingerprint)
        self._before(what)
        with self._write() as db:
            if self.policy() is None:
                if len(pin) != PIN_LENGTH:
                    raise ValueError(f"a pin has {PIN_LENGTH} bytes")
                self._put_policy(db, Policy(pin, []))
            facts = self._approved(db, what)
            self._record(db, what.operation, operator=public.name, fingerprint=public.fingerprint, **facts)
            self._insert_operator(db, public)

    def remove_operator(self, name: str) -> None:
        """Let somebody sign no more; what he signed and was not used yet is worth nothing.

        Raises UsageError for one who is not registered, or who is one of the last two while anything needs two;
        NeedsApproval, RefusedByPeer.
        """
        self._before(_removal(self._known_operator(name)))
        with self._write() as db:
            found = self._known_operator(name)
            what = _removal(found)
            if required(self.policy()) and len(self.operators()) <= LEAST:
                raise UsageError(
                    f"with {name!r} gone fewer than {LEAST} operators would be left, and nothing could be approved",
                    "add another one first",
                )
            facts = self._approved(db, what)
            self._record(db, what.operation, operator=name, fingerprint=found.public.fingerprint, **facts)
            db.execute("DELETE FROM operators WHERE name = ?", (name,))

    def require_approval(self, kinds: Sequence[str]) -> list[str]:
        """Have ``kinds`` need two operators from now on; return all that do.

        Raises UsageError for an unknown kind or fewer than two operators; NeedsApproval, RefusedByPeer.
        """
        return self._change_policy("four-eyes.require", kinds)

    def stop_requiring(self, kinds: Sequence[str]) -> list[str]:
        """Have ``kinds`` need two operators no more; return those that still do. Raises as `require_approval`."""
        return self._change_policy("four-eyes.stop", kinds)

    def _change_policy(self, operation: str, kinds: Sequence[str]) -> list[str]:
        what = deed_of_policy(operation, tuple(kinds))
        if len(self.operators()) < LEAST:
            raise UsageError(f"fewer than {LEAST} operators are registered here", "transporter operator add")
        self._before(what)
        with self._write() as db:
            policy = self.policy()
            if policy is None:
                raise self._damaged()
            before = set(policy.kinds)
            after = before | set(kinds) if operation == "four-eyes.require" else before - set(kinds)
            if after == before:
                raise UsageError("that is so already", "nothing to do: transporter four-eyes show")
            facts = self._approved(db, what)
            self._record(db, what.operation, kinds=list(what.subject), **facts)
            self._put_policy(db, Policy(policy.pin, sorted(after)))
        return required(self.policy())

    # ---- approvals ----

    def present(self, text: str) -> None:
        """Hold an approval ready for the next deed, which must be the one it is for. Raises as `apply_approval`."""
        signed = read_approval(text)
        self._check(signed)
        self._refuse_used(signed)
        self._presented = signed

    def apply_approval(self, text: str) -> ApprovalInfo:
        """Take up an approval for a deed that is done later, perhaps by the daemon.

        Raises DamagedData, UnsupportedFormat; RefusedByPeer: of another node, expired, used or taken up already, not by
        two operators who are registered now.
        """
        signed = read_approval(text)
        with self._write() as db:
            self._refuse_used(signed)
            self._store(db, signed)
        return self._info(signed, 0)

    def approvals(self) -> list[ApprovalInfo]:
        """Return all approvals that were taken up, oldest first."""
        with self._read() as db:
            rows = db.execute("SELECT approval, used_ns FROM approvals ORDER BY applied_ns, request").fetchall()
        return [self._info(parse_approval(data), used_ns) for data, used_ns in rows]

    def prove_approvals(self) -> int:
        """Prove every approval that the audit trail names: both signatures, for the very deed; return how many.

        The trail itself is proved by `AuditTrail.verify`. Raises DamagedData.
        """
        with self._read() as db:
            kept = dict(db.execute("SELECT hash, approval FROM approvals").fetchall())
        return prove_entries(list(self.audit.entries()), kept, [each.public for each in self.operators()])

    def needs_approval(self, what: Deed) -> bool:
        """Tell whether two operators must have signed for ``what``."""
        if what.operation == "four-eyes.require":
            return True
        kinds = required(self.policy())
        return any(kind in kinds or (kind == OPERATORS and kinds) for kind in what.kinds)

    @contextmanager
    def approved(self, what: Deed, event: str, **facts: Fact) -> Iterator[None]:
        """Use up the approval of a deed that is done within, outside this database: short, and all or nothing.

        The entry comes first. Raises NeedsApproval, RefusedByPeer.
        """
        self._before(what)
        with self._write() as db:
            self._record(db, event, **facts, **self._approved(db, what))
            yield

    # ---- for each deed ----

    def check_approved(self, what: Deed) -> None:
        """Raise NeedsApproval, RefusedByPeer if ``what`` cannot be done now: before anybody types for it."""
        if self._presented is not None:
            self._check(self._presented)
            _refuse_other(self._presented, what)
        elif self.needs_approval(what) and self._waiting(what) is None:
            raise _needed(what)

    def _before(self, what: Deed) -> None:
        """Do `check_approved`, and store what was presented. Not within a transaction."""
        self.check_approved(what)
        if self._presented is not None:
            with self._write() as db:
                self._store(db, self._presented)
            self._presented = None

    def _approved(self, db: sqlite3.Connection, what: Deed) -> dict[str, Fact]:
        """Use up the approval of ``what`` in the transaction under way; return the facts of it for the audit trail.

        One that is there is used also where none is needed: who gave it wants it to be seen.
        """
        signed = self._waiting(what)
        if signed is None:
            if self.needs_approval(what):
                raise _needed(what)
            return {}
        db.execute("UPDATE approvals SET used_ns = ? WHERE request = ?", (self._clock.now_ns(), signed.asked.id))
        return {"approved": str(what), "approved_by": list(self._names(signed)), "approval": signed.hash.hex()}

    # ---- within ----

    def _waiting(self, what: Deed) -> SignedApproval | None:
        """Return an approval of ``what`` that can be used now."""
        query = """SELECT approval FROM approvals WHERE operation = ? AND subject = ? AND used_ns = 0
            ORDER BY applied_ns, request"""
        with self._read() as db:
            rows = db.execute(query, (what.operation, msgspec.msgpack.encode(what.subject))).fetchall()
        for (data,) in rows:
            try:
                signed = parse_approval(data)
                self._check(signed)
                _refuse_other(signed, what)
            except RefusedByPeer:
                continue  # expired, or an operator is gone
            return signed
        return None

    def _store(self, db: sqlite3.Connection, signed: SignedApproval) -> None:
        """Keep an approval for its deed; it may be there already, from an attempt that failed for other reasons."""
        now, request = self._clock.now_ns(), signed.request
        self._check(signed)
        self._refuse_used(signed)
        db.execute("DELETE FROM approvals WHERE used_ns = 0 AND expires_ns < ?", (now,))
        if db.execute("SELECT count(*) FROM approvals WHERE used_ns = 0").fetchone()[0] >= MAX_WAITING:
            raise RefusedByPeer(f"{MAX_WAITING} approvals wait to be used already", "use them, or let them expire")
        subject = msgspec.msgpack.encode(request.subject)
        row = (signed.asked.id, signed.hash, request.operation, subject, request.expires_ns, now, signed.data)
        columns = "request, hash, operation, subject, expires_ns, applied_ns, approval"
        db.execute(f"INSERT OR IGNORE INTO approvals ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _check(self, signed: SignedApproval) -> None:
        """Refuse what does not hold here and now. Raises RefusedByPeer."""
        policy = self.policy()
        if policy is None:
            raise RefusedByPeer("no operator was ever registered here", "register two: transporter operator add")
        if signed.request.pin != policy.pin:
            raise RefusedByPeer(
                f"the approval is for the node {signed.request.node!r} with another identity than this one",
                "ask for one here",
            )
        check_time(signed.request, self._clock)
        self._names(signed)
        with self._read() as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'imported'").fetchone()
        # Nobody knows what was used between a bundle's export and its import.
        if row is not None and signed.request.created_ns <= int.from_bytes(row[0], "big"):
            raise RefusedByPeer("the approval is older than the import of this home", "ask for a new one")

    def _refuse_used(self, signed: SignedApproval) -> None:
        with self._read() as db:
            row = db.execute("SELECT used_ns FROM approvals WHERE request = ?", (signed.asked.id,)).fetchone()
        if row is not None and row[0]:
            raise RefusedByPeer("the approval was used already", "ask for a new one: transporter approval request")

    def _names(self, signed: SignedApproval) -> tuple[str, str]:
        """Return what the two are called here. Raises RefusedByPeer where one is not registered (any more)."""
        known = {each.public.key: each.public.name for each in self.operators()}
        for public in (signed.request.asker, signed.approver):
            if public.key not in known:
                raise RefusedByPeer(
                    f"the approval is signed by an operator who is not registered here ({public.name!r},"
                    f" {public.fingerprint})",
                    "have registered operators sign: transporter operator list",
                )
        return known[signed.request.operator], known[signed.approval.operator]

    def _info(self, signed: SignedApproval, used_ns: int) -> ApprovalInfo:
        names = (signed.request.name, signed.approval.name)
        return ApprovalInfo(signed.request.deed, names, signed.hash, signed.request.expires_ns, used_ns)


def _removal(found: OperatorInfo) -> Deed:
    return deed("operator.remove", found.public.name, found.public.fingerprint)


def _refuse_other(signed: SignedApproval, what: Deed) -> None:
    if signed.request.deed != what:
        raise RefusedByPeer(f"the approval is for `{signed.request.deed}`, and this is `{what}`", "ask for another")


def _needed(what: Deed) -> NeedsApproval:
    return NeedsApproval(
        f"two operators must approve `{what}`",
        f"transporter approval request {what} --key FILE; then `approval sign` by another; then this with --approval",
    )

"""Proving, later, that two operators signed for what the audit trail says they approved of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transporter.errors import DamagedData
from transporter.keys.approval import SignedApproval, parse_approval
from transporter.keys.operator_key import PublicOperator

Entry = Mapping[str, Any]


def prove_entries(trail: Sequence[Entry], kept: Mapping[bytes, bytes], now: Sequence[PublicOperator]) -> int:
    """Prove every approval that ``trail`` names; return how many.

    ``kept``: approvals by their hashes; ``now``: the operators of today. Both signatures must fit, be of those who were
    registered by then under the names of the entry, and be for the very operation. Raises DamagedData.
    """
    keys = _keys_before(trail, now)
    count = 0
    for entry in trail:
        if entry["event"] == "operator.add":
            keys[entry["operator"]] = entry["fingerprint"]
        if "approval" not in entry:
            continue
        data = kept.get(bytes.fromhex(entry["approval"]))
        if data is None or not _proves(parse_approval(data), entry, keys):
            raise DamagedData(
                f"entry {entry['n']} of the audit trail names an approval that does not prove it",
                "find out who could write to this home",
            )
        count += 1
    return count


def _keys_before(trail: Sequence[Entry], now: Sequence[PublicOperator]) -> dict[str, str]:
    """Return name → fingerprint of operators whose registration is not in the trail, as it was begun anew since."""
    keys: dict[str, str] = {}
    added: set[str] = set()
    began = False
    for entry in trail:
        began = began or entry["event"] == "audit.begun-anew"
        if entry["event"] == "operator.add":
            added.add(entry["operator"])
        elif entry["event"] == "operator.remove" and entry["operator"] not in added:
            keys.setdefault(entry["operator"], entry["fingerprint"])
    today = {public.name: public.fingerprint for public in now if public.name not in added}
    return today | keys if began else {}


def _proves(signed: SignedApproval, entry: Entry, keys: Mapping[str, str]) -> bool:
    named = entry["approved_by"]
    signers = [signed.request.asker.fingerprint, signed.approver.fingerprint]
    names = [keys.get(str(name), "") for name in named] if isinstance(named, list) else []
    return names == signers and entry["approved"] == str(signed.request.deed)

"""Something signed, as text that survives any mail: what recoveries and approvals travel in.

-----BEGIN TRANSPORTER RECOVERY kind-----      (or TRANSPORTER APPROVAL kind)
base64 in lines of 64, of msgpack [body, signature 64]
-----END kind-----
"""

from __future__ import annotations

import base64
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from transporter.errors import DamagedData
from transporter.keys.node_key import SIGNATURE_LENGTH

MAX_TEXT: Final = 64 << 10
"""Characters at most: a request with sixteen slots has 20,000."""

RECOVERY: Final = "RECOVERY"
APPROVAL: Final = "APPROVAL"

T = TypeVar("T")


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A body and its signature; whose it is, the body says."""

    body: Annotated[bytes, Meta(max_length=32 << 10)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_LENGTH, max_length=SIGNATURE_LENGTH)]


def armour(kind: str, data: bytes, of: str = RECOVERY) -> str:
    """Return ``data`` as text. ``kind``: REQUEST or RESPONSE; ``of``: RECOVERY or APPROVAL."""
    text = base64.b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN TRANSPORTER {of} {kind}-----", *lines, f"-----END {kind}-----", ""])


def read_armour(kind: str, text: str, of: str = RECOVERY) -> Signed:
    """Return what is in an armour of that kind. Raises DamagedData."""
    lines = text.strip().splitlines() if len(text) <= MAX_TEXT else []
    ends = [f"-----BEGIN TRANSPORTER {of} {kind}-----", f"-----END {kind}-----"]
    if len(lines) < 3 or [lines[0], lines[-1]] != ends:
        raise DamagedData(f"this is no {of.lower()} {kind.lower()}, or only a part of one", "copy the whole file")
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError:
        raise altered(kind.lower()) from None
    if armour(kind, data, of).splitlines() != lines:
        # The last letter has bits that mean nothing: only one form is accepted.
        raise altered(kind.lower())
    return decode(kind.lower(), data, Signed)


def decode(what: str, data: bytes, kind: type[T]) -> T:
    """Return a msgpack of that kind. Raises DamagedData."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError):  # ValueError: text that is not UTF-8
        raise altered(what) from None


def altered(what: str) -> DamagedData:
    """Return the error for a request or response that is not as it was made."""
    return DamagedData(f"the {what} was altered on its way, or belongs to another", "send it again, as a whole")

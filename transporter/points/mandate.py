"""A mandate: leave for one node to store some restore points at another, in the name of a third that conducts the copy.

The conductor is a tenant of both. It signs which points (and what their hashes are) may be stored where; the source
shows that to the target; the target takes them in as the conductor's own. It is good for nothing else.

mandate = msgpack [body, signature 64], body = msgpack of the fields of `Mandate`, in their order
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from protocol.limits import MAX_MANDATE, MAX_MANDATE_POINTS, MAX_NAME
from transporter.errors import RefusedByPeer
from transporter.keys.derive import COPY_MANDATE, bind
from transporter.keys.node_key import PUBLIC_LENGTH, SIGNATURE_LENGTH, NodeKey, is_signed, pin_of

VERSION = 1
# A copy of many terabytes over a slow line takes days, and shows its mandate again whenever it dials again.
VALID_SECONDS = 7 * 86_400
# Clocks of two sites.
SKEW_SECONDS = 600
_Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Id32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
# Logged by the target: no control characters.
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Mandate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is allowed. ``public``: the conductor's key; ``source`` and ``target``: pins; ``name``: of the chunks there.

    ``repository`` and ``job``: where the points go; ``points``: (id, hash where it was made). Times in ns since 1970.
    """

    version: int
    public: Annotated[bytes, Meta(min_length=PUBLIC_LENGTH, max_length=PUBLIC_LENGTH)]
    source: _Id32
    target: _Id32
    repository: _Name
    job: _Name
    name: _Id16
    made_ns: _Time
    ends_ns: _Time
    points: Annotated[list[tuple[_Id16, _Id32]], Meta(min_length=1, max_length=MAX_MANDATE_POINTS)]

    @property
    def conductor(self) -> bytes:
        """The pin of who signed it."""
        return pin_of(self.public)

    def allows(self, point: bytes, point_hash: bytes) -> bool:
        """Tell whether this point may be stored."""
        return (point, point_hash) in self.points


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    body: Annotated[bytes, Meta(max_length=MAX_MANDATE)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_LENGTH, max_length=SIGNATURE_LENGTH)]


def make_mandate(key: NodeKey, mandate: Mandate) -> bytes:
    """Return a signed mandate as it travels."""
    body = msgspec.msgpack.encode(mandate)
    return msgspec.msgpack.encode(_Signed(body, key.sign(bind(COPY_MANDATE, body))))


def read_mandate(raw: bytes | memoryview, now_ns: int) -> Mandate:
    """Parse a mandate, and prove it. Raises RefusedByPeer for one that is malformed, forged or over."""
    try:
        if len(raw) > MAX_MANDATE:
            raise ValueError("too long")
        signed = msgspec.msgpack.decode(raw, type=_Signed)
        mandate = msgspec.msgpack.decode(signed.body, type=Mandate)
        if mandate.version != VERSION:
            raise ValueError("another version")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RefusedByPeer("this is no mandate for a copy", "update the transporter that conducts it") from None
    if not is_signed(mandate.public, bind(COPY_MANDATE, signed.body), signed.signature):
        raise RefusedByPeer("the mandate was not signed by who it says", "find out who altered it")
    skew = SKEW_SECONDS * 10**9
    if not mandate.made_ns - skew <= now_ns <= mandate.ends_ns + skew:
        raise RefusedByPeer("the mandate is over, or not yet valid", "copy again; compare the clocks of the nodes")
    return mandate

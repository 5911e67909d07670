"""Request and approval: how two operators sign for one deed at one node. Synchronous, no files, no database.

    request   = body ‖ signature, in armour   body: msgpack of `Request`; signature by the operator who asks, over
                                              bind("approval request", body)
    approval  = body ‖ signature, in armour   body: msgpack of `Approval`, which holds the whole request; signature by
                                              the second operator, over bind("approval", body)
    id        = BLAKE3(bind("approval request", request's body)): a request is used once; so whoever signs one twice
                makes nothing that could be used twice
    hash      = BLAKE3(bind("approval", approval's body)): what the audit trail names

What binds what: the request names the node by its pin, the operation and its subject word for word, a nonce, and the
time until which it holds; both signatures are over all of it. Whether the keys are those of registered operators knows
the node alone (approval_table.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from blake3 import blake3
from msgspec import Meta

from transporter.clock import Clock
from transporter.errors import RefusedByPeer, UnsupportedFormat, UsageError
from transporter.keys.armour import APPROVAL as FAMILY
from transporter.keys.armour import Signed, altered, armour, decode, read_armour
from transporter.keys.deeds import MAX_WORD, MAX_WORDS, OPERATIONS, Deed, sound_subject
from transporter.keys.derive import APPROVAL, APPROVAL_REQUEST, bind
from transporter.keys.operator_key import MAX_NAME, OperatorKey, PublicOperator, is_signed_by, sound_name

HOUR_NS: Final = 3600 * 10**9
DEFAULT_HOURS: Final = 24
"""How long a request holds: a day for the second operator to be found."""

MAX_HOURS: Final = 7 * 24
"""A week at most: nobody remembers in a month what he signed for."""

CLOCK_SKEW_NS: Final = HOUR_NS
"""What a request may be ahead of the clock of whoever looks at it."""

PIN_LENGTH: Final = 32
_VERSION: Final = 1
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Word = Annotated[str, Meta(min_length=1, max_length=MAX_WORD)]


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Let this be done at the node with ``pin``. ``node``, ``name`` (who asks): as they call themselves, for people."""

    version: int
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    created_ns: _Time
    expires_ns: _Time
    node: _Name
    pin: Annotated[bytes, Meta(min_length=PIN_LENGTH, max_length=PIN_LENGTH)]
    operation: Annotated[str, Meta(min_length=1, max_length=64)]
    subject: Annotated[list[_Word], Meta(min_length=1, max_length=MAX_WORDS)]
    name: _Name
    operator: _Key

    @property
    def deed(self) -> Deed:
        """What is to be done."""
        return Deed(self.operation, tuple(self.subject))

    @property
    def asker(self) -> PublicOperator:
        """Who asks, by the name that he gives himself."""
        return PublicOperator(self.name, self.operator)


class Approval(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Yes. ``request``: its body; ``request_signature``: of who asked; ``operator``: who approves."""

    version: int
    request: Annotated[bytes, Meta(max_length=12 << 10)]
    request_signature: _Signature
    signed_ns: _Time
    name: _Name
    operator: _Key


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request whose signature fits the key in it."""

    request: Request
    body: bytes
    signature: bytes

    @property
    def id(self) -> bytes:
        """32 bytes; see the head of the file."""
        return blake3(bind(APPROVAL_REQUEST, self.body)).digest()


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """An approval whose two signatures fit the two keys in it, which differ."""

    approval: Approval
    asked: SignedRequest
    data: bytes

    @property
    def request(self) -> Request:
        """What it approves."""
        return self.asked.request

    @property
    def hash(self) -> bytes:
        """32 bytes; see the head of the file."""
        return blake3(bind(APPROVAL, decode("approval", self.data, Signed).body)).digest()

    @property
    def approver(self) -> PublicOperator:
        """Who approves, by the name that he gives himself."""
        return PublicOperator(self.approval.name, self.approval.operator)


def make_request(
    operator: OperatorKey, deed: Deed, *, node: str, pin: bytes, clock: Clock, hours: int = DEFAULT_HOURS
) -> str:
    """Ask for an approval: return the request as text. Raises UsageError for a time that is out of range."""
    if not 1 <= hours <= MAX_HOURS:
        raise UsageError(f"an approval holds 1 to {MAX_HOURS} hours, not {hours}", f"leave it out: {DEFAULT_HOURS}")
    now = clock.now_ns()
    request = Request(
        version=_VERSION,
        nonce=clock.random_bytes(16),
        created_ns=now,
        expires_ns=now + hours * HOUR_NS,
        node=node,
        pin=pin,
        operation=deed.operation,
        subject=list(deed.subject),
        name=operator.public.name,
        operator=operator.public.key,
    )
    body = msgspec.msgpack.encode(request)
    signed = Signed(body, operator.sign(bind(APPROVAL_REQUEST, body)))
    return armour("REQUEST", msgspec.msgpack.encode(signed), FAMILY)


def read_request(text: str) -> SignedRequest:
    """Return a request that proves itself by the key in it. Raises DamagedData, UnsupportedFormat."""
    signed = read_armour("REQUEST", text, FAMILY)
    return _request(signed.body, signed.signature)


def approve(operator: OperatorKey, asked: SignedRequest, clock: Clock) -> str:
    """Sign for what is asked: return the approval as text. Raises RefusedByPeer: expired, or by the asker himself."""
    check_time(asked.request, clock)
    if operator.public.key == asked.request.operator:
        raise same_operator()
    approval = Approval(
        _VERSION, asked.body, asked.signature, clock.now_ns(), operator.public.name, operator.public.key
    )
    body = msgspec.msgpack.encode(approval)
    signed = Signed(body, operator.sign(bind(APPROVAL, body)))
    return armour("RESPONSE", msgspec.msgpack.encode(signed), FAMILY)


def read_approval(text: str) -> SignedApproval:
    """Return an approval that proves itself by the keys in it. Raises DamagedData, UnsupportedFormat, RefusedByPeer."""
    signed = read_armour("RESPONSE", text, FAMILY)
    return parse_approval(msgspec.msgpack.encode(signed))


def parse_approval(data: bytes) -> SignedApproval:
    """As `read_approval`, of the bytes in the armour."""
    signed = decode("approval", data, Signed)
    approval = decode("approval", signed.body, Approval)
    if approval.version != _VERSION:
        raise UnsupportedFormat("the approval is of a newer version", "use the version of the program that made it")
    if not sound_name(approval.name) or not is_signed_by(
        approval.operator, bind(APPROVAL, signed.body), signed.signature
    ):
        raise altered("approval")
    asked = _request(approval.request, approval.request_signature)
    if approval.operator == asked.request.operator:
        raise same_operator()
    return SignedApproval(approval, asked, data)


def check_time(request: Request, clock: Clock) -> None:
    """Refuse a request that has expired, holds too long, or lies in the future. Raises RefusedByPeer."""
    now = clock.now_ns()
    if now > request.expires_ns:
        raise RefusedByPeer("the approval or its request has expired", "ask anew: transporter approval request")
    if request.expires_ns - request.created_ns > MAX_HOURS * HOUR_NS:
        raise RefusedByPeer(f"the request holds longer than {MAX_HOURS} hours", "ask anew, for a shorter time")
    if request.created_ns > now + CLOCK_SKEW_NS:
        raise RefusedByPeer("the request was made in the future", "set the clocks of both machines")


def same_operator() -> RefusedByPeer:
    """Return the error for two signatures by one key."""
    return RefusedByPeer("who asks cannot approve", "have another operator sign")


def _request(body: bytes, signature: bytes) -> SignedRequest:
    request = decode("request", body, Request)
    if request.version != _VERSION or request.operation not in OPERATIONS:
        raise UnsupportedFormat("the request is of a newer version", "use the version of the program that made it")
    # They are shown to whoever decides, on a terminal.
    if not (sound_name(request.name) and request.node.isprintable() and sound_subject(request.subject)):
        raise altered("request")
    if not is_signed_by(request.operator, bind(APPROVAL_REQUEST, body), signature):
        raise altered("request")
    return SignedRequest(request, body, signature)

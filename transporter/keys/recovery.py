"""Request and response of a recovery: how a node gets one storage key from the escrow, and nobody on the way does.

    request   = body ‖ signature, in armour     body: msgpack of `Request`; signature by the node (node_key.py) over
                                                bind("recovery request", body)
    response  = body ‖ signature, in armour     body: msgpack of `Response`; signature by the keyset (keyset.py) over
                                                bind("recovery response", body)

    one-time key     X25519, of the node, for this request alone; its private half stays at the node
    shared           X25519(ephemeral of the escrow, one-time key)                        (RFC 7748)
    key ‖ commitment = HKDF-SHA256(shared, salt = ephemeral ‖ one-time, "recovery response", 64)
    sealed           AES-256-GCM(key, nonce 0, storage key), AAD = request hash ‖ ephemeral
                     (a key for one encryption: so a fixed nonce is safe here)

What binds what:

- The response opens for the node that asked alone, for that request alone: its hash is in the AAD; and nobody but the
  escrow could have made it: the node knows the keyset, whose fingerprint people compared.
- The escrow computes the place from tenant, repository and point as the request names them, and opens slots at that
  place alone. It opens none but those that a node made which it knows, and that the asking node may have opened.
- Only a key that opens the point's ring is released. ``job`` is said by the asking node and bound to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Meta

from transporter.clock import Clock
from transporter.errors import DamagedData, RefusedByPeer, UnsupportedFormat
from transporter.keys.armour import Signed, altered, armour, decode, read_armour
from transporter.keys.derive import KEY_LENGTH, RECOVERY_REQUEST, RECOVERY_RESPONSE, bind, hkdf, same
from transporter.keys.key_ring import MAX_RING
from transporter.keys.keyset import PrivateKeyset, PublicKeyset
from transporter.keys.keyset_open import MAX_SLOTS, key_of
from transporter.keys.node_key import PUBLIC_LENGTH, NodeKey, is_signed
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import MAX_WRAPPED, point_context

LIFETIME_NS: Final = 7 * 86400 * 10**9
"""How long a request may be answered, and its answer applied: a week for people to be found."""

CLOCK_SKEW_NS: Final = 3600 * 10**9
"""What a request may be ahead of the escrow's clock."""

_VERSION: Final = 1
_ZERO_NONCE: Final = bytes(12)
_Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Id32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Name = Annotated[str, Meta(min_length=1, max_length=255)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Please open this point. ``node``: the public key of who asks; ``name`` and ``job`` are what it says.

    ``slots``: the point's slots of ``keyset``; ``ring_length``, ``ring_first``: what proves the key that comes out.
    """

    version: int
    nonce: _Id16
    created_ns: _Time
    expires_ns: _Time
    name: _Name
    node: Annotated[bytes, Meta(min_length=PUBLIC_LENGTH, max_length=PUBLIC_LENGTH)]
    tenant: _Name
    repository_id: _Id16
    job: _Name
    point: _Id16
    keyset: _Id16
    slots: Annotated[list[Annotated[bytes, Meta(max_length=1024)]], Meta(min_length=1, max_length=MAX_SLOTS)]
    ring_length: Annotated[int, Meta(ge=1, le=MAX_RING)]
    ring_first: Annotated[bytes, Meta(max_length=MAX_WRAPPED)]
    one_time: _Id32

    @property
    def context(self) -> bytes:
        """The place of the point."""
        return point_context(self.tenant, self.repository_id, self.point)


class Response(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The storage key, for who asked. ``request``: hash of the request that this answers."""

    version: int
    request: _Id32
    ephemeral: _Id32
    commitment: _Id32
    sealed: Annotated[bytes, Meta(min_length=KEY_LENGTH + 16, max_length=KEY_LENGTH + 16)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it travels, its hash, and the one-time private key, which stays here."""

    text: str
    hash: bytes
    request: Request
    one_time: bytes = field(repr=False)


def request_hash(body: bytes) -> bytes:
    """Return what a request is known by."""
    return blake3(bind(RECOVERY_REQUEST, body)).digest()


def make_request(
    node: NodeKey,
    *,
    name: str,
    tenant: str,
    repository_id: bytes,
    job: str,
    point: bytes,
    keyset: bytes,
    slots: list[bytes],
    ring: tuple[int, bytes],
    clock: Clock,
) -> Asked:
    """Make and sign a request for the storage key in ``slots``, which opens ``ring`` (its length, and its first).

    Raises DamagedData for facts that no request can have: they come from a repository.
    """
    private = X25519PrivateKey.from_private_bytes(clock.random_bytes(KEY_LENGTH))
    now = clock.now_ns()
    request = Request(
        version=_VERSION,
        nonce=clock.random_bytes(16),
        created_ns=now,
        expires_ns=now + LIFETIME_NS,
        name=name,
        node=node.public,
        tenant=tenant,
        repository_id=repository_id,
        job=job,
        point=point,
        keyset=keyset,
        slots=slots[:MAX_SLOTS],
        ring_length=ring[0],
        ring_first=ring[1],
        one_time=private.public_key().public_bytes_raw(),
    )
    body = msgspec.msgpack.encode(request)
    try:
        _decode_request(body)
    except DamagedData:
        raise DamagedData(
            "what the repository says of this restore point is impossible", "run scrub there, or use another copy"
        ) from None
    signature = node.sign(bind(RECOVERY_REQUEST, body))
    text = armour("REQUEST", msgspec.msgpack.encode(Signed(body, signature)))
    return Asked(text, request_hash(body), request, private.private_bytes_raw())


def read_request(text: str) -> tuple[Request, bytes]:
    """Return a request that proves itself by the key in it, and its hash; who that key is, is the caller's to know.

    Raises DamagedData, UnsupportedFormat.
    """
    signed = read_armour("REQUEST", text)
    request = _decode_request(signed.body)
    if not is_signed(request.node, bind(RECOVERY_REQUEST, signed.body), signed.signature):
        raise altered("request")
    return request, request_hash(signed.body)


def _decode_request(body: bytes) -> Request:
    request = decode("request", body, Request)
    if request.version != _VERSION:
        raise UnsupportedFormat("the request is of a newer version", "use the version of the program that made it")
    # They are shown to whoever decides, on a terminal.
    if not all(word.isprintable() for word in (request.name, request.tenant, request.job)):
        raise altered("request")
    return request


def answer_request(
    request: Request, asked: bytes, keyset: PrivateKeyset, may_open: Callable[[bytes], bool], clock: Clock
) -> str:
    """Return the response, once the asking node itself was checked.

    ``may_open``: whether slots made by the node with that pin may be opened for the asking node.

    Raises:
        RefusedByPeer: expired.
        IdentityRefused: the point was sealed by a node whose points this one may not have opened, or an unknown one.
        NoKey: no slot of this keyset; or what is in them does not open the point.
        DamagedData: no slot is as it was made.
    """
    check_time(request, clock)
    ring = request.ring_length, request.ring_first
    key = key_of(request.slots, keyset, request.context, ring, may_open)
    ephemeral = X25519PrivateKey.from_private_bytes(clock.random_bytes(KEY_LENGTH))
    public = ephemeral.public_key().public_bytes_raw()
    one_time, commitment = _derive(_shared(ephemeral, request.one_time), public, request.one_time)
    sealed = AESGCM(one_time).encrypt(_ZERO_NONCE, key.secret, _associated(asked, public))
    body = msgspec.msgpack.encode(Response(_VERSION, asked, public, commitment, sealed))
    signature = keyset.sign(bind(RECOVERY_RESPONSE, body))
    return armour("RESPONSE", msgspec.msgpack.encode(Signed(body, signature)))


def check_time(request: Request, clock: Clock) -> None:
    """Refuse a request that has expired, or lies in the future. Raises RefusedByPeer."""
    now = clock.now_ns()
    if now > request.expires_ns or request.expires_ns - request.created_ns > LIFETIME_NS:
        raise RefusedByPeer("the request has expired", "make a new one: transporter recover request POINT")
    if request.created_ns > now + CLOCK_SKEW_NS:
        raise RefusedByPeer("the request was made in the future", "set the clocks of both machines")


def read_response(text: str, keyset_of: Callable[[bytes], PublicKeyset]) -> Response:
    """Return a response that the escrow made. ``keyset_of`` gives the keyset that a request (its hash) asked.

    Raises DamagedData, UnsupportedFormat, and whatever ``keyset_of`` does.
    """
    signed = read_armour("RESPONSE", text)
    response = decode("response", signed.body, Response)
    if response.version != _VERSION:
        raise UnsupportedFormat("the response is of a newer version", "use the version of the program that made it")
    if not keyset_of(response.request).signed(bind(RECOVERY_RESPONSE, signed.body), signed.signature):
        raise DamagedData(
            "the response was altered on its way, or did not come from the escrow",
            "ask for it again, and be wary of the way it came",
        )
    return response


def open_response(response: Response, one_time: bytes) -> StorageKey:
    """Return the storage key by the one-time key of the request that it answers. Raises DamagedData."""
    private = X25519PrivateKey.from_private_bytes(one_time)
    own = private.public_key().public_bytes_raw()
    key, commitment = _derive(_shared(private, response.ephemeral), response.ephemeral, own)
    if not same(commitment, response.commitment):
        raise altered("response")
    try:
        associated = _associated(response.request, response.ephemeral)
        return StorageKey(AESGCM(key).decrypt(_ZERO_NONCE, response.sealed, associated))
    except InvalidTag:
        raise altered("response") from None


def _shared(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a point of small order: the secret would be no secret
        raise altered("request or response") from None


def _derive(shared: bytes, ephemeral: bytes, one_time: bytes) -> tuple[bytes, bytes]:
    both = hkdf(shared, RECOVERY_RESPONSE, 2 * KEY_LENGTH, ephemeral + one_time)
    return both[:KEY_LENGTH], both[KEY_LENGTH:]


def _associated(asked: bytes, ephemeral: bytes) -> bytes:
    return bind(RECOVERY_RESPONSE, asked, ephemeral)

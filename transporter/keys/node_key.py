"""What a node signs with, and how others check it: its identity's ECDSA P-256 key (FIPS 186-5), apart from any link.

public key   33 bytes, SEC 1 section 2.3.3 compressed
signature    r ‖ s, 32 bytes each, big endian, over SHA-256
pin          SHA-256 of the SubjectPublicKeyInfo (DER): what its peers know the node by
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

PUBLIC_LENGTH: Final = 33
SIGNATURE_LENGTH: Final = 64
_HALF: Final = SIGNATURE_LENGTH // 2
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class NodeKey:
    """The private key of this node's identity."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """The public half."""
        return compressed(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return a signature. ``message`` must begin with what it is for (derive.py), so that it fits nothing else."""
        r, s = decode_dss_signature(self.key.sign(message, _ALGORITHM))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key in its one form."""
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` of ``message`` is by ``public``; False also for bytes that are no key or signature."""
    if len(public) != PUBLIC_LENGTH or len(signature) != SIGNATURE_LENGTH:
        return False
    r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
    try:
        _load(public).verify(encode_dss_signature(r, s), message, _ALGORITHM)
    except (InvalidSignature, ValueError):
        return False
    return True


def pin_of(public: bytes) -> bytes:
    """Return the pin of a public key. Raises ValueError for bytes that are none."""
    spki = _load(public).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def _load(public: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)

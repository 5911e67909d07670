"""A node's public identity as a file: its name, and its public key as PEM (RFC 7468)."""

from __future__ import annotations

import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from transporter.errors import DamagedData
from transporter.link.identity import Identity

MAX_FILE: Final = 4096
_NAME: Final = re.compile(r"name: ([^\x00-\x1f\x7f-\x9f]{1,200})\n")


def encode_identity(identity: Identity) -> str:
    """Return the file."""
    pem = identity.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"name: {identity.name}\n{pem.decode()}"


def decode_identity(data: bytes) -> tuple[str, bytes]:
    """Return the name and the SubjectPublicKeyInfo. Raises DamagedData for anything but an ECDSA P-256 key."""
    try:
        text = data.decode() if len(data) <= MAX_FILE else ""
        match = _NAME.match(text)
        key: object = serialization.load_pem_public_key(text[match.end() :].encode()) if match else None
    except (ValueError, UnsupportedAlgorithm):
        match, key = None, None
    if (
        match is None
        or not match[1].isprintable()
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or key.curve.name != "secp256r1"
    ):
        raise DamagedData("this is no identity of a node, or only a part of one", "run `identity export` there again")
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return match[1], spki

"""Key derivation: HKDF-SHA256 (RFC 5869) under one label for each purpose, and unambiguous contexts.

Every label stands in this file, so that one look shows that no two purposes share one.
"""

from __future__ import annotations

import hmac
from typing import Final

KEY_LENGTH: Final = 32
"""Bytes of every symmetric key here: AES-256, HMAC-SHA256, keyed BLAKE3."""

_DIGEST: Final = 32  # of SHA-256
_PREFIX: Final = b"transporter-pair v1 "

PASSWORD_KEK: Final = _PREFIX + b"password kek"
PASSWORD_VERIFIER: Final = _PREFIX + b"password verifier"
WRAP: Final = _PREFIX + b"wrap"
SESSION_KEY_ID: Final = _PREFIX + b"session key id"
SESSION_CHUNKS: Final = _PREFIX + b"session key chunks"
METAKEY_ID: Final = _PREFIX + b"metakey id"
METAKEY_CHUNKS: Final = _PREFIX + b"metakey chunks"
METAKEY_MAC: Final = _PREFIX + b"metakey point mac"
METAKEY_FSI: Final = _PREFIX + b"metakey file-system index"
STORAGE_RING: Final = _PREFIX + b"storage key ring"
AUDIT_TRAIL: Final = _PREFIX + b"audit trail"
MASTER_ID: Final = _PREFIX + b"master key id"
MASTER_KEK: Final = _PREFIX + b"master key kek"


def hkdf(secret: bytes, label: bytes, length: int = KEY_LENGTH, salt: bytes | None = None) -> bytes:
    """Return ``length`` bytes derived from ``secret`` for the purpose ``label``.

    ``secret`` must be a whole key (32 bytes): with a fixed length, two secrets that give the same output are a
    collision of SHA-256, and this is what makes an output usable as a commitment to the secret.
    """
    if len(secret) != KEY_LENGTH or not 0 < length <= 255 * _DIGEST:
        raise ValueError("a key to derive from has exactly 32 bytes, and gives 1 to 8,160")
    # Written out over OpenSSL's HMAC: an object of the library for each derivation costs five times as much, and every
    # wrapped key is one (tests run Wycheproof's set against this).
    extracted = hmac.digest(salt or bytes(_DIGEST), secret, "sha256")
    block = output = b""
    for number in range(1, -(-length // _DIGEST) + 1):
        block = hmac.digest(extracted, block + label + bytes((number,)), "sha256")
        output += block
    return output[:length]


def same(left: bytes, right: bytes) -> bool:
    """Compare without telling by the time taken where the first difference is."""
    return hmac.compare_digest(left, right)


def bind(*parts: bytes) -> bytes:
    """Join ``parts`` so that no other list of parts gives these bytes: a count, then u32 BE length and bytes each."""
    return len(parts).to_bytes(4, "big") + b"".join(len(part).to_bytes(4, "big") + part for part in parts)

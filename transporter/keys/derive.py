"""Key derivation: HKDF-SHA256 (RFC 5869) under one label for each purpose, and unambiguous contexts.

Every label stands in this file, so that one look shows that no two purposes share one.
"""

from __future__ import annotations

import hmac
import struct
from functools import cache, partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_LENGTH: Final = 32
"""Bytes of every symmetric key here: AES-256, HMAC-SHA256, keyed BLAKE3."""

_DIGEST: Final = 32  # of SHA-256
_U32: Final = struct.Struct(">I")
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
FSI_KEY_ID: Final = _PREFIX + b"file-system index key id"
FSI_CHUNKS: Final = _PREFIX + b"file-system index chunks"
STORAGE_RING: Final = _PREFIX + b"storage key ring"
AUDIT_TRAIL: Final = _PREFIX + b"audit trail"
MASTER_ID: Final = _PREFIX + b"master key id"
MASTER_KEK: Final = _PREFIX + b"master key kek"

KEYSET_LABEL: Final = _PREFIX + b"keyset storage key"
KEYSET_ID: Final = _PREFIX + b"keyset id"
KEYSET_SLOT: Final = _PREFIX + b"keyset slot"
KEYSET_DRILL: Final = _PREFIX + b"keyset drill"
KEYSET_SIGNATURE: Final = _PREFIX + b"keyset signature"
RECOVERY_REQUEST: Final = _PREFIX + b"recovery request"
RECOVERY_RESPONSE: Final = _PREFIX + b"recovery response"
BUNDLE: Final = _PREFIX + b"configuration bundle"
SYNTHETIC_POINT: Final = _PREFIX + b"synthetic point"
COPY_MANDATE: Final = _PREFIX + b"copy mandate"

OPERATOR_ID: Final = _PREFIX + b"operator id"
APPROVAL_REQUEST: Final = _PREFIX + b"approval request"
APPROVAL: Final = _PREFIX + b"approval"


def hkdf(secret: bytes, label: bytes, length: int = KEY_LENGTH, salt: bytes | None = None) -> bytes:
    """Return ``length`` bytes derived from ``secret`` for the purpose ``label``.

    ``secret`` must be a whole key (32 bytes): with a fixed length, two secrets that give the same output are a
    collision of SHA-256, and this is what makes an output usable as a commitment to the secret.
    """
    if len(secret) != KEY_LENGTH or not 0 < length <= 255 * _DIGEST:
        raise ValueError("a key to derive from has exactly 32 bytes, and gives 1 to 8,160")
    return _library()(length, salt, label).derive(secret)


@cache
def _library() -> Callable[[int, bytes | None, bytes], HKDF]:
    """Import what derives only when it is asked for: a worker that reads files needs a label or two from here."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return partial(HKDF, SHA256())


def same(left: bytes, right: bytes) -> bool:
    """Compare without telling by the time taken where the first difference is."""
    return hmac.compare_digest(left, right)


def bind(*parts: bytes) -> bytes:
    """Join ``parts`` so that no other list of parts gives these bytes: a count, then u32 BE length and bytes each."""
    return _U32.pack(len(parts)) + b"".join([_U32.pack(len(part)) + part for part in parts])

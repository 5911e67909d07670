"""Wrapping of keys by keys: AES-256-GCM under a key of its own for each cryptogram, with commitment.

    cryptogram = version 1 | salt 32 | commitment 32 | AES-256-GCM(key) ‖ tag 16 | checksum 16
    one-time key ‖ commitment = HKDF-SHA256(kek, salt, label, 64)
    nonce = 12 zero bytes; AAD = version and context, length-prefixed
    checksum = BLAKE3(everything before it), first 16 bytes

Each hazard, and where it is met:

- *Nonces.* A KEK lives for years and wraps without anyone counting, so it never encrypts anything itself: each
  cryptogram has its own key, from 32 random bytes of salt, used for one encryption: so a fixed nonce is safe here.
- *Partitioning oracles.* AES-GCM alone lets a forger make one ciphertext that opens under many keys, and so test
  many passwords with one answer. The commitment is checked first; a second KEK for it would be a collision of SHA-256.
- *Lengths.* What is wrapped has a known length, and any other is refused before anything is opened.
- *Three errors.* The checksum needs no key: bytes that rotted fail it (`DamagedData`), so a commitment that does not
  match means another key (`WrongKey`), and a tag that fails after both means another place (the context) or a forger.
"""

from __future__ import annotations

from typing import ClassVar, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey
from transporter.keys.derive import KEY_LENGTH, WRAP, bind, hkdf, same
from transporter.keys.secret import SYSTEM

_VERSION: Final = b"\x01"
_SALT: Final = 32
_COMMITMENT: Final = 32
_TAG: Final = 16
_CHECKSUM: Final = 16
_BODY: Final = 1 + _SALT + _COMMITMENT
_ZERO_NONCE: Final = bytes(12)

_BEGINNING: Final = bind(WRAP, _VERSION, b"")[:-4]

WRAP_OVERHEAD: Final = _BODY + _TAG + _CHECKSUM
"""Bytes that a cryptogram is longer than what it wraps."""

MAX_WRAPPED: Final = 4096
"""Bytes that can be wrapped at most: keys and small groups of keys, never data."""


POINT: Final = "restore point"
"""The purpose of whatever opens a restore point."""


class WrongKey(NoKey):
    """The cryptogram is sound, but this is not the key that wrapped it."""

    code: ClassVar[str] = "wrong-key"


def context(purpose: str, tenant: str, repository_id: bytes, point_id: bytes) -> bytes:
    """Return the place a cryptogram belongs to; it opens nowhere else. Any two different places differ in bytes."""
    return bind(purpose.encode(), tenant.encode("utf-8", "surrogateescape"), repository_id, point_id)


def point_context(tenant: str, repository_id: bytes, point_id: bytes) -> bytes:
    """Return the place of everything that belongs to one restore point."""
    return context(POINT, tenant, repository_id, point_id)


def wrap(kek: bytes, key: bytes, context: bytes, *, clock: Clock = SYSTEM) -> bytes:
    """Return the cryptogram of ``key`` (1 … 4,096 bytes) under ``kek`` (32 bytes), bound to ``context``."""
    if not 1 <= len(key) <= MAX_WRAPPED:
        raise ValueError(f"what is wrapped has 1 to {MAX_WRAPPED} bytes")
    salt = clock.random_bytes(_SALT)
    one_time, commitment = _derive(kek, salt)
    sealed = AESGCM(one_time).encrypt(_ZERO_NONCE, key, _associated(context))
    body = _VERSION + salt + commitment + sealed
    return body + _checksum(body)


def unwrap(kek: bytes, cryptogram: bytes, context: bytes, *, length: int = KEY_LENGTH) -> bytes:
    """Return the key of ``length`` bytes that `wrap` was given.

    Raises:
        DamagedData: bytes were altered, or the cryptogram belongs to another context.
        WrongKey: the bytes are sound, but ``kek`` is not the key that wrapped them.
    """
    check_cryptogram(cryptogram, length)
    one_time, commitment = _derive(kek, cryptogram[1 : 1 + _SALT])
    if not same(commitment, cryptogram[1 + _SALT : _BODY]):
        raise WrongKey("this key does not open what was wrapped by another", "use the password it was made with")
    try:
        return AESGCM(one_time).decrypt(_ZERO_NONCE, cryptogram[_BODY:-_CHECKSUM], _associated(context))
    except InvalidTag:
        raise DamagedData(
            "a wrapped key was altered, or belongs to another place than the one it was found in",
            "run scrub, and restore another point or copy",
        ) from None


def check_cryptogram(cryptogram: bytes, length: int = KEY_LENGTH) -> None:
    """Check everything that needs no key: version, length, checksum. Raises `DamagedData`."""
    if len(cryptogram) != WRAP_OVERHEAD + length or cryptogram[:1] != _VERSION:
        raise DamagedData("a wrapped key has not the form it was written in", "restore another point or copy")
    if not same(_checksum(cryptogram[:-_CHECKSUM]), cryptogram[-_CHECKSUM:]):
        raise DamagedData("a wrapped key is damaged: its checksum does not match", "restore another point or copy")


def _derive(kek: bytes, salt: bytes) -> tuple[bytes, bytes]:
    both = hkdf(kek, WRAP, KEY_LENGTH + _COMMITMENT, salt)
    return both[:KEY_LENGTH], both[KEY_LENGTH:]


def _associated(context: bytes) -> bytes:
    # bind(WRAP, _VERSION, context), of which only the end changes: every cryptogram has one.
    return _BEGINNING + len(context).to_bytes(4, "big") + context


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest(_CHECKSUM)

"""Making a sealed chunk once more, bit for bit as it was: the one case in which a key that was read back encrypts.

Such a key never seals: nobody knows which counters it has used, and AES-GCM with a nonce used twice gives away the
difference of two plaintexts and the key of the tags. Here the counter comes from the end that lost the chunk, which is
not trusted: it may name the counter of another chunk. So what is computed is kept inside until it is proved that this
very chunk was sealed under this very counter: the tag that comes out must be the one that the other end claims.

Why that proves it: the tag covers the nonce, the chunk id, codec, plain length and every byte. Whoever can claim a
valid tag for something that the key has not sealed has forged one, for some 2^-110 a guess. And if the key has sealed
it, what comes out is what the other end had all along: nothing new leaves. Where tags differ nothing leaves at all.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transporter.keys.session_key import MAX_CHUNKS_PER_KEY, Bytes, SessionKey, sealed_aad

TAG_LENGTH = 16


@dataclass(frozen=True, slots=True)
class SealedClaim:
    """What is claimed of a sealed chunk: under which counter, and with which tag. Not proved."""

    counter: int
    tag: bytes


def seal_as_claimed(
    key: SessionKey, claim: SealedClaim, chunk_id: bytes, codec: int, plain_length: int, data: Bytes
) -> bytes | None:
    """Return the sealed chunk that ``key`` once made of ``data`` under the claimed counter; None if no tag proves it.

    Raises nothing for whatever is claimed.
    """
    if not 0 <= claim.counter < MAX_CHUNKS_PER_KEY or len(claim.tag) != TAG_LENGTH or len(chunk_id) != 32:
        return None
    nonce, header, aad = sealed_aad(key.key_id, claim.counter, chunk_id, codec, plain_length)
    sealed = AESGCM(key.chunk_key).encrypt(nonce, bytes(data), aad)
    # Not before the tag is known to be the old one may a single byte of this be seen by anybody else.
    if not hmac.compare_digest(sealed[-TAG_LENGTH:], claim.tag):
        return None
    return header + sealed


def keys_by_id(*groups: Mapping[bytes, SessionKey]) -> dict[bytes, SessionKey]:
    """Return keys by their ids, of several groups."""
    return {key_id: key for group in groups for key_id, key in group.items()}

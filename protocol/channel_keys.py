"""Keys of data channels: Key A or Key B in, one AEAD for each channel, direction and epoch out.

    key(32) ‖ base_nonce(12) ‖ commitment(32) =
        HKDF-Expand-SHA256(input key,
            LABEL ‖ direction u8 ‖ channel u16 ‖ epoch u32 ‖ session 16 ‖ salt 24 ‖ binding 32)

Every part of the info has a fixed length, so that no two inputs share one encoding. There is no Extract step: Key A and
Key B are uniformly random already.

AES-GCM does not commit to its key: one ciphertext can be made that opens under two of them. So each side first shows
the commitment, an independent part of the same derivation, and nothing is decrypted before it was compared.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from protocol import limits
from protocol.errors import LocalProtocolError

LABEL: Final = b"transporter/v1 data\0"
PROOF_LABEL: Final = b"transporter/v1 key b proof\0"
ANSWER_LABEL: Final = b"transporter/v1 answer salt\0"

FROM_INITIATOR: Final = b"\x00"
FROM_ACCEPTOR: Final = b"\x01"

_INFO: Final = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class ChannelKey:
    """What one direction of one channel needs in one epoch."""

    key: bytes = field(repr=False)
    base_nonce: bytes = field(repr=False)
    commitment: bytes


def binding(source_spki_sha256: bytes, target_spki_sha256: bytes, exporter: bytes) -> bytes:
    """Return SHA-256 of both identities and the TLS exporter value (32 bytes each): ties channels to their TLS session.

    A relay that joins two TLS sessions of its own has two exporter values, and so no channel opens.
    """
    _expect(source_spki_sha256, 32, "an identity")
    _expect(target_spki_sha256, 32, "an identity")
    _expect(exporter, 32, "an exporter value")
    return hashlib.sha256(source_spki_sha256 + target_spki_sha256 + exporter).digest()


def derive(
    input_key: bytes, direction: bytes, channel: int, epoch: int, session: bytes, salt: bytes, binding: bytes
) -> ChannelKey:
    """Derive the key of one direction of one channel in one epoch; see the module's text for the formula."""
    _expect(input_key, limits.KEY, "an input key")
    _expect(session, limits.SESSION_ID, "a session id")
    _expect(salt, limits.SALT, "a salt")
    _expect(binding, limits.BINDING, "a binding")
    if direction not in (FROM_INITIATOR, FROM_ACCEPTOR):
        raise LocalProtocolError("an unknown direction")
    if not 0 <= channel <= limits.U16 or not 0 <= epoch <= limits.MAX_EPOCH:
        raise LocalProtocolError("a channel or epoch number out of range")
    info = LABEL + direction + _INFO.pack(channel, epoch) + session + salt + binding
    length = limits.KEY + limits.NONCE + limits.COMMITMENT
    output = HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(input_key)
    return ChannelKey(output[:32], output[32:44], output[44:])


def answer_salt(preface_salt: bytes, acceptor_salt: bytes) -> bytes:
    """Return the salt of the acceptor's direction: both sides' salts, hashed to 24 bytes.

    With a salt of its own the acceptor never seals twice under one key and counter, even if somebody replays a preface
    to it and whoever tracks the channel numbers fails.
    """
    return hashlib.sha256(ANSWER_LABEL + preface_salt + acceptor_salt).digest()[: limits.SALT]


def key_b_proof(key_b: bytes, session: bytes, binding: bytes) -> bytes:
    """Return what only a holder of Key B can say: HMAC-SHA256(Key B, label ‖ session ‖ binding)."""
    return hmac.digest(key_b, PROOF_LABEL + session + binding, "sha256")


def _expect(value: bytes, length: int, what: str) -> None:
    if len(value) != length:
        raise LocalProtocolError(f"{what} has {len(value)} bytes, not {length}")

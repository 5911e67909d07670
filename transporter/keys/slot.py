"""The bytes of a slot, version 1: pure form, no keys.

A slot holds the storage key of one restore point, wrapped for one way to open it. Whoever has the bytes, even without
any key, can prove that not one bit of them changed: the last 32 bytes are the BLAKE3 of all the others.

    offset  bytes  field
    0       4      magic "TSLT"
    4       1      version 1
    5       1      kind: 1 password; 2 keyset and 3 KMS are reserved
    6       2      length of the header, u16 BE
    8       …      header, by kind
    …       2      length of the cryptogram, u16 BE
    …       …      cryptogram (wrap.py); its context holds everything before it
    …       32     BLAKE3 of all before

Header of kind 1:

    4 memory KiB u32 BE | 1 iterations | 1 lanes | 1 salt length (16, or 0 = missing) | salt | 32 verifier |
    1 name length | name, UTF-8

The name is public: who holds the repository can read it. A password's *hint* is never here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from blake3 import blake3

from transporter.errors import CorruptedPoint, DamagedData, UnsupportedFormat
from transporter.keys.derive import same
from transporter.keys.password import SALT_LENGTH, KdfParameters

MAX_SLOT: Final = 8192
"""Bytes of a slot at most: a keyset's RSA-4096 cryptogram (512) fits many times over."""

MAX_NAME: Final = 128
"""Bytes of the public name of a password in a slot."""

_MAGIC: Final = b"TSLT"
_VERSION: Final = 1
_CHECKSUM: Final = 32
_START: Final = struct.Struct(">4sBBH")
_PASSWORD: Final = struct.Struct(">IBBB")
_VERIFIER: Final = 32
_U16: Final = struct.Struct(">H")


class SlotKind(IntEnum):
    """How a slot is opened. Numbers are never reused; 2 and 3 are reserved."""

    PASSWORD = 1
    KEYSET = 2
    KMS = 3


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What a password slot says to everyone. ``salt`` and ``params`` are checked; ``hint_name`` may be empty."""

    kind: SlotKind
    salt: bytes
    params: KdfParameters
    hint_name: str
    verifier: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SlotParts:
    """A slot taken apart: what is bound into the wrapping, and the cryptogram."""

    info: SlotInfo
    bound: bytes = field(repr=False)
    cryptogram: bytes = field(repr=False)


def password_header(info: SlotInfo) -> bytes:
    """Return the first part of a slot of kind 1, up to where the cryptogram's length comes."""
    name = info.hint_name.encode()
    if len(name) > MAX_NAME:
        raise ValueError(f"the public name of a slot has at most {MAX_NAME} bytes")
    price = info.params
    header = b"".join(
        (
            _PASSWORD.pack(price.memory_kib, price.iterations, price.lanes, len(info.salt)),
            info.salt,
            info.verifier,
            bytes((len(name),)),
            name,
        )
    )
    return _START.pack(_MAGIC, _VERSION, SlotKind.PASSWORD, len(header)) + header


def finish_slot(bound: bytes, cryptogram: bytes) -> bytes:
    """Return the whole slot."""
    body = bound + _U16.pack(len(cryptogram)) + cryptogram
    return body + blake3(body).digest()


def check_slot(slot: bytes) -> None:
    """Check a slot of any kind as far as can be done without keys: form, version, checksum. For scrub.

    Raises:
        UnsupportedFormat: sound, but of a newer version.
        DamagedData: anything else.
    """
    if not _START.size + _CHECKSUM < len(slot) <= MAX_SLOT:
        raise _damaged("its length is impossible")
    if not same(blake3(slot[:-_CHECKSUM]).digest(), slot[-_CHECKSUM:]):
        raise _damaged("its checksum does not match")
    if slot[:4] != _MAGIC:
        raise _damaged("it is something else")
    if slot[4] != _VERSION:
        raise UnsupportedFormat("a slot is of a newer version", "use the version of the program that wrote it")


def read_slot(slot: bytes) -> SlotParts:
    """Take a password slot apart.

    Raises:
        CorruptedPoint: the slot is sound but holds no salt: no password can ever open it.
        UnsupportedFormat: a newer version, or another way of opening.
        DamagedData: altered bytes.
    """
    check_slot(slot)
    if slot[5] != SlotKind.PASSWORD:
        raise UnsupportedFormat("a slot is not opened by a password", "use the way it was made for")
    header_end = _START.size + _U16.unpack_from(slot, 6)[0]
    end = len(slot) - _CHECKSUM
    if header_end + _U16.size > end or header_end + _U16.size + _U16.unpack_from(slot, header_end)[0] != end:
        raise _damaged("its lengths do not agree")
    info = _read_password_header(slot[_START.size : header_end])
    return SlotParts(info, slot[:header_end], slot[header_end + _U16.size : end])


def read_slot_public(slot: bytes) -> SlotInfo:
    """Return what a password slot says without any key; raises as `read_slot`."""
    return read_slot(slot).info


def _read_password_header(header: bytes) -> SlotInfo:
    if len(header) < _PASSWORD.size:
        raise _damaged("its header is cut short")
    memory_kib, iterations, lanes, salt_length = _PASSWORD.unpack_from(header)
    if salt_length == 0:
        raise CorruptedPoint(
            "the salt of this restore point's password is missing, so recovery cannot be performed",
            "restore another point, or another copy of this one",
        )
    rest = header[_PASSWORD.size :]
    if salt_length != SALT_LENGTH or len(rest) < SALT_LENGTH + _VERIFIER + 1:
        raise _damaged("its header is cut short")
    salt, verifier = rest[:SALT_LENGTH], rest[SALT_LENGTH : SALT_LENGTH + _VERIFIER]
    name = rest[SALT_LENGTH + _VERIFIER + 1 :]
    if rest[SALT_LENGTH + _VERIFIER] != len(name) or len(name) > MAX_NAME:
        raise _damaged("its header has a wrong length")
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise _damaged("its name is no text") from None
    return SlotInfo(SlotKind.PASSWORD, salt, KdfParameters(memory_kib, iterations, lanes), text, verifier)


def _damaged(why: str) -> DamagedData:
    return DamagedData(f"a slot is damaged: {why}", "use another slot or another copy of this restore point")

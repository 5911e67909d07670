"""The bytes of a slot, version 1: pure form, no keys.

A slot holds the storage key of one restore point, wrapped for one way to open it. Whoever has the bytes, even without
any key, can prove that not one bit of them changed: the last 32 bytes are the BLAKE3 of all the others.

    offset  bytes  field
    0       4      magic "TSLT"
    4       1      version 1
    5       1      kind: 1 password, 2 keyset, 3 KMS
    6       2      length of the header, u16 BE
    8       …      header, by kind
    …       2      length of the cryptogram, u16 BE
    …       …      cryptogram (wrap.py); its context holds everything before it
    …       32     BLAKE3 of all before

Header of kind 1:

    4 memory KiB u32 BE | 1 iterations | 1 lanes | 1 salt length (16, or 0 = missing) | salt | 32 verifier |
    1 name length | name, UTF-8

Header of kind 2:

    16 keyset id | 33 public key of the node that made the slot | 1 name length | name of the keyset, UTF-8

There the cryptogram is RSA-OAEP (512 bytes; keyset.py), whose label holds everything before it, and then the node's
signature (64 bytes; node_key.py) over the place, everything before the cryptogram, and the cryptogram.

Header of kind 3:

    1 provider: 1 AWS, 2 transit | 2 length of the key's full name, u16 BE | that name, ASCII |
    1 name length | name of the service where the slot was made, UTF-8 |
    2 length, u16 BE | a key, as the service wrapped it

The cryptogram (wrap.py) is under that key, which is of this slot alone.

Names are public: who holds the repository can read them. A password's *hint* is never here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from blake3 import blake3

from transporter.errors import CorruptedPoint, DamagedData, UnsupportedFormat
from transporter.keys.derive import same
from transporter.keys.node_key import PUBLIC_LENGTH, SIGNATURE_LENGTH
from transporter.keys.password import SALT_LENGTH, KdfParameters

MAX_SLOT: Final = 8192
"""Bytes of a slot at most: a keyset's RSA-4096 cryptogram (512) fits many times over."""

MAX_NAME: Final = 128
"""Bytes of the public name of a password in a slot."""

KEYSET_ID: Final = 16
"""Bytes of a keyset's id."""

MAX_REFERENCE: Final = 512
"""Bytes of the full name of a service's key (an ARN has some 80)."""

MAX_WRAPPED_BY_KMS: Final = 1024
"""Bytes that a service makes of a key of 32: AWS some 200, transit some 100. A slot on the wire has 2 KiB in all."""
KEYSET_CRYPTOGRAM: Final = 512
"""Bytes of what RSA-4096 makes."""

_KEYSET_FIXED: Final = KEYSET_ID + PUBLIC_LENGTH

_MAGIC: Final = b"TSLT"
_VERSION: Final = 1
_CHECKSUM: Final = 32
_START: Final = struct.Struct(">4sBBH")
_PASSWORD: Final = struct.Struct(">IBBB")
_VERIFIER: Final = 32
_U16: Final = struct.Struct(">H")


class SlotKind(IntEnum):
    """How a slot is opened. Numbers are never reused."""

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
class KeysetSlot:
    """A keyset's slot taken apart: what is bound into the wrapping, the cryptogram, and who signed. Nothing is proved.

    ``name`` is for people; ``maker``: the public key of the node that made it (node_key.py).
    """

    keyset_id: bytes
    maker: bytes
    name: str
    bound: bytes = field(repr=False)
    cryptogram: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KmsSlot:
    """A service's slot taken apart. ``reference``: the key's full name; ``name`` is for people, and a first guess."""

    provider: int
    reference: str
    name: str
    wrapped: bytes = field(repr=False)
    bound: bytes = field(repr=False)
    cryptogram: bytes = field(repr=False)


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


def keyset_header(keyset_id: bytes, maker: bytes, name: str) -> bytes:
    """Return the first part of a slot of kind 2, up to where the cryptogram's length comes."""
    encoded = name.encode()
    if (len(keyset_id), len(maker)) != (KEYSET_ID, PUBLIC_LENGTH) or len(encoded) > MAX_NAME:
        raise ValueError(f"a keyset has an id of {KEYSET_ID} bytes and a name of at most {MAX_NAME}")
    header = keyset_id + maker + bytes((len(encoded),)) + encoded
    return _START.pack(_MAGIC, _VERSION, SlotKind.KEYSET, len(header)) + header


def kms_header(provider: int, reference: str, name: str, wrapped: bytes) -> bytes:
    """Return the first part of a slot of kind 3, up to where the cryptogram's length comes."""
    key, people = reference.encode("ascii"), name.encode()
    if not (1 <= len(key) <= MAX_REFERENCE and len(people) <= MAX_NAME and 1 <= len(wrapped) <= MAX_WRAPPED_BY_KMS):
        raise ValueError("a service's slot has bounded names and a wrapped key")
    header = b"".join(
        (
            bytes((provider,)),
            *(_U16.pack(len(key)), key, bytes((len(people),)), people, _U16.pack(len(wrapped)), wrapped),
        )
    )
    return _START.pack(_MAGIC, _VERSION, SlotKind.KMS, len(header)) + header


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
    bound, cryptogram = _halves(slot)
    return SlotParts(_read_password_header(bound[_START.size :]), bound, cryptogram)


def read_keyset_slot(slot: bytes) -> KeysetSlot | None:
    """Take a keyset's slot apart; None for one of another kind. Raises DamagedData, UnsupportedFormat."""
    check_slot(slot)
    if slot[5] != SlotKind.KEYSET:
        return None
    bound, sealed = _halves(slot)
    header = bound[_START.size :]
    if len(sealed) != KEYSET_CRYPTOGRAM + SIGNATURE_LENGTH or len(header) <= _KEYSET_FIXED:
        raise _damaged("its header has a wrong length")
    if header[_KEYSET_FIXED] != len(header) - _KEYSET_FIXED - 1:
        raise _damaged("its header has a wrong length")
    return KeysetSlot(
        header[:KEYSET_ID],
        header[KEYSET_ID:_KEYSET_FIXED],
        _name(header[_KEYSET_FIXED + 1 :]),
        bound,
        sealed[:KEYSET_CRYPTOGRAM],
        sealed[KEYSET_CRYPTOGRAM:],
    )


def is_keyset_slot(slot: bytes) -> bool:
    """Tell whether a slot is a sound one of a keyset."""
    try:
        return read_keyset_slot(slot) is not None
    except DamagedData:
        return False


def _name(raw: bytes) -> str:
    """Return a name that may be shown: whoever holds the repository could write one that plays with a terminal."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise _damaged("its name is no text") from None
    if len(raw) > MAX_NAME or not name.isprintable():
        raise _damaged("its name is no line of text")
    return name


def read_kms_slot(slot: bytes) -> KmsSlot | None:
    """Take a service's slot apart; None for one of another kind. Raises DamagedData, UnsupportedFormat."""
    check_slot(slot)
    if slot[5] != SlotKind.KMS:
        return None
    bound, cryptogram = _halves(slot)
    header = bound[_START.size :]
    try:
        key_end = 3 + _U16.unpack_from(header, 1)[0]
        name_end = key_end + 1 + header[key_end]
        wrapped = header[name_end + 2 :]
        key, name = header[3:key_end].decode("ascii"), _name(header[key_end + 1 : name_end])
        (length,) = _U16.unpack_from(header, name_end)
    except (IndexError, struct.error):
        raise _damaged("its header is cut short") from None
    except UnicodeDecodeError:
        raise _damaged("its name is no text") from None
    if not key.isprintable():
        raise _damaged("the name of its key is no line of text")
    if length != len(wrapped) or not (1 <= length <= MAX_WRAPPED_BY_KMS and 1 <= len(key) <= MAX_REFERENCE):
        raise _damaged("its header has a wrong length")
    return KmsSlot(header[0], key, name, wrapped, bound, cryptogram)


def _halves(slot: bytes) -> tuple[bytes, bytes]:
    """Return what is bound, and the cryptogram."""
    header_end = _START.size + _U16.unpack_from(slot, 6)[0]
    end = len(slot) - _CHECKSUM
    if header_end + _U16.size > end or header_end + _U16.size + _U16.unpack_from(slot, header_end)[0] != end:
        raise _damaged("its lengths do not agree")
    return slot[:header_end], slot[header_end + _U16.size : end]


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
    if rest[SALT_LENGTH + _VERIFIER] != len(name):
        raise _damaged("its header has a wrong length")
    return SlotInfo(SlotKind.PASSWORD, salt, KdfParameters(memory_kib, iterations, lanes), _name(name), verifier)


def _damaged(why: str) -> DamagedData:
    return DamagedData(f"a slot is damaged: {why}", "use another slot or another copy of this restore point")

"""The outer form of a bundle: a header, then one stream of bytes sealed in segments under a password.

    header (112 bytes)
       0   8  magic "TPBUNDLE"
       8   2  version, 1
      10   4  memory in KiB    14  1  passes    15  1  lanes         the price of the password (Argon2id)
      16  16  salt of the password
      32  32  bundle id, random
      64  32  commitment to the key
      96  16  BLAKE3 of bytes 0 … 95, shortened
    segments, each 65,536 bytes of plaintext (the last: 1 … 65,536) sealed by AES-256-GCM, 16 bytes longer than that

    key 32 ‖ commitment 32 = HKDF-SHA256(Argon2id(password), "configuration bundle", salt = bundle id)
    nonce = 7 zero bytes | number of the segment u32, from 0 | 1 for the last segment, else 0
    AAD   = the header

All numbers are big-endian. Each hazard, and where it is met:

- *Nonces.* A key seals one bundle: salt and id are drawn where the writer is made, and nobody can hand it a key.
- *Cut, lengthened, reordered, taken from another bundle.* Number and last flag are in the nonce, the header is in the
  AAD: a segment opens in its own place of its own bundle alone, and the last one only as the last.
- *Two passwords for one bundle.* AES-GCM does not commit to its key; the commitment is checked before anything opens.
- *Hostile prices.* They are bounded before anything is computed (`KdfParameters`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transporter.clock import Clock
from transporter.errors import DamagedData, UnsupportedFormat, WrongPassword
from transporter.keys.derive import BUNDLE, KEY_LENGTH, hkdf, same
from transporter.keys.password import SALT_LENGTH, KdfParameters, hash_password

MAGIC: Final = b"TPBUNDLE"
VERSION: Final = 1
SEGMENT: Final = 64 << 10
"""Plaintext bytes of a segment: what is held in memory before its tag has been checked."""
TAG: Final = 16
MAX_SEGMENTS: Final = 1 << 32
"""The counter has 32 bits; a bundle as large as its members may be takes a millionth of them."""

_ID: Final = 32
_CHECKSUM: Final = 16
_FIELDS: Final = struct.Struct(f">8sHIBB{SALT_LENGTH}s{_ID}s{KEY_LENGTH}s")
_NONCE: Final = struct.Struct(">7xIB")
HEADER_LENGTH: Final = _FIELDS.size + _CHECKSUM


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in clear before the segments; ``raw`` is all of it."""

    raw: bytes
    parameters: KdfParameters
    salt: bytes
    bundle_id: bytes
    commitment: bytes


class SealedWriter:
    """Seals what is written to ``file``, and begins with the header. Nothing is whole before ``finish``.

    Raises UsageError for a password that is none.
    """

    def __init__(self, file: BinaryIO, password: bytes, parameters: KdfParameters, clock: Clock) -> None:
        salt = clock.random_bytes(SALT_LENGTH)
        self.bundle_id = clock.random_bytes(_ID)
        key, commitment = _derive(password, salt, parameters, self.bundle_id)
        price = parameters.memory_kib, parameters.iterations, parameters.lanes
        body = _FIELDS.pack(MAGIC, VERSION, *price, salt, self.bundle_id, commitment)
        self._header = body + _checksum(body)
        self._aead = AESGCM(key)
        self._file = file
        self._waiting = bytearray()
        self._number = 0
        file.write(self._header)

    def write(self, data: bytes | memoryview) -> None:
        """Seal ``data``; some of it waits for the segment to be full."""
        view = memoryview(data)
        while view:
            # Only when more comes is a full segment known not to be the last one.
            if len(self._waiting) == SEGMENT:
                self._seal(last=False)
            room = SEGMENT - len(self._waiting)
            self._waiting += view[:room]
            view = view[room:]

    def finish(self) -> None:
        """Seal the last segment."""
        if not self._waiting:
            raise ValueError("a bundle is never empty")
        self._seal(last=True)

    def _seal(self, *, last: bool) -> None:
        if self._number >= MAX_SEGMENTS:
            raise RuntimeError("a bundle has as many segments as is safe")
        self._file.write(self._aead.encrypt(_NONCE.pack(self._number, last), bytes(self._waiting), self._header))
        self._number += 1
        self._waiting.clear()


class SealedReader:
    """Opens the segments of ``file``, which stands behind the header. Nothing comes out that its tag did not prove."""

    def __init__(self, file: BinaryIO, key: bytes, header: Header) -> None:
        self._file = file
        self._aead = AESGCM(key)
        self._header = header.raw
        self._number = 0
        self._ahead = file.read(1)
        self._opened = memoryview(b"")
        self._ended = False

    def read(self, count: int) -> bytes:
        """Return the next 1 … ``count`` bytes, at most a segment. Raises DamagedData, also where there is no more."""
        if not self._opened:
            self._opened = memoryview(self._segment())
        part, self._opened = self._opened[:count], self._opened[count:]
        return bytes(part)

    def read_exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes; the caller has bounded them. Raises DamagedData."""
        found = bytearray()
        while len(found) < count:
            found += self.read(count - len(found))
        return bytes(found)

    def finish(self) -> None:
        """Raise DamagedData unless everything has been read, up to the last segment."""
        if self._opened or not self._ended:
            raise damaged("it goes on where it should end")

    def _segment(self) -> bytes:
        if self._ended or self._number >= MAX_SEGMENTS:
            raise damaged("it ends too early")
        # One byte more than the segment tells whether it is the last: nothing inside a segment could be believed yet.
        sealed = self._ahead + self._file.read(SEGMENT + TAG - len(self._ahead))
        self._ahead = self._file.read(1)
        last = not self._ahead
        if len(sealed) <= TAG:
            raise damaged("it was cut off")
        try:
            plain = self._aead.decrypt(_NONCE.pack(self._number, last), sealed, self._header)
        except InvalidTag:
            raise damaged("a part of it was altered, moved or cut off") from None
        self._number += 1
        self._ended = last
        return plain


def read_header(file: BinaryIO) -> Header:
    """Return the header, everything in it bounded. Raises DamagedData, and UnsupportedFormat for a newer version."""
    raw = file.read(HEADER_LENGTH)
    if raw[:8] != MAGIC:
        raise DamagedData("this is no configuration bundle", "name the file that `config export` wrote")
    if len(raw) >= 10 and int.from_bytes(raw[8:10], "big") > VERSION:
        raise UnsupportedFormat("the bundle is of a newer version", "use the version of the program that exported it")
    body, checksum = raw[: _FIELDS.size], raw[_FIELDS.size :]
    if len(raw) != HEADER_LENGTH or not same(checksum, _checksum(body)) or raw[8:10] != VERSION.to_bytes(2, "big"):
        raise damaged("its header was altered or cut off")
    _magic, _version, memory, passes, lanes, salt, bundle_id, commitment = _FIELDS.unpack(body)
    return Header(raw, KdfParameters(memory, passes, lanes), salt, bundle_id, commitment)


def open_stream(file: BinaryIO, header: Header, password: bytes) -> SealedReader:
    """Return a reader of what stands behind the header. Raises WrongPassword, UsageError (no password), JobFailed."""
    key, commitment = _derive(password, header.salt, header.parameters, header.bundle_id)
    if not same(commitment, header.commitment):
        raise WrongPassword("this is not the password of the bundle", "it has one of its own; try another")
    return SealedReader(file, key, header)


def damaged(why: str) -> DamagedData:
    """Return the error for a bundle that is not what was exported."""
    return DamagedData(f"the bundle is damaged: {why}", "use another copy of it; nothing was imported")


def _derive(password: bytes, salt: bytes, parameters: KdfParameters, bundle_id: bytes) -> tuple[bytes, bytes]:
    both = hkdf(hash_password(password, salt, parameters).raw, BUNDLE, 2 * KEY_LENGTH, bundle_id)
    return both[:KEY_LENGTH], both[KEY_LENGTH:]


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest(_CHECKSUM)

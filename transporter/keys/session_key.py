"""Session keys and metakeys: one of each for every run, and the identity they carry.

The 32-byte key id IS the HKDF commitment to the secret: nobody can make two keys with one id, so a sealed chunk that
names a key id can be opened by that key alone.

Nonces are the counter of the key, and the counter lives in the key object: however many sealers use it, no value is
taken twice. For the same reason a key that was read back (`from_secret`, `open_ring`, the key database) opens and never
seals: nobody knows which counters it had used before. A run that goes on after a crash makes a new key.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable
from typing import ClassVar, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from transporter.clock import Clock
from transporter.errors import DamagedData, NoKey
from transporter.keys import derive
from transporter.keys.derive import KEY_LENGTH, hkdf, same
from transporter.keys.secret import SYSTEM, Secret

MAX_CHUNKS_PER_KEY: Final = 1 << 32
"""Chunks under one key: 2^32 of 1 MiB are 2^48 AES blocks, where GCM's distinguishing bound is still 2^-33."""

MAX_DATA: Final = 4 * 1024 * 1024 + 64 * 1024
"""Bytes of a chunk's data that are opened at most: the largest chunk and what a codec may add to it."""

_PLAIN: Final = 0
_SEALED: Final = 1
_ID: Final = 32
_HEADER: Final = 1 + 32 + 8
_TAG: Final = 16
_AAD: Final = struct.Struct(">B32sQ32sBI")
_TAIL: Final = struct.Struct(">BI")
_NONCE_PREFIX: Final = bytes(4)

SEAL_OVERHEAD: Final = _HEADER + _TAG
"""Bytes that a sealed chunk is longer than its data."""

PLAIN_KEY_ID: Final = bytes(32)
"""Stands for the key id of a chunk that is stored plain."""

Bytes = bytes | bytearray | memoryview


class SessionKey(Secret):
    """The key of all data chunks of one run."""

    __slots__ = ("_counter", "_lock", "_process", "chunk_key", "key_id")
    KIND: ClassVar[str] = "session key"
    _ID_LABEL: ClassVar[bytes] = derive.SESSION_KEY_ID
    _CHUNK_LABEL: ClassVar[bytes] = derive.SESSION_CHUNKS

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.key_id = hkdf(self._secret, self._ID_LABEL)
        self.chunk_key = hkdf(self._secret, self._CHUNK_LABEL)
        self._lock = threading.Lock()
        self._counter: int | None = None
        self._process = os.getpid()

    @classmethod
    def generate(cls, clock: Clock = SYSTEM) -> Self:
        """Return a new random key that may seal, starting at counter 0."""
        key = cls(clock.random_bytes(KEY_LENGTH))
        key._counter = 0
        return key

    @property
    def may_seal(self) -> bool:
        """Whether this object knows which counters were used: true only where the key was made."""
        return self._counter is not None

    def next_counter(self) -> int:
        """Return a counter that was never returned before; any thread.

        Raises:
            RuntimeError: the key was read back, was carried into a forked process, or has sealed 2^32 chunks. All
                three are errors of the program: going on would use a nonce twice.
        """
        if os.getpid() != self._process:
            raise RuntimeError(f"a {self.KIND} seals only in the process that made it")
        with self._lock:
            counter = self._counter
            if counter is None:
                raise RuntimeError(f"a {self.KIND} that was read back opens only: make a new one to seal")
            if counter >= MAX_CHUNKS_PER_KEY:
                raise RuntimeError(f"this {self.KIND} has sealed as many chunks as is safe: make a new one")
            self._counter = counter + 1
        return counter

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_id[:4].hex()}>"


class FsiKey(SessionKey):
    """The key of the file-system index of one run: derived from the metakey, with an id and counters of its own.

    So it can be handed to whoever may search and not restore, and no nonce of the manifest's key is ever spent here.
    """

    __slots__ = ()
    KIND: ClassVar[str] = "file-system index key"
    _ID_LABEL: ClassVar[bytes] = derive.FSI_KEY_ID
    _CHUNK_LABEL: ClassVar[bytes] = derive.FSI_CHUNKS


class MetaKey(SessionKey):
    """The key of the metadata of one run: manifest chunks, the MAC of the point, the file-system index."""

    __slots__ = ("_mac_key", "fsi", "fsi_key")
    KIND: ClassVar[str] = "metakey"
    _ID_LABEL: ClassVar[bytes] = derive.METAKEY_ID
    _CHUNK_LABEL: ClassVar[bytes] = derive.METAKEY_CHUNKS

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self._mac_key = hkdf(self._secret, derive.METAKEY_MAC)
        self.fsi_key = hkdf(self._secret, derive.METAKEY_FSI)
        self.fsi = FsiKey(self.fsi_key)

    @classmethod
    def generate(cls, clock: Clock = SYSTEM) -> Self:
        """Return a new random key that may seal, and whose `fsi` may; both start at counter 0."""
        key = super().generate(clock)
        key.fsi._counter = 0
        return key

    def mac(self, data: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA256 that authenticates a restore point."""
        state = HMAC(self._mac_key, SHA256())
        state.update(data)
        return state.finalize()

    def check_mac(self, data: bytes, mac: bytes) -> None:
        """Raise `DamagedData` unless ``mac`` is that of ``data``."""
        if not same(self.mac(data), mac):
            raise DamagedData(
                "the restore point is not what was committed: its authentication code does not match",
                "the repository altered or lost part of it; restore another point",
            )


def sealed_length(data_length: int) -> int:
    """Return how many bytes `ChunkSealer.seal_into` writes for ``data_length`` bytes of data."""
    return data_length + SEAL_OVERHEAD


def sealed_aad(
    key_id: bytes, counter: int, chunk_id: bytes, codec: int, plain_length: int
) -> tuple[bytes, bytes, bytes]:
    """Return nonce, header and additional data of a sealed chunk; see `ChunkSealer` for the form."""
    aad = _AAD.pack(_SEALED, key_id, counter, chunk_id, codec, plain_length)
    return _NONCE_PREFIX + aad[33:_HEADER], aad[:_HEADER], aad


class ChunkSealer:
    """Seals chunks under one key; any number of threads, any number of sealers of one key.

    stored = 0x01 | key id 32 | counter u64 BE | AES-256-GCM(data) ‖ tag 16
    nonce  = 4 zero bytes | counter
    AAD    = 0x01 | key id | counter | chunk id 32 | codec u8 | plain length u32 BE
    """

    __slots__ = ("_aead", "_key", "key_id")

    def __init__(self, key: SessionKey) -> None:
        if not key.may_seal:
            raise RuntimeError(f"a {key.KIND} that was read back opens only: make a new one to seal")
        self._key = key
        self._aead = AESGCM(key.chunk_key)
        self.key_id = key.key_id

    def seal_into(
        self, out: bytearray | memoryview, chunk_id: bytes, codec: int, plain_length: int, data: Bytes
    ) -> int:
        """Write the sealed chunk to the beginning of ``out`` and return its length, `sealed_length` of the data's.

        ``chunk_id`` 32 bytes, ``codec`` 0 … 255, ``plain_length`` u32. ``data`` (the codec's output) may be
        ``out[41:41 + n]`` itself, which is then sealed in place; any other overlap garbles it. Releases the GIL.
        """
        if len(chunk_id) != _ID:
            raise ValueError("a chunk id has 32 bytes")
        end = len(data) + SEAL_OVERHEAD
        aad = _AAD.pack(_SEALED, self.key_id, self._key.next_counter(), chunk_id, codec, plain_length)
        with memoryview(out) as view:
            self._aead.encrypt_into(_NONCE_PREFIX + aad[33:_HEADER], data, aad, view[_HEADER:end])
            view[:_HEADER] = aad[:_HEADER]
        return end

    def seal(self, chunk_id: bytes, codec: int, plain_length: int, data: Bytes) -> memoryview:
        """Return the sealed chunk in a new buffer."""
        out = memoryview(bytearray(sealed_length(len(data))))
        self.seal_into(out, chunk_id, codec, plain_length, data)
        return out

    def __repr__(self) -> str:
        return f"<ChunkSealer {self.key_id[:4].hex()}>"


class ChunkOpener:
    """Opens the chunks of any of the given keys; any thread.

    ``allow_plain`` must be true only where the point itself says that it is not encrypted: else a hostile target could
    serve plain chunks of its own making in place of sealed ones.
    """

    __slots__ = ("_aeads", "_allow_plain")

    def __init__(self, keys: Iterable[SessionKey], *, allow_plain: bool = False) -> None:
        self._aeads = {key.key_id: AESGCM(key.chunk_key) for key in keys}
        self._allow_plain = allow_plain

    @property
    def key_ids(self) -> frozenset[bytes]:
        """The ids of the keys at hand; 32 zero bytes stand for the plain form where that is allowed."""
        return frozenset(self._aeads) | ({PLAIN_KEY_ID} if self._allow_plain else frozenset())

    def open(
        self,
        chunk_id: bytes,
        codec: int,
        plain_length: int,
        stored: Bytes,
        into: bytearray | memoryview | None = None,
    ) -> memoryview:
        """Return a view of the chunk's data, still as its codec made it; releases the GIL.

        A sealed chunk is opened into the beginning of ``into`` (which may be ``stored[41:]`` of a writable buffer, to
        open in place), or into a new buffer if there is none or it is too small. A plain one is a view of ``stored``.
        After an error ``into`` holds zeroes, not what failed its tag.

        Raises:
            DamagedData: the bytes, the id, the codec or the length are not those that were sealed; or the chunk is
                plain where none may be.
            NoKey: sealed under a key that is not at hand.
        """
        view = memoryview(stored)
        length = len(view) - SEAL_OVERHEAD
        if length < 0 or view[0] != _SEALED:
            return self._open_plain(view)
        if length > MAX_DATA:
            raise DamagedData("a sealed chunk is longer than any chunk can be", "run scrub")
        key_id = bytes(view[1:33])
        aead = self._aeads.get(key_id)
        if aead is None:
            raise NoKey(
                "a chunk is sealed under a key that this restore point does not hold",
                "run scrub; if it finds nothing, restore another point",
            )
        if len(chunk_id) != _ID:
            raise ValueError("a chunk id has 32 bytes")
        if into is None or len(into) < length:
            into = bytearray(length)
        out = memoryview(into)[:length]
        try:
            aad = b"".join((view[:_HEADER], chunk_id, _TAIL.pack(codec, plain_length)))
            aead.decrypt_into(_NONCE_PREFIX + aad[33:_HEADER], view[_HEADER:], aad, out)
        except (InvalidTag, struct.error):
            out[:] = bytes(length)  # what fails its tag must not be read by anyone, and decryption has written it
            raise DamagedData(
                "a sealed chunk is not what was stored: its authentication tag does not match",
                "run `scrub --heal` at the target; the next run of the job stores the chunk again",
            ) from None
        return out

    def _open_plain(self, view: memoryview) -> memoryview:
        if len(view) == 0 or view[0] not in (_PLAIN, _SEALED):
            raise DamagedData("a stored chunk has not the form it was written in", "run scrub")
        if view[0] == _SEALED:
            raise DamagedData("a sealed chunk is cut short", "run scrub")
        if not self._allow_plain:
            raise DamagedData(
                "an encrypted restore point names a chunk that is stored plain",
                "the repository was altered; restore another point",
            )
        return view[1:]

    def __repr__(self) -> str:
        return f"<ChunkOpener of {len(self._aeads)} keys>"


def is_sealed(stored: Bytes) -> bool:
    """Tell whether a stored chunk has the sealed form, by its first byte; whether it opens is another matter."""
    return len(stored) > SEAL_OVERHEAD and stored[0] == _SEALED

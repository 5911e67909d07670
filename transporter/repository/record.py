"""A record: one stored chunk with everything that is needed to find it, prove it and salvage it.

offset  bytes
     0      4   magic "REC1"
     4      1   codec (0 as is, 1 lz4 block, 2 zstd)
     5      3   zero
     8      4   plain length, big endian
    12      4   stored length n, big endian
    16     16   dedup domain
    32     32   chunk id
    64     32   key id (zero bytes: plain form)
    96     32   BLAKE3 of bytes 0 … 95 and of the stored chunk
   128      n   stored chunk
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from blake3 import blake3

from transporter.errors import DamagedData
from transporter.repository import limits

MAGIC: Final = b"REC1"
_PREFIX: Final = struct.Struct(">4sB3xII16s32s32s")
HEADER_LENGTH: Final = _PREFIX.size + 32
PLAIN_KEY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A stored chunk as it travels into and out of a repository; ``key_id`` is 32 zero bytes for the plain form."""

    chunk_id: bytes
    key_id: bytes
    codec: int
    plain_length: int
    stored: bytes | memoryview


class Entry(NamedTuple):
    """Where a record lies: what a footer and the index keep of it."""

    domain: bytes
    chunk_id: bytes
    key_id: bytes
    offset: int
    stored_length: int
    plain_length: int
    codec: int


def seal_header(domain: bytes, record: ChunkRecord) -> bytes:
    """Return the 128 header bytes of a record; ValueError if a field is outside its range."""
    stored = record.stored
    length = len(stored)
    if not (
        len(record.chunk_id) == 32
        and len(record.key_id) == 32
        and len(domain) == 16
        and 0 < length <= limits.STORED_LENGTH
        and 0 <= record.plain_length <= limits.PLAIN_LENGTH
        and 0 <= record.codec <= 255
    ):
        raise ValueError("a field of the record is outside its range")
    prefix = _PREFIX.pack(MAGIC, record.codec, record.plain_length, length, domain, record.chunk_id, record.key_id)
    return prefix + blake3(prefix).update(stored).digest()


def parse_header(header: bytes | memoryview, offset: int) -> Entry | None:
    """Return what a record's header at ``offset`` of its pack says, or None if it is none."""
    if len(header) < HEADER_LENGTH:
        return None
    magic, codec, plain_length, stored_length, domain, chunk_id, key_id = _PREFIX.unpack_from(header)
    if magic != MAGIC or not 0 < stored_length <= limits.STORED_LENGTH or plain_length > limits.PLAIN_LENGTH:
        return None
    return Entry(domain, chunk_id, key_id, offset, stored_length, plain_length, codec)


def is_whole(raw: bytes | memoryview) -> bool:
    """Tell whether a header and the stored chunk behind it are what was written."""
    view = memoryview(raw)
    digest = blake3(view[: _PREFIX.size]).update(view[HEADER_LENGTH:]).digest()
    return bool(view[_PREFIX.size : HEADER_LENGTH] == digest)


def open_record(raw: bytes, expected: Entry) -> ChunkRecord:
    """Return the record in ``raw`` after proving it; DamagedData if it is not the one ``expected``."""
    found = parse_header(raw, expected.offset)
    if found != expected or len(raw) != HEADER_LENGTH + expected.stored_length or not is_whole(raw):
        raise DamagedData(
            f"the record of chunk {expected.chunk_id.hex()} is damaged",
            "run `scrub --heal`; the next run of a job that still has the data sends it again",
        )
    return ChunkRecord(found.chunk_id, found.key_id, found.codec, found.plain_length, memoryview(raw)[HEADER_LENGTH:])

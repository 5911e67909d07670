"""The pack: a header, records, a footer that lists them, a trailer. Its file name is the BLAKE3 of all its bytes.

    header                                        trailer (the last 48 bytes of the file)
    offset  bytes                                 offset  bytes
         0      8   magic "TPPACK01"                   0      8   length f of the footer, big endian
         8     16   repository id                      8     32   BLAKE3 of the footer
        24      2   length t of the tenant's name     40      8   magic "TPPKEND1"
        26      t   tenant (UTF-8)
      26+t     32   BLAKE3 of what precedes

    footer: 4 bytes magic "IDX1", 4 bytes count, then for each record, in file order
         0     16   dedup domain
        16     32   chunk id
        48     32   key id
        80      8   offset of the record in the file
        88      4   stored length
        92      4   plain length
        96      1   codec

A journal file is a pack that has no footer yet.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from transporter.errors import DamagedData
from transporter.repository import limits
from transporter.repository.record import HEADER_LENGTH, Entry, is_whole, parse_header

HEADER_MAGIC: Final = b"TPPACK01"
FOOTER_MAGIC: Final = b"IDX1"
TRAILER_MAGIC: Final = b"TPPKEND1"
_HEADER: Final = struct.Struct(">8s16sH")
_COUNT: Final = struct.Struct(">4sI")
_ENTRY: Final = struct.Struct(">16s32s32sQIIB")
_TRAILER: Final = struct.Struct(">Q32s8s")
ENTRY_LENGTH: Final = _ENTRY.size
TRAILER_LENGTH: Final = _TRAILER.size
LONGEST_HEADER: Final = _HEADER.size + limits.NAME_LENGTH + 32
_LONGEST_FOOTER: Final = _COUNT.size + limits.PACK_RECORDS * _ENTRY.size


@dataclass(frozen=True, slots=True)
class PackHeader:
    """Whose pack it is; ``length`` bytes precede the first record."""

    repository_id: bytes
    tenant: str
    length: int


def encode_header(repository_id: bytes, tenant: str) -> bytes:
    """Return the bytes a pack of ``tenant`` begins with."""
    name = tenant.encode()
    fixed = _HEADER.pack(HEADER_MAGIC, repository_id, len(name)) + name
    return fixed + blake3(fixed).digest()


def empty_length(tenant: str) -> int:
    """Return the bytes that a pack of ``tenant`` takes beside its records and their entries in the footer."""
    return _HEADER.size + len(tenant.encode()) + 32 + _COUNT.size + TRAILER_LENGTH


def read_header(fd: int) -> PackHeader:
    """Return the header of an open pack; DamagedData if it is not one."""
    raw = os.pread(fd, LONGEST_HEADER, 0)
    if len(raw) >= _HEADER.size:
        magic, repository_id, name_length = _HEADER.unpack_from(raw)
        end = _HEADER.size + name_length
        if (
            magic == HEADER_MAGIC
            and name_length <= limits.NAME_LENGTH
            and blake3(raw[:end]).digest() == raw[end : end + 32]
        ):
            return PackHeader(repository_id, raw[_HEADER.size : end].decode(), end + 32)
    raise DamagedData("the header of a pack is damaged", "run `scrub`")


def encode_footer(entries: Sequence[Entry]) -> bytes:
    """Return footer and trailer for records that lie in the file in this order."""
    footer = _COUNT.pack(FOOTER_MAGIC, len(entries)) + b"".join(
        _ENTRY.pack(e.domain, e.chunk_id, e.key_id, e.offset, e.stored_length, e.plain_length, e.codec) for e in entries
    )
    return footer + _TRAILER.pack(len(footer), blake3(footer).digest(), TRAILER_MAGIC)


def read_footer(fd: int) -> list[Entry]:
    """Return what the footer of an open pack lists; DamagedData if it has no whole one."""
    size = os.fstat(fd).st_size
    if size >= TRAILER_LENGTH:
        length, digest, magic = _TRAILER.unpack(os.pread(fd, TRAILER_LENGTH, size - TRAILER_LENGTH))
        if magic == TRAILER_MAGIC and _COUNT.size <= length <= min(_LONGEST_FOOTER, size - TRAILER_LENGTH):
            footer = os.pread(fd, length, size - TRAILER_LENGTH - length)
            if blake3(footer).digest() == digest:
                return _parse_footer(footer)
    raise DamagedData("the footer of a pack is damaged", "run `scrub`")


def _parse_footer(footer: bytes) -> list[Entry]:
    magic, count = _COUNT.unpack_from(footer)
    if magic != FOOTER_MAGIC or _COUNT.size + count * _ENTRY.size != len(footer):
        raise DamagedData("the footer of a pack does not fit its length", "run `scrub`")
    return [
        Entry(domain, chunk_id, key_id, offset, stored, plain, codec)
        for domain, chunk_id, key_id, offset, stored, plain, codec in _ENTRY.iter_unpack(
            memoryview(footer)[_COUNT.size :]
        )
    ]


def walk_records(fd: int, start: int) -> Iterator[tuple[Entry, bool]]:
    """Yield each record from ``start`` on and whether its bytes are proven; end where no record header stands.

    A torn last record (the file ends inside it) is yielded as not proven.
    """
    offset = start
    while True:
        entry = parse_header(os.pread(fd, HEADER_LENGTH, offset), offset)
        if entry is None:
            return
        raw = os.pread(fd, HEADER_LENGTH + entry.stored_length, offset)
        whole = len(raw) == HEADER_LENGTH + entry.stored_length and is_whole(raw)
        yield entry, whole
        offset += HEADER_LENGTH + entry.stored_length


def hash_file(fd: int, before_read: Callable[[int], None] | None = None) -> bytes:
    """Return the BLAKE3 of a whole file, read in bounded pieces that are not left in the page cache.

    ``before_read`` is told how many bytes the next piece has: it may wait, or raise.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    hasher = blake3()
    buffer = bytearray(limits.READ_SIZE)
    view = memoryview(buffer)
    offset = 0
    size = os.fstat(fd).st_size
    while True:
        if before_read is not None and offset < size:
            before_read(min(len(buffer), size - offset))
        count = os.preadv(fd, [buffer], offset)
        if not count:
            break
        hasher.update(view[:count])
        offset += count
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return hasher.digest()

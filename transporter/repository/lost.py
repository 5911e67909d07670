"""What was lost with a damaged pack: written before the pack is set aside, so that a copy or a source can supply it.

    quarantine/<name of the pack>.lost
    offset  bytes
         0      8   magic "TPLOST01"
         8      2   length t of the tenant's name
        10      2   zero
        12      4   count n
        16      t   tenant (UTF-8)
      16+t  146×n   entries
               32   BLAKE3 of what precedes

    entry: 16 domain, 32 chunk id, 32 key id, 4 plain length, 4 stored length, 1 codec,
           41 first and 16 last bytes of the stored chunk, as they lie in the damaged pack (zero bytes: not readable)

The ends of a stored chunk are what a sealed one is told by: form, key id, counter and tag. They may be damaged, too:
they are a claim that whoever holds the key can prove. A list is removed once everything in it is stored again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from transporter.errors import DamagedData
from transporter.repository import files, limits, pack_file
from transporter.repository.layout import PACK_NAME, Layout
from transporter.repository.record import HEADER_LENGTH, Entry, parse_header

MAGIC: Final = b"TPLOST01"
HEAD_BYTES: Final = 41
TAIL_BYTES: Final = 16
HASH_LENGTH: Final = 32
_FIXED: Final = struct.Struct(">8sH2xI")
_ENTRY: Final = struct.Struct(f">16s32s32sIIB{HEAD_BYTES}s{TAIL_BYTES}s")
_LONGEST: Final = _FIXED.size + limits.NAME_LENGTH + limits.PACK_RECORDS * _ENTRY.size + 32


class LostChunk(NamedTuple):
    """A record that is gone: which one it was, and the ends of its stored bytes as far as they can be read."""

    domain: bytes
    chunk_id: bytes
    key_id: bytes
    plain_length: int
    stored_length: int
    codec: int
    head: bytes
    tail: bytes


def lost_chunk(fd: int | None, entry: Entry) -> LostChunk:
    """Return what is told of a record that is not whole; ``fd``: its pack, None if that is gone."""
    head, tail = bytes(HEAD_BYTES), bytes(TAIL_BYTES)
    start = entry.offset + HEADER_LENGTH
    if fd is not None and entry.stored_length >= HEAD_BYTES + TAIL_BYTES:
        head = _readable(fd, HEAD_BYTES, start)
        tail = _readable(fd, TAIL_BYTES, start + entry.stored_length - TAIL_BYTES)
    return LostChunk(
        entry.domain, entry.chunk_id, entry.key_id, entry.plain_length, entry.stored_length, entry.codec, head, tail
    )


def _readable(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset).ljust(length, b"\0")
    except OSError:
        return bytes(length)  # a bad sector


def encode(tenant: str, lost: Sequence[LostChunk]) -> bytes:
    """Return the bytes of a list."""
    name = tenant.encode()
    body = b"".join(_ENTRY.pack(*chunk) for chunk in lost)
    raw = _FIXED.pack(MAGIC, len(name), len(lost)) + name + body
    return raw + blake3(raw).digest()


def decode(raw: bytes) -> tuple[str, list[LostChunk]]:
    """Return the tenant and what it lost; DamagedData if these are not the bytes of a list."""
    damaged = DamagedData("a list of lost chunks is damaged", "remove it: the next scrub names what points lack")
    if not _FIXED.size + 32 <= len(raw) <= _LONGEST or blake3(raw[:-32]).digest() != raw[-32:]:
        raise damaged
    magic, name_length, count = _FIXED.unpack_from(raw)
    start = _FIXED.size + name_length
    if magic != MAGIC or count > limits.PACK_RECORDS or len(raw) != start + count * _ENTRY.size + 32:
        raise damaged
    try:
        tenant = raw[_FIXED.size : start].decode()
    except UnicodeDecodeError:
        raise damaged from None
    return tenant, [LostChunk(*fields) for fields in _ENTRY.iter_unpack(memoryview(raw)[start:-32])]


def write_list(layout: Layout, pack: bytes, tenant: str, lost: Sequence[LostChunk]) -> None:
    """Store the list of a pack durably, instead of one that is there. Raises OSError."""
    files.make_folders(layout.quarantine, layout.root)
    temporary = layout.journal / f"{pack.hex()}.lost.tmp"
    files.unlink(temporary)  # of an attempt that was cut short
    fd = files.create(temporary)
    try:
        files.write(fd, encode(tenant, lost))
        files.sync(fd)
    finally:
        os.close(fd)
    files.replace(temporary, layout.lost(pack))
    files.sync_folder(layout.quarantine)


def packs_with_lists(layout: Layout) -> list[bytes]:
    """Return the packs of which something is lost."""
    names = (Path(name).stem for name in files.names_in(layout.quarantine) if name.endswith(".lost"))
    return [bytes.fromhex(name) for name in names if PACK_NAME.fullmatch(name)]


def read_list(layout: Layout, pack: bytes) -> tuple[str, list[LostChunk]]:
    """Return the tenant of a pack and what was lost with it; nothing where there is no list. DamagedData."""
    with files.disk_errors("read a list of lost chunks"):
        try:
            raw = files.read_small(layout.lost(pack), _LONGEST)
        except FileNotFoundError:
            return "", []
    return decode(raw)


def read_lists(layout: Layout) -> Iterator[tuple[bytes, str, list[LostChunk]]]:
    """Yield each pack, its tenant and what was lost with it; lists that cannot be read are left out."""
    for pack in packs_with_lists(layout):
        try:
            yield (pack, *read_list(layout, pack))
        except DamagedData:
            continue


def record_hashes(layout: Layout, pack: bytes, listed: Iterable[LostChunk]) -> dict[tuple[bytes, bytes, bytes], bytes]:
    """Return the hashes of lost records by (domain, chunk id, key id), as the pack that was set aside still says them.

    Only where the header of the record says what the list does: then it was not hit, but for the hash itself perhaps.
    """
    wanted = {(chunk.domain, chunk.chunk_id, chunk.key_id): chunk for chunk in listed}
    found: dict[tuple[bytes, bytes, bytes], bytes] = {}
    try:
        fd = os.open(layout.quarantine / layout.pack(pack).name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found  # somebody removed it, or it was gone from the beginning
    try:
        for entry in pack_file.read_footer(fd):
            name = entry.domain, entry.chunk_id, entry.key_id
            header = os.pread(fd, HEADER_LENGTH, entry.offset) if name in wanted else b""
            if header and parse_header(header, entry.offset) == entry:
                found[name] = header[-HASH_LENGTH:]
    except (DamagedData, OSError):
        pass  # what was read until then is as good
    finally:
        os.close(fd)
    return found


def remove_list(layout: Layout, pack: bytes) -> None:
    """Forget what was lost with a pack. Raises OSError."""
    files.unlink(layout.lost(pack))

"""One entry of a manifest: everything that is known of one file, folder, link or device, and where its content lies.

An entry is a msgpack array (``docs/workloads.md`` has the table). Extents and holes are packed byte strings, not
lists, because a file of 1 TB has 10^6 extents: packed they cost 40 bytes each to hold and nothing to pass on.

A long entry is *continued*: a record has at most ``MAX_RECORD_EXTENTS`` extents; each but the last carries
``MORE``, each but the first ``CONTINUATION`` and only the path and its share of extents and holes. In a continued
entry the last record's ``size`` is the one that counts (a file may shrink after its first record has left).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec

from transporter.errors import DamagedData

MORE = 1
"""Flag: the next record goes on with this entry."""
CONTINUATION = 2
"""Flag: this record goes on with the entry of the record before."""
CHANGED = 4
"""Flag: the file changed while it was read; its content may mix two states."""
UNTRUSTED = 8
"""Flag: never keep this entry's extents in a later run without reading the file again."""
PAGED = 16
"""Flag: a disk image; its all-zero pages of 4 KiB are holes when it is restored."""

Kind = Literal["f", "d", "l", "p", "c", "b"]
"""Regular file, folder (directory), symbolic link, fifo (pipe), character device, block device."""

CHUNK_ID_LENGTH = 32
MAX_CHUNK_LENGTH = 4 << 20
EXTENT = struct.Struct(">32sII")
"""Chunk id, offset within the chunk, length (both in bytes, at most 4 MiB)."""
HOLE = struct.Struct(">QQ")
"""Offset within the file and length, in bytes."""

MAX_RECORD_EXTENTS = 4096
"""At most so many extents a record (160 KiB, 4 GiB of a large file): small enough to flow, large enough to be rare."""
MAX_RECORD_HOLES = 32768
"""At most so many holes a record (512 KiB), plus those within one chunk."""
MAX_XATTRS = 8 << 20
"""Bytes of extended attributes of one entry. Linux file systems hold 64 KiB a value; 8 MiB is past any seen."""
MAX_PATH = 1 << 20
"""Bytes of a path: 4,096 levels of the longest names. PATH_MAX does not bound a tree, only one system call."""

Unsigned63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Unsigned64 = Annotated[int, msgspec.Meta(ge=0)]  # msgpack has no greater integers
Signed64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Unsigned32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Permissions = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]


class Extent(NamedTuple):
    """A run of content: ``length`` bytes at ``chunk_offset`` of a chunk's plaintext."""

    chunk_id: bytes
    chunk_offset: int
    length: int


class Hole(NamedTuple):
    """A run of ``length`` bytes at ``offset`` of the file that occupies no room and reads as zeros."""

    offset: int
    length: int


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One record of a manifest.

    The content of a file is its ``size`` bytes: the holes read as zeros, the extents fill the rest in order.
    ``path`` has no leading and no trailing ``/``; ``b""`` is the root of the file system. Times are nanoseconds
    since 1970. ``link`` is the path of the first entry of a hard-link group: such an entry has no extents of its own.
    """

    path: bytes
    kind: Kind
    flags: Unsigned32 = 0
    size: Unsigned63 = 0
    mtime_ns: Signed64 = 0
    ctime_ns: Signed64 = 0
    dev: Unsigned64 = 0
    inode: Unsigned64 = 0
    mode: Permissions = 0o600
    uid: Unsigned32 = 0
    gid: Unsigned32 = 0
    user: bytes = b""
    group: bytes = b""
    packed_extents: bytes = b""
    nlink: Unsigned64 = 1
    link: bytes = b""
    target: bytes = b""
    rdev: Unsigned64 = 0
    xattrs: dict[bytes, bytes] = {}  # msgspec makes a new one for each entry
    packed_holes: bytes = b""

    @property
    def extents(self) -> list[Extent]:
        """The content of this record, in file order. Raises ``DamagedData`` when it is not whole."""
        return list(map(Extent._make, self.iter_extents()))

    @property
    def holes(self) -> list[Hole]:
        """The holes of this record, in file order. Raises ``DamagedData`` when they are not whole."""
        return list(map(Hole._make, self.iter_holes()))

    def iter_extents(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield (chunk id, chunk offset, length) without making objects for them."""
        try:
            return EXTENT.iter_unpack(self.packed_extents)
        except struct.error:
            raise DamagedData(f"The extents of {self.path!r} are cut.") from None

    def iter_holes(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) without making objects for them."""
        try:
            return HOLE.iter_unpack(self.packed_holes)
        except struct.error:
            raise DamagedData(f"The holes of {self.path!r} are cut.") from None

    def chunk_ids(self) -> Iterator[bytes]:
        """Yield the chunk id of each extent, in file order; an id may come several times."""
        packed = self.packed_extents
        if len(packed) == EXTENT.size:
            yield packed[:CHUNK_ID_LENGTH]
            return
        for chunk_id, _, _ in self.iter_extents():
            yield chunk_id


def pack_extents(extents: Iterable[tuple[bytes, int, int]]) -> bytes:
    """Return the packed form of (chunk id, chunk offset, length) tuples."""
    return b"".join(EXTENT.pack(*extent) for extent in extents)


def pack_holes(holes: Iterable[tuple[int, int]]) -> bytes:
    """Return the packed form of (offset, length) tuples."""
    return b"".join(HOLE.pack(*hole) for hole in holes)


def path_key(path: bytes) -> bytes:
    """Return the sort key of path order: a folder comes right before its contents, siblings in byte order.

    A name cannot hold NUL, so comparing with NUL for ``/`` compares component by component.
    """
    return path.replace(b"/", b"\0")

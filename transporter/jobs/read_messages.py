"""Between a backup and its reader process.

| order | answer |
| --- | --- |
| Open | Opened, then a Cut for each unit, in order, then Finished |
| Free | none: the buffer is filled again |
| Keep | Kept |

Any order may be answered with ``Failed``; nothing follows it. The end of the stream means: give up, and exit.
"""

from __future__ import annotations

import msgspec

from pipeline.chunker import CONTENT_SIZES
from transporter.workloads.notes import Note
from transporter.workloads.worker_channel import Failed

# What is read at once. The cutter looks at the bytes behind the last cut of a block again, a chunk's length or less:
# at 5 MiB that is an eighth of its work, at 3 MiB a third.
BLOCK = 5 << 20
BUFFERS = 3
BUFFER = CONTENT_SIZES.maximum + BLOCK
"""Bytes of a buffer: headroom for the tail of the one before, and a block."""
NO_BUFFER = -1


class Open(msgspec.Struct, tag="open", frozen=True):
    """Begin. ``parent`` is the identity of the kept manifest to compare with, empty where every file is read.

    ``chunk_id_key`` is a secret: this goes through the socket pair and nowhere else.
    """

    workload: str
    paths: list[bytes]
    exclude: list[str]
    stdin_name: str
    manifest_path: str
    identity: bytes
    parent: bytes
    chunk_id_key: bytes

    def __repr__(self) -> str:
        return f"Open({self.workload})"


class Free(msgspec.Struct, tag="free", frozen=True):
    """Nobody uses a buffer any more."""

    buffer: int


class Keep(msgspec.Struct, tag="keep", frozen=True):
    """The point is committed: the next run compares with this manifest."""


Order = Open | Free | Keep


class Report(msgspec.Struct, frozen=True, array_like=True):
    """How far the reader is, and what it has noted since the last report. Sizes in bytes."""

    files: int
    files_unchanged: int
    bytes_total: int
    bytes_expected: int | None
    notes: list[Note]


class ContentChunk(msgspec.Struct, frozen=True, array_like=True):
    """``length`` plain bytes at ``offset`` of the unit's buffer."""

    chunk_id: bytes
    offset: int
    length: int


class MetadataChunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece of the manifest, or a block of the file-system index."""

    chunk_id: bytes
    data: bytes
    fsi: bool = False


class Opened(msgspec.Struct, tag="opened", frozen=True):
    """Reading has begun."""

    report: Report


class Cut(msgspec.Struct, tag="cut", frozen=True):
    """What a unit of ``length`` bytes completed. Content lies in ``buffer``, which must be freed; or ``NO_BUFFER``."""

    buffer: int
    length: int
    content: list[ContentChunk]
    metadata: list[MetadataChunk]
    report: Report


class Finished(msgspec.Struct, tag="finished", frozen=True):
    """Everything was read. ``manifest``: (chunk id, plain length) of each of its chunks; ``fsi`` likewise."""

    manifest: list[tuple[bytes, int]]
    fsi: list[tuple[bytes, int]]
    needs: int
    needs_hash: bytes


class Kept(msgspec.Struct, tag="kept", frozen=True):
    """The manifest was kept."""


Answer = Opened | Cut | Finished | Kept | Failed

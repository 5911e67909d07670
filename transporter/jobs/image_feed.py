"""A disk image as the feed of a backup: aligned blocks of 1 MiB, each a chunk; holes and zero blocks never travel."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.chunk import Unit
from transporter.jobs.manifest_stream import ManifestStream
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import ContentChunk, MetadataChunk
from transporter.workloads.cached_manifest import CacheWriter
from transporter.workloads.image import Block, ImageManifest, ImageReader
from transporter.workloads.notes import Note


class ImageFeed:
    """``fill`` runs in the reader's thread, ``cut`` in the cutter's."""

    files = 1
    files_unchanged = 0

    def __init__(self, path: bytes, id_of: Callable[[memoryview], bytes], needs: Needs, cache: CacheWriter) -> None:
        self._reader = ImageReader(path)
        self._manifest = ManifestStream(id_of, needs, cache, self._reader.roots)
        self._records = ImageManifest(self._reader.entry())
        self._id_of = id_of

    @property
    def bytes_total(self) -> int:
        """Size of the image."""
        return self._reader.bytes_total

    @property
    def bytes_expected(self) -> int | None:
        """Size of the image."""
        return self._reader.bytes_total

    @property
    def manifest_chunks(self) -> list[tuple[bytes, int]]:
        """The metadata chunks so far: (id, plain length)."""
        return self._manifest.chunks

    @property
    def fsi_chunks(self) -> list[tuple[bytes, int]]:
        """The blocks of the file-system index so far: (id, plain length)."""
        return self._manifest.fsi_chunks

    def take_notes(self) -> list[Note]:
        """Return a note when the image changed while it was read; one that cannot be read fails the job."""
        return self._reader.take_notes() if self._reader.finished else []

    def keep_manifest(self) -> None:
        """Make this manifest the one that the next run compares with."""
        self._manifest.keep()

    def close(self) -> None:
        """Close every file."""
        self._reader.close()
        self._manifest.close()

    def fill(self, block: memoryview) -> tuple[int, list[Block], bool]:
        """Fill a block with image blocks that hold data; their places travel beside them."""
        blocks = self._reader.next_blocks(block)
        length = blocks[-1].at + blocks[-1].length if blocks else 0
        return length, blocks, self._reader.finished

    def cut(self, unit: Unit) -> tuple[list[ContentChunk], list[MetadataChunk]]:
        """Return one chunk for each block of the image, and metadata."""
        content = [self._chunk(unit, block) for block in unit.pending]
        if unit.last:
            self._records.finish()
        self._manifest.add(self._records.take_ready())
        return content, self._manifest.take(last=unit.last)

    def _chunk(self, unit: Unit, block: Block) -> ContentChunk:
        chunk_id = self._id_of(unit.buffer.block[block.at : block.at + block.length])
        self._records.add(chunk_id, block.offset, block.length)
        return ContentChunk(chunk_id, unit.buffer.headroom + block.at, block.length)

"""A file tree or a stream as the feed of a backup: content for the cutter, entries for the manifest."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.chunk import Unit
from pipeline.chunker import CONTENT_SIZES, StreamCutter
from transporter.jobs.manifest_stream import ManifestStream
from transporter.jobs.read_messages import ContentChunk, MetadataChunk
from transporter.workloads.manifest_builder import ManifestBuilder
from transporter.workloads.notes import Note
from transporter.workloads.pending import Pending
from transporter.workloads.stream import StreamReader
from transporter.workloads.tree_scan import TreeScanner

# Entries that wait for one unfinished chunk: a cut is forced rather than let them grow without end.
PENDING_AT_MOST = 20_000


class ContentFeed:
    """``fill`` runs in the reader's thread, ``cut`` in the cutter's: they share nothing but units."""

    def __init__(
        self, scanner: TreeScanner | StreamReader, manifest: ManifestStream, id_of: Callable[[memoryview], bytes]
    ) -> None:
        self._scanner = scanner
        self._manifest = manifest
        self._id_of = id_of
        self._cutter = StreamCutter(CONTENT_SIZES)
        self._builder = ManifestBuilder()
        self._offset = 0
        self.bytes_expected: int | None = None

    @property
    def files(self) -> int:
        """Regular files met so far."""
        return self._scanner.files

    @property
    def files_unchanged(self) -> int:
        """Those of them that were not read."""
        return self._scanner.files_unchanged

    @property
    def bytes_total(self) -> int:
        """Plain size of everything met so far."""
        return self._scanner.bytes_total

    @property
    def roots(self) -> list[bytes]:
        """What was asked for, as stored in entries."""
        return self._scanner.roots

    @property
    def manifest_chunks(self) -> list[tuple[bytes, int]]:
        """The metadata chunks so far: (id, plain length)."""
        return self._manifest.chunks

    @property
    def fsi_chunks(self) -> list[tuple[bytes, int]]:
        """The blocks of the file-system index so far: (id, plain length)."""
        return self._manifest.fsi_chunks

    def take_notes(self) -> list[Note]:
        """Return the notes since the last call."""
        return self._scanner.take_notes()

    def keep_manifest(self) -> None:
        """Make this manifest the one that the next run compares with."""
        self._manifest.keep()

    def close(self) -> None:
        """Close every file."""
        self._scanner.close()
        self._manifest.close()

    def fill(self, block: memoryview) -> tuple[int, list[Pending], bool]:
        """Fill a block with file contents; the entries that were met travel beside it."""
        length = self._scanner.fill(block)
        return length, self._scanner.take_entries(), self._scanner.finished

    def cut(self, unit: Unit) -> tuple[list[ContentChunk], list[MetadataChunk]]:
        """Return the chunks that this unit completes: content and metadata."""
        self._builder.add_pending(unit.pending)
        crowded = self._builder.pending_count > PENDING_AT_MOST
        at = unit.buffer.headroom - self._cutter.waiting
        content = []
        for piece in self._cutter.cut(unit.buffer, unit.length, last=unit.last or crowded):
            chunk_id = self._id_of(piece)
            self._builder.chunk_cut(chunk_id, self._offset, len(piece))
            self._offset += len(piece)
            content.append(ContentChunk(chunk_id, at, len(piece)))
            at += len(piece)
        self._manifest.add(self._builder.take_ready())
        return content, self._manifest.take(last=unit.last)

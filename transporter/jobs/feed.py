"""What a backup reads from, whatever the workload: blocks of content, chunks with their ids, and a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.chunk import Unit
from transporter.jobs.content_feed import ContentFeed
from transporter.jobs.image_feed import ImageFeed
from transporter.jobs.manifest_stream import ManifestStream
from transporter.jobs.needs import Needs
from transporter.jobs.read_messages import ContentChunk, MetadataChunk, Open
from transporter.keys.chunk_id import ChunkIdKey
from transporter.workloads.cached_manifest import CachedManifest
from transporter.workloads.entry import Entry
from transporter.workloads.notes import Note
from transporter.workloads.stream import StreamReader
from transporter.workloads.tree_scan import TreeScanner

# The reader looks up between so many entries, so that an unchanged tree still moves in small units.
ENTRIES_PER_UNIT = 8192
STDIN = 0


class Feed(Protocol):
    """``fill`` runs in the reader's thread and ``cut`` in the cutter's; the rest in the event loop."""

    @property
    def files(self) -> int:
        """Regular files met so far."""

    @property
    def files_unchanged(self) -> int:
        """Those of them that were not read."""

    @property
    def bytes_total(self) -> int:
        """Plain size of everything met so far."""

    @property
    def bytes_expected(self) -> int | None:
        """Plain size of the whole, where it is known beforehand."""

    @property
    def manifest_chunks(self) -> list[tuple[bytes, int]]:
        """The metadata chunks so far: (id, plain length)."""

    @property
    def fsi_chunks(self) -> list[tuple[bytes, int]]:
        """The blocks of the file-system index so far: (id, plain length)."""

    def fill(self, block: memoryview) -> tuple[int, Any, bool]:
        """Fill a block; return (bytes, what travels beside them, whether that was the end)."""

    def cut(self, unit: Unit) -> tuple[list[ContentChunk], list[MetadataChunk]]:
        """Return the chunks that a unit completes, with their ids: content and metadata."""

    def take_notes(self) -> list[Note]:
        """Return what happened to files since the last call."""

    def keep_manifest(self) -> None:
        """The point is committed: the next run may build on this manifest."""

    def close(self) -> None:
        """Let go of files."""


def _previous(cache: CachedManifest, identity: bytes) -> Iterator[Entry]:
    """Open the last run's manifest at the first entry that is asked for: a run that cannot begin opens nothing."""
    yield from cache.read(identity) or ()


def open_feed(order: Open, needs: Needs) -> Feed:
    """Return the feed of a job's workload. Raises UsageError when what should be read is not there."""
    key = ChunkIdKey(order.chunk_id_key)
    cache = CachedManifest(order.manifest_path)
    writer = cache.writer(order.identity)
    try:
        if order.workload == "image":
            return ImageFeed(order.paths[0], key.id_of, needs, writer)
        reader: TreeScanner | StreamReader
        if order.workload == "stream":
            reader = StreamReader(STDIN, order.stdin_name)
        else:
            previous = _previous(cache, order.parent) if order.parent else None
            reader = TreeScanner(order.paths, previous, exclude=order.exclude, max_entries=ENTRIES_PER_UNIT)
        return ContentFeed(reader, ManifestStream(key.id_of, needs, writer, reader.roots), key.id_of)
    except BaseException:
        writer.discard()
        raise

"""The manifest on its way out: entries → bytes → metadata chunks; beside it the FSI, and a copy for the next run.

    stream = u32 BE length | msgpack Preamble | manifest (workloads/manifest.py)

The preamble holds what a restore must know first; it names files, so it is sealed with the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.chunker import MANIFEST_SIZES, StreamCutter
from transporter.jobs.needs import Needs
from transporter.jobs.preamble import Preamble, encode_preamble
from transporter.jobs.read_messages import MetadataChunk
from transporter.workloads.cached_manifest import CacheWriter
from transporter.workloads.entry import CONTINUATION, UNTRUSTED, Entry
from transporter.workloads.fsi_builder import FsiBuilder, fsi_seed
from transporter.workloads.manifest import ManifestEncoder, encode_records

# Cut in runs of this many bytes: the cutter needs more than one maximum chunk at a time to be worth its call.
CUT_BYTES = 512 << 10


class ManifestStream:
    """Takes entries in path order; gives metadata chunks. One thread at a time.

    ``cache`` takes the same entries for the next run to compare with; it counts only after ``keep``.
    """

    def __init__(
        self, id_of: Callable[[memoryview], bytes], needs: Needs, cache: CacheWriter, roots: Sequence[bytes]
    ) -> None:
        self._id_of = id_of
        self._needs = needs
        self._encoder = ManifestEncoder()
        self._cutter = StreamCutter(MANIFEST_SIZES)
        self._rest = bytearray(encode_preamble(Preamble(list(roots))))
        self._cache = cache
        self._fsi = FsiBuilder(fsi_seed(id_of))
        self._blocks: list[bytes] = []
        self.fsi_chunks: list[tuple[bytes, int]] = []
        self.chunks: list[tuple[bytes, int]] = []

    def add(self, entries: Sequence[Entry]) -> None:
        """Append entries and note the chunks that they need. They are encoded once, for the point and for the copy."""
        need = self._needs.add
        distrusted = []
        for entry in entries:
            if entry.packed_extents:
                for chunk_id in entry.chunk_ids():
                    need(chunk_id)
            if entry.flags & UNTRUSTED and entry.flags & CONTINUATION:
                distrusted.append(entry.path)
        for records in encode_records(entries):
            self._encoder.extend(records)
            self._cache.add(records, distrusted)
            distrusted = []
        self._blocks += self._fsi.add(entries)

    def take(self, *, last: bool = False) -> list[MetadataChunk]:
        """Return the metadata chunks that are complete; with ``last`` all that is left."""
        if last:
            self._encoder.finish()
            self._blocks += self._fsi.finish()
        chunks = [self._chunk(piece, self.chunks) for piece in self._pieces(last=last)]
        blocks, self._blocks = self._blocks, []
        chunks += [self._chunk(memoryview(block), self.fsi_chunks, fsi=True) for block in blocks]
        return chunks

    def _pieces(self, *, last: bool) -> list[memoryview]:
        if not last and self._encoder.waiting < CUT_BYTES:
            return []
        self._rest += self._encoder.take()
        data = bytes(self._rest)
        pieces = self._cutter.cut_whole(memoryview(data))
        self._rest = bytearray(pieces.pop()) if pieces and not last else bytearray()
        return pieces

    def _chunk(self, piece: memoryview, listed: list[tuple[bytes, int]], *, fsi: bool = False) -> MetadataChunk:
        chunk_id = self._id_of(piece)
        self._needs.add(chunk_id)
        listed.append((chunk_id, len(piece)))
        return MetadataChunk(chunk_id, bytes(piece), fsi)

    def keep(self) -> None:
        """Make the copy the one that the next run uses."""
        self._cache.commit()

    def close(self) -> None:
        """Remove the copy if it was not kept."""
        self._cache.discard()

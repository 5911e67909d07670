"""A file of a mounted point: bytes at any offset, and what is likely to be wanted next on its way already."""

from __future__ import annotations

from typing import Protocol

from transporter.workloads.entry import EXTENT
from transporter.workloads.file_map import FileMap, FilePiece
from transporter.workloads.tree_index import TreeIndex

AHEAD_BYTES = 16 << 20
"""What is asked for ahead of a reader: a line of 1 Gbit/s and 120 ms."""
STEP = 1 << 20
"""How far a reader moves before more is asked for; and how far from the last end a read may begin, and still be the
next one: the kernel asks for several at once, which do not arrive in order."""
SWEEP = 256
"""Entries that are looked at for what comes next, where small files are read one after the other …"""
SWEEP_CHUNKS = 4
"""… and the chunks that are asked for ahead then."""


class Chunks(Protocol):
    """Where chunks come from: a `KeptPoint`."""

    def here(self, chunk_id: bytes) -> memoryview | None:
        """Return a chunk that is in the cache."""

    async def chunk(self, chunk_id: bytes, reach: int) -> memoryview:
        """Return a chunk; its length is ``reach`` at least."""

    def ahead(self, chunk_id: bytes, reach: int) -> None:
        """Begin to load a chunk."""


class MountedFile:
    """One open file. For the thread of the event loop."""

    def __init__(self, chunks: Chunks, tree: TreeIndex, number: int) -> None:
        self._chunks = chunks
        self._map = FileMap(tree, number)
        self._next = 0
        self._asked = 0

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return bytes of the file; less than ``length`` only at its end. Raises Away, DamagedData."""
        pieces = self._map.pieces(offset, length)
        self._look_ahead(offset, length)
        if len(pieces) == 1:
            return await self._piece(pieces[0])
        return b"".join([await self._piece(piece) for piece in pieces])

    async def _piece(self, piece: FilePiece) -> bytes | memoryview:
        chunk_id, offset, length = piece
        if not chunk_id:
            return bytes(length)
        plain = self._chunks.here(chunk_id)
        if plain is None or len(plain) < offset + length:
            plain = await self._chunks.chunk(chunk_id, offset + length)
        return plain[offset : offset + length]

    def _look_ahead(self, offset: int, length: int) -> None:
        in_order = abs(offset - self._next) <= STEP
        end = offset + length
        if not in_order:
            self._next = self._asked = end
            return
        self._next = max(self._next, end)
        start = max(self._asked, end)
        target = min(self._next + AHEAD_BYTES, self._map.size)
        if target - start < min(STEP, max(self._map.size - start, 1)):
            return
        for chunk_id, at, some in self._map.pieces(start, target - start):
            if chunk_id:
                self._chunks.ahead(chunk_id, at + some)
        self._asked = target


class Sweep:
    """Notices that small files are read one after the other, and asks for the chunks of those that come next."""

    def __init__(self, chunks: Chunks, tree: TreeIndex) -> None:
        self._chunks = chunks
        self._tree = tree
        self._last = -1
        self._seen = 0

    def opened(self, number: int) -> None:
        """Note that a file was opened."""
        in_order = self._last < number <= self._last + SWEEP
        self._last = number
        if not in_order:
            self._seen = number
            return
        if self._seen > number + SWEEP // 2:
            return
        found: set[bytes] = set()
        at = max(self._seen, number + 1)
        stop = min(number + SWEEP, self._tree.count)
        while at < stop and len(found) < SWEEP_CHUNKS:
            entry = self._tree.entry(at)
            if entry.kind == "f" and len(entry.packed_extents) == EXTENT.size:
                chunk_id, offset, length = EXTENT.unpack(entry.packed_extents)
                if chunk_id not in found:
                    found.add(chunk_id)
                    self._chunks.ahead(chunk_id, offset + length)
            at += 1
        self._seen = at

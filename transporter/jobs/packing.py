"""Plain chunks → stored chunks, ready for their frame: compress, then seal or not, by trust zone.

Composed once for each run; no function here asks in which zone it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipeline.chunk import Chunk
from pipeline.compress import compress, compress_zstd
from pipeline.trust_zone import Stage
from pipeline.zstd import ZstdCompressors
from protocol.data import HEADROOM
from transporter.jobs.index_cache import IndexCache, StoredBlock
from transporter.keys.session_key import sealed_length
from transporter.points.run_keys import RunKeys

PLAIN_FORM = 0
Place = Callable[[Chunk, bytes | bytearray | memoryview], bytearray]


class Pack(Protocol):
    """Turns a plain chunk into its stored form, in place."""

    def __call__(self, chunk: Chunk, level: int = 0) -> None:
        """Pack ``chunk`` by lz4 (level 0) or by zstd at a level. Any thread."""


def place_plain(_chunk: Chunk, coded: bytes | bytearray | memoryview) -> bytearray:
    """Return ``[headroom][0x00][coded]``: the plain form."""
    memory = bytearray(HEADROOM + 1 + len(coded))
    memory[HEADROOM] = PLAIN_FORM
    memory[HEADROOM + 1 :] = coded
    return memory


def place_sealed(keys: RunKeys) -> Place:
    """Return what seals a chunk into ``[headroom][0x01 …]``."""

    def place(chunk: Chunk, coded: bytes | bytearray | memoryview) -> bytearray:
        memory = bytearray(HEADROOM + sealed_length(len(coded)))
        with memoryview(memory)[HEADROOM:] as out:
            sealer = keys.sealer(metadata=chunk.metadata, fsi=chunk.fsi)
            sealer.seal_into(out, chunk.chunk_id, chunk.codec, chunk.plain_length, coded)
        return memory

    return place


def compose_packing(stages: tuple[Stage, ...], keys: RunKeys | None) -> Pack:
    """Return the function that turns a plain chunk into its stored form, in place; thread-safe.

    ``stages`` come from the trust zone; ``keys`` are needed when sealing is among them.
    """
    place: Place = place_plain
    if Stage.ENCRYPT in stages:
        if keys is None:
            raise ValueError("sealing needs the keys of the run")
        place = place_sealed(keys)

    compressors = ZstdCompressors()

    def pack(chunk: Chunk, level: int = 0) -> None:
        chunk.codec, coded = compress_zstd(chunk.data, level, compressors) if level else compress(chunk.data)
        chunk.data = place(chunk, coded)

    return pack


def keep_index(pack: Pack, cache: IndexCache) -> Pack:
    """Return ``pack``, which then keeps what it sealed of the file-system index: who searches here asks no peer."""

    def packed(chunk: Chunk, level: int = 0) -> None:
        pack(chunk, level)
        if chunk.fsi:
            stored = bytes(memoryview(chunk.data)[HEADROOM:])
            if cache.put(StoredBlock(chunk.chunk_id, chunk.codec, chunk.plain_length, stored)):
                cache.flush()

    return packed

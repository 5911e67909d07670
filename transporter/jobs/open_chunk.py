"""A stored chunk → its plaintext: opened, decompressed, and proved to be the one that its id names."""

from __future__ import annotations

from pipeline.compress import DecompressionError, decompress
from transporter.errors import DamagedData
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.session_key import Bytes, ChunkOpener


def open_chunk(
    opener: ChunkOpener,
    key: ChunkIdKey,
    longest: int,
    chunk_id: bytes,
    codec: int,
    plain_length: int,
    stored: Bytes,
) -> memoryview:
    """Open one chunk of at most ``longest`` plain bytes. Raises DamagedData, and NoKey as `ChunkOpener.open` does."""
    if plain_length > longest:
        raise DamagedData("a chunk claims to be longer than any can be", "run scrub at the target")
    data = opener.open(chunk_id, codec, plain_length, stored)
    try:
        plain = memoryview(decompress(codec, data, plain_length))
    except DecompressionError as error:
        raise DamagedData(f"a chunk cannot be decompressed: {error}", "run scrub at the target") from error
    # Its id is a keyed hash of what must come out.
    if key.id_of(plain) != chunk_id:
        raise DamagedData("a chunk is not the one that its id names", "run scrub at the target")
    return plain

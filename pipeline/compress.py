"""lz4 for one chunk; what does not shrink is kept as it is."""

from __future__ import annotations

import lz4.block

from pipeline.chunk import CODEC_LZ4, CODEC_RAW


class DecompressionError(Exception):
    """The coded bytes do not give the plain length that goes with them."""


def compress(data: bytes | bytearray | memoryview) -> tuple[int, bytes | bytearray | memoryview]:
    """Return (codec, coded bytes). Falls back to raw where lz4 gains less than 1/32 (restoring it costs more)."""
    coded: bytes = lz4.block.compress(data, store_size=False)
    if len(coded) >= len(data) - (len(data) >> 5):
        return CODEC_RAW, data
    return CODEC_LZ4, coded


def decompress(codec: int, data: bytes | bytearray | memoryview, plain_length: int) -> bytes | bytearray | memoryview:
    """Undo ``compress``. ``plain_length`` must be authenticated and bounded by the caller: it is what gets allocated.

    Raises DecompressionError for an unknown codec, for bytes that are not lz4, and for any other length.
    """
    if codec == CODEC_RAW:
        plain: bytes | bytearray | memoryview = data
    elif codec == CODEC_LZ4:
        try:
            # The size is never read from the data (a bomb could claim anything); it is a hard cap here.
            plain = lz4.block.decompress(data, uncompressed_size=plain_length)
        except lz4.block.LZ4BlockError as error:
            raise DecompressionError("the chunk is not valid lz4") from error
    else:
        raise DecompressionError(f"unknown codec {codec}")
    if len(plain) != plain_length:
        raise DecompressionError(f"{len(plain)} bytes came out where {plain_length} were announced")
    return plain

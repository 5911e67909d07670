"""lz4 or zstd for one chunk; what does not shrink is kept as it is."""

from __future__ import annotations

import lz4.block

from pipeline.chunk import CODEC_LZ4, CODEC_RAW, CODEC_ZSTD
from pipeline.zstd import FrameError, ZstdCompressors, decompress_frame

Bytes = bytes | bytearray | memoryview

# What says whether a chunk shrinks at all: three pieces, 5 % of an ordinary chunk.
_SAMPLE = 16 << 10


class DecompressionError(Exception):
    """The coded bytes do not give the plain length that goes with them."""


def _gains(coded: int, plain: int) -> bool:
    """Tell whether it is worth while: below 1/32 less, opening it again costs more than it saves."""
    return coded < plain - (plain >> 5)


def compress(data: Bytes) -> tuple[int, Bytes]:
    """Return (codec, coded bytes) by lz4. Falls back to raw where that gains little."""
    coded: bytes = lz4.block.compress(data, store_size=False)
    return (CODEC_LZ4, coded) if _gains(len(coded), len(data)) else (CODEC_RAW, data)


def compress_zstd(data: Bytes, level: int, compressors: ZstdCompressors) -> tuple[int, Bytes]:
    """Return (codec, coded bytes) by zstd. Falls back to raw where that gains little.

    A chunk of which lz4 finds nothing to save in a few samples (media, archives, what is encrypted) gets the fastest
    level whatever ``level`` is: a higher one would cost ten times as much and find no more. Not lz4 and not raw: what
    has no repetitions may still have fewer than 256 signs (base64, hexadecimal digits), and zstd packs those.
    """
    coded = compressors.compress(data, level if _repeats(data) else min(level, 1))
    return (CODEC_ZSTD, coded) if _gains(len(coded), len(data)) else (CODEC_RAW, data)


def _repeats(data: Bytes) -> bool:
    """Tell whether lz4 finds something in the beginning, the middle and the end of ``data``."""
    length = len(data)
    if length <= 4 * _SAMPLE:
        return True
    with memoryview(data) as view:
        starts = (0, (length - _SAMPLE) // 2, length - _SAMPLE)
        found = sum(len(lz4.block.compress(view[at : at + _SAMPLE], store_size=False)) for at in starts)
    return _gains(found, len(starts) * _SAMPLE)


def decompress(codec: int, data: Bytes, plain_length: int) -> Bytes:
    """Undo ``compress``. ``plain_length`` must be authenticated and bounded by the caller: it is what gets allocated.

    Raises DecompressionError for an unknown codec, for bytes that are not of this codec, and for any other length.
    """
    if codec == CODEC_RAW:
        plain: Bytes = data
    elif codec == CODEC_LZ4:
        try:
            # The size is never read from the data (a bomb could claim anything); it is a hard cap here.
            plain = lz4.block.decompress(data, uncompressed_size=plain_length)
        except lz4.block.LZ4BlockError as error:
            raise DecompressionError("the chunk is not valid lz4") from error
    elif codec == CODEC_ZSTD:
        try:
            plain = decompress_frame(data, plain_length)
        except FrameError as error:
            raise DecompressionError(str(error)) from error
    else:
        raise DecompressionError(f"unknown codec {codec}")
    if len(plain) != plain_length:
        raise DecompressionError(f"{len(plain)} bytes came out where {plain_length} were announced")
    return plain

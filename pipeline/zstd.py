"""zstd as chunks use it: one frame for each chunk, with its content size, no checksum, no dictionary.

The objects of the library are not thread-safe, and each holds tables of several MiB: they are kept, and lent to one
call at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

import zstandard

Bytes = bytes | bytearray | memoryview

# The window of every level. Chunks of 1 MiB are the average; for those of 4 MiB a larger one would take four times the
# memory (50 MiB for each processor at level 12) and find 1 % more.
WINDOW: Final = 1 << 20
# The smallest window that the format knows.
_LEAST_WINDOW: Final = 1 << 10


class FrameError(Exception):
    """The bytes are not the one frame of the announced length that a chunk has."""


class ZstdCompressors:
    """Compressors of one run, lent to one call at a time: at most as many as there are threads at work."""

    def __init__(self) -> None:
        # What a deque does with one item at its end is atomic.
        self._idle: deque[tuple[int, zstandard.ZstdCompressor]] = deque()

    def compress(self, data: Bytes, level: int) -> bytes:
        """Return ``data`` as one frame. Any thread; releases the GIL."""
        compressor = self._take(level)
        coded = compressor.compress(data)
        self._idle.append((level, compressor))
        return coded

    def _take(self, level: int) -> zstandard.ZstdCompressor:
        while True:
            try:
                made_for, compressor = self._idle.pop()
            except IndexError:
                return _compressor(level)
            if made_for == level:
                return compressor
            # One of another level is let go of, with its tables: levels change seldom.


def _compressor(level: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=WINDOW, write_content_size=True, write_checksum=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


class _Decompressors(threading.local):
    """One for each thread: 100 KiB."""

    def __init__(self) -> None:
        self.one = zstandard.ZstdDecompressor()


_decompressors = _Decompressors()


def decompress_frame(data: Bytes, plain_length: int) -> bytes:
    """Return the content of the one frame in ``data``. Raises FrameError; releases the GIL.

    What is allocated depends on ``plain_length`` alone: the library takes the size of its buffer from the frame, and
    its window, too, so both are looked at before it is called.
    """
    try:
        frame = zstandard.get_frame_parameters(data)
    except (zstandard.ZstdError, ValueError) as error:
        raise FrameError("the chunk is not valid zstd") from error
    if frame.dict_id:
        raise FrameError("the chunk asks for a zstd dictionary, and there are none")
    if frame.content_size != plain_length or plain_length == 0:
        raise FrameError(f"the chunk does not announce the {plain_length} bytes that it should have")
    if frame.window_size > max(plain_length, _LEAST_WINDOW):
        raise FrameError("the chunk asks for a larger window than it has bytes")
    try:
        return _decompressors.one.decompress(data, max_output_size=plain_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError("the chunk is not valid zstd") from error

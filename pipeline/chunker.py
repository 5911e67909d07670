"""Cut a stream of content into chunks: by content (FastCDC 2020, Xia et al.) or in fixed blocks.

A cutter gets the stream block by block. Because of where FastCDC looks, every cut but the last one of a block is final;
the bytes behind the last cut are carried into the headroom of the next buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyfastcdc import FastCDC

from pipeline.chunk import Buffer


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Minimum, average and maximum chunk length in bytes."""

    minimum: int
    average: int
    maximum: int


CONTENT_SIZES = ChunkSizes(256 << 10, 1 << 20, 4 << 20)
MANIFEST_SIZES = ChunkSizes(16 << 10, 64 << 10, 256 << 10)


class StreamCutter:
    """FastCDC over a stream that arrives in buffers with headroom."""

    def __init__(self, sizes: ChunkSizes) -> None:
        self._cdc = FastCDC(min_size=sizes.minimum, avg_size=sizes.average, max_size=sizes.maximum)
        self._maximum = sizes.maximum
        self._tail = b""

    def cut(self, buffer: Buffer, length: int, *, last: bool) -> list[memoryview]:
        """Return the chunks that end in this block, as views into ``buffer``, in stream order.

        ``last`` closes the stream: the rest becomes a chunk too.
        """
        tail = self._tail
        if len(tail) > buffer.headroom:
            raise ValueError("the headroom is smaller than the largest chunk")
        start = buffer.headroom - len(tail)
        buffer.memory[start : buffer.headroom] = tail
        data = buffer.memory[start : buffer.headroom + length]
        pieces = self.cut_whole(data)
        # A piece of maximum length is final even when it ends the block.
        if pieces and not last and len(pieces[-1]) < self._maximum:
            self._tail = bytes(pieces.pop())
        else:
            self._tail = b""
        return pieces

    def cut_whole(self, data: memoryview) -> list[memoryview]:
        """Cut ``data`` as if it were the whole stream."""
        if not data:
            return []
        return [data[piece.offset : piece.offset + piece.length] for piece in self._cdc.cut_buf(data)]

    @property
    def waiting(self) -> int:
        """Bytes that were given and not yet cut."""
        return len(self._tail)

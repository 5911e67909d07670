"""What flows through a pipeline: units of raw content, and the chunks that are cut from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CODEC_RAW = 0
CODEC_LZ4 = 1
CODEC_ZSTD = 2


class Buffer:
    """A reusable piece of memory that a reader fills and a cutter cuts.

    Layout: ``[headroom][block]``. The reader fills the block; the chunker puts the unfinished tail of the
    block before it into the headroom, directly in front, so that a chunk never crosses two buffers and the
    bulk is never copied. Memory touched for the first time is dear on virtual machines, hence the reuse.
    """

    __slots__ = ("headroom", "memory")

    def __init__(self, memory: memoryview, headroom: int) -> None:
        self.memory = memory
        self.headroom = headroom

    @property
    def block(self) -> memoryview:
        """The part that the reader fills."""
        return self.memory[self.headroom :]


class SharedBuffer:
    """Counts the chunks that lie in one buffer; the last one that is let go gives it back."""

    __slots__ = ("_give_back", "_users")

    def __init__(self, users: int, give_back: Callable[[], None]) -> None:
        self._users = users
        self._give_back = give_back

    def drop(self) -> None:
        """Count one user less."""
        self._users -= 1
        if self._users == 0:
            self._give_back()


@dataclass(slots=True)
class Unit:
    """One read: ``length`` bytes at the start of ``buffer.block``; ``last`` marks the end of the content.

    ``pending`` is whatever the workload wants to travel beside the bytes (entries that wait for their extents).
    """

    buffer: Buffer
    length: int
    pending: Any = None
    last: bool = False


@dataclass(slots=True)
class Chunk:
    """One chunk on its way out.

    ``data`` is plain content first (a view into ``buffer``), then, once packed, memory of its own with
    ``headroom`` free bytes in front for the frame that will carry it.
    """

    chunk_id: bytes
    plain_length: int
    data: bytes | bytearray | memoryview = field(repr=False)
    metadata: bool = False
    fsi: bool = False
    codec: int = CODEC_RAW
    buffer: SharedBuffer | None = field(default=None, repr=False)
    headroom: int = 0

    @property
    def size(self) -> int:
        """Bytes that the chunk holds in memory."""
        return len(self.data)

    def let_go(self) -> None:
        """Give up the share of the reader's buffer, if there is one."""
        if self.buffer is not None:
            self.buffer.drop()
            self.buffer = None

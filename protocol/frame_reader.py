"""Cuts a byte stream into frames: a length is checked before memory is allocated; each frame gets memory of its own.

A frame's memory has room for the next frame's length word too: so a stream of frames costs one receive call per frame
and not two. That memory belongs to whoever gets the frame and is never used again here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol import limits
from protocol.errors import LocalProtocolError
from protocol.frame import LENGTH

_WORD: Final = limits.LENGTH_WORD


class FrameReader:
    """Incremental: `get_buffer`, fill it, `buffer_updated`, `next_frame` until it returns None.

    ``first`` bytes without a length word come before the first frame (0: none). ``check_length`` raises on a length
    that is not allowed.
    """

    def __init__(self, check_length: Callable[[int], None], *, first: int = 0) -> None:
        self._check_length = check_length
        self._word = bytearray(_WORD)
        self._in_word = first == 0
        # The part that is being filled, how much of it is there, and how much makes it whole.
        self._memory = memoryview(self._word) if self._in_word else memoryview(bytearray(first + _WORD))
        self._filled = 0
        self._need = _WORD if self._in_word else first

    @property
    def pending(self) -> bool:
        """Tell whether a part of a frame is here."""
        return self._filled > 0 or not self._in_word

    @property
    def missing(self) -> int:
        """Return how many bytes are certain to come if the peer goes on: what makes the current part whole.

        Less than `get_buffer` has room for, which is also there for the beginning of what comes next.
        """
        return self._need - self._filled

    def get_buffer(self) -> memoryview:
        """Return memory to receive into; never empty. Raises LocalProtocolError while a whole frame waits."""
        if self._filled >= self._need:
            raise LocalProtocolError("take the next event before receiving more")
        return self._memory[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Note that ``count`` bytes were put at the start of the buffer."""
        if not 0 <= count <= len(self._memory) - self._filled:
            raise LocalProtocolError("more bytes than the buffer has")
        self._filled += count

    def next_frame(self) -> memoryview | None:
        """Return the next whole frame without its length word, in memory of its own; None while it is incomplete."""
        while self._filled >= self._need:
            if not self._in_word:
                return self._take()
            (length,) = LENGTH.unpack(self._word)
            self._check_length(length)
            self._memory = memoryview(bytearray(length + _WORD))
            self._filled, self._need, self._in_word = 0, length, False
        return None

    def _take(self) -> memoryview:
        memory, need, filled = self._memory, self._need, self._filled
        over = filled - need
        self._word[:over] = memory[need:filled]
        self._memory = memoryview(self._word)
        self._filled, self._need, self._in_word = over, _WORD, True
        return memory[:need]

"""What every message is."""

from __future__ import annotations

from typing import ClassVar


class Message:
    """Base of all messages. ``PAYLOAD`` is the most bytes that may follow the header."""

    __slots__ = ()
    KIND: ClassVar[int]
    PAYLOAD: ClassVar[int] = 0
    IN_PAYLOAD: ClassVar[str | None] = None

"""Chunks in the clear for whoever reads here and there: loaded once however many wait, kept while there is room.

Loading goes on when whoever asked has given up, so that the next one finds the chunk.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from transporter.errors import TransporterError

MOST_BYTES = 64 << 20
"""Bytes of chunks that are kept: what is read ahead (16 MiB) several times over, so that a few readers go well."""


@dataclass(eq=False)
class Slot:
    """A chunk on its way, or here. ``plain`` or ``error`` is there once ``ready``."""

    chunk_id: bytes
    reach: int
    ready: trio.Event = field(default_factory=trio.Event)
    plain: memoryview | None = field(default=None, repr=False)
    error: TransporterError | None = None


class ChunkCache:
    """Least recently used goes first. For the thread of the event loop."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()
        self.bytes_kept = 0

    def __len__(self) -> int:
        return len(self._slots)

    def here(self, chunk_id: bytes) -> memoryview | None:
        """Return a chunk that is here."""
        slot = self._slots.get(chunk_id)
        if slot is None or slot.plain is None:
            return None
        self._slots.move_to_end(chunk_id)
        return slot.plain

    def slot(self, chunk_id: bytes, reach: int) -> tuple[Slot, bool]:
        """Return the slot of a chunk, and whether it is a new one, which the caller has to see filled."""
        slot = self._slots.get(chunk_id)
        if slot is not None:
            self._slots.move_to_end(chunk_id)
            return slot, False
        slot = self._slots[chunk_id] = Slot(chunk_id, reach)
        return slot, True

    def fill(self, slot: Slot, plain: memoryview) -> None:
        """Keep a chunk; what was not used for the longest time goes."""
        slot.plain = plain
        self.bytes_kept += len(plain)
        slot.ready.set()
        for old in list(self._slots.values()):
            if self.bytes_kept <= self._most:
                return
            if old.plain is not None and old is not slot:
                self._drop(old)

    def fail(self, slot: Slot, error: TransporterError) -> None:
        """Tell whoever waits that a chunk does not come; who asks anew has it loaded anew."""
        slot.error = error
        slot.ready.set()
        self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        if self._slots.get(slot.chunk_id) is slot:
            del self._slots[slot.chunk_id]
            self.bytes_kept -= len(slot.plain) if slot.plain is not None else 0

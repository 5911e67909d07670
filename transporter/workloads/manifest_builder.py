"""Turns pending entries and chunk cuts into finished entries, both in the order of the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from transporter.workloads.entry import (
    CONTINUATION,
    EXTENT,
    HOLE,
    MAX_RECORD_EXTENTS,
    MAX_RECORD_HOLES,
    MORE,
    Entry,
)
from transporter.workloads.pending import OPEN_END, Pending


class ManifestBuilder:
    """Give it what ``take_entries`` returned and every chunk's cut; take entries that know their chunks.

    One thread at a time; the source may go on filling buffers in another. Memory: the entries that wait for a cut.
    """

    def __init__(self) -> None:
        self._waiting: deque[Pending] = deque()
        self._ready: list[Entry] = []
        self._cursor = 0  # how much of the stream has been cut
        self._extents = bytearray()  # of the entry at the head
        self._data = 0  # bytes of content of the head entry that are resolved
        self._hole_index = 0  # how many numbers of the head's holes are in finished records
        self._hole_bytes = 0

    @property
    def pending_count(self) -> int:
        """How many entries wait for chunks: when it grows large, the job should force a cut."""
        return len(self._waiting)

    def add_pending(self, entries: Iterable[Pending]) -> None:
        """Add entries in path order."""
        self._waiting.extend(entries)
        self._drain()

    def chunk_cut(self, chunk_id: bytes, stream_offset: int, length: int) -> None:
        """Say that bytes ``stream_offset`` to ``stream_offset + length`` of the stream are that chunk.

        Cuts must follow each other without a gap, and entries be added before the cut that holds their content.
        """
        if stream_offset != self._cursor:
            raise ValueError(f"a cut at {stream_offset}, expected at {self._cursor}")
        waiting = self._waiting
        chunk_end = stream_offset + length
        self._drain()
        while (cursor := self._whole_entries(chunk_id, stream_offset, chunk_end)) < chunk_end and waiting:
            head = waiting[0]
            end = chunk_end if head.end == OPEN_END else min(head.end, chunk_end)
            self._extents += EXTENT.pack(chunk_id, cursor - stream_offset, end - cursor)
            self._data += end - cursor
            self._cursor = cursor = end
            if cursor != head.end:
                self._split(head)
            self._drain()
        if cursor != chunk_end:
            raise ValueError(f"no entry for bytes {cursor} to {chunk_end} of the stream")

    def _whole_entries(self, chunk_id: bytes, chunk_start: int, chunk_end: int) -> int:
        """Finish what lies whole in the chunk at the head, in one piece; returns where the first other entry begins.

        A tree of small files is nothing but those: this loop is what each of them costs.
        """
        waiting = self._waiting
        finished = self._ready.append
        pack = EXTENT.pack
        cursor = self._cursor
        if self._extents:
            return cursor
        while waiting:
            head = waiting[0]
            start, end = head.start, head.end
            special = head.holes or head.flags or head.size >= 0
            if start == end:
                if special:
                    self._finish(head)
            elif start != cursor or not start < end <= chunk_end or special:
                break
            else:
                head.entry.packed_extents = pack(chunk_id, start - chunk_start, end - start)
                cursor = end
            finished(head.entry)
            waiting.popleft()
        self._cursor = cursor
        return cursor

    def take_ready(self) -> list[Entry]:
        """Return the entries finished since the last call, in path order."""
        self._drain()
        ready, self._ready = self._ready, []
        return ready

    def _drain(self) -> None:
        """Finish every head entry whose content is resolved."""
        waiting = self._waiting
        ready = self._ready
        while waiting:
            head = waiting[0]
            if head.start == head.end:
                if head.holes or head.flags or head.size >= 0:
                    self._finish(head)
            elif head.end == self._cursor:
                self._finish(head)
            else:
                return
            ready.append(head.entry)
            waiting.popleft()

    def _finish(self, head: Pending) -> None:
        entry = head.entry
        entry.flags |= head.flags
        if head.size >= 0:
            entry.size = head.size
        if self._extents:
            entry.packed_extents = bytes(self._extents)
            self._extents.clear()
        if head.holes:
            entry.packed_holes = self._take_holes(head, last=True)
        self._data = self._hole_index = self._hole_bytes = 0

    def _split(self, head: Pending) -> None:
        """Let go of a long entry's record when it is full, and go on in a new one."""
        holes = b""
        if len(self._extents) < MAX_RECORD_EXTENTS * EXTENT.size:
            if head.holes is None or len(head.holes) - self._hole_index < 2 * MAX_RECORD_HOLES:
                return
            index, hole_bytes = self._hole_index, self._hole_bytes
            holes = self._take_holes(head, last=False)
            if len(holes) < MAX_RECORD_HOLES * HOLE.size:
                self._hole_index, self._hole_bytes = index, hole_bytes
                return
        elif head.holes:
            holes = self._take_holes(head, last=False)
        entry = head.entry
        entry.flags |= MORE
        entry.packed_extents = bytes(self._extents)
        entry.packed_holes = holes
        self._ready.append(entry)
        self._extents.clear()
        head.entry = Entry(entry.path, entry.kind, CONTINUATION, entry.size)

    def _take_holes(self, head: Pending, *, last: bool) -> bytes:
        """Return the holes that lie before the content resolved so far ends; all that are left in the last record."""
        holes = head.holes
        assert holes is not None
        packed = bytearray()
        index, before = self._hole_index, self._hole_bytes
        while index < len(holes) and (last or holes[index] - before < self._data):
            packed += HOLE.pack(holes[index], holes[index + 1])
            before += holes[index + 1]
            index += 2
        self._hole_index, self._hole_bytes = index, before
        return bytes(packed)

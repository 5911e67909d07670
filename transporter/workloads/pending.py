"""An entry whose content has been put into the stream, but not yet been cut into chunks."""

from __future__ import annotations

from array import array

from transporter.workloads.entry import Entry

OPEN_END = -1
"""``Pending.end`` while nobody knows how long the content is (a stream)."""


class Pending:
    """An entry and the range ``start`` to ``end`` of the stream (bytes) that holds its content.

    The source makes it and may still set ``end``, ``size`` and ``flags`` until the last byte of the file has left
    ``fill``; the manifest builder owns ``entry`` from the moment it is added. Entries without content, or whose
    extents are kept from a previous run, have ``start == end``.
    """

    __slots__ = ("end", "entry", "flags", "holes", "size", "start")

    def __init__(self, entry: Entry, start: int, end: int, holes: array[int] | None = None) -> None:
        self.entry = entry
        self.start = start
        self.end = end
        self.size = -1  # set when it turns out to differ from entry.size
        self.flags = 0  # to be added to those of the entry's last record
        self.holes = holes  # offset, length, offset, length… in bytes of the file

    def __repr__(self) -> str:
        return f"Pending({self.entry.path!r}, {self.start}, {self.end})"

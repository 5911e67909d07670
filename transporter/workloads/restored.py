"""What the writer and the job pass to each other: groups of pieces, and the files and folders being put together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from transporter.workloads.direct_write import DirectWriter
from transporter.workloads.drop_behind import STEP, DropBehind
from transporter.workloads.entry import Entry
from transporter.workloads.folders import Folder

if TYPE_CHECKING:
    from transporter.workloads.compared import Base
    from transporter.workloads.restore_links import Names

LARGE_PIECE = 256 << 10
"""Bytes from which on a piece may be written by any thread at any time: the copy then outweighs the lock."""
MAX_GROUP_PIECES = 4096
"""Pieces of one group: a chunk of 4 MiB may hold that many small files; more make the unit of work too long."""


class StagedFolder(Folder):
    """A folder in the staging folder. ``open_children`` counts what must be done before its metadata can be set.

    ``there``: the folder in its place in the output, for a restore in place. ``leftover``: what an interrupted restore
    left in it and this one has not come to.
    """

    __slots__ = ("entry", "leftover", "open_children", "parent_folder", "there")

    def __init__(self, parent: StagedFolder | None, name: bytes, entry: Entry | None, fd: int = -1) -> None:
        super().__init__(parent, name, fd)
        self.parent_folder = parent
        self.entry = entry
        self.there: Folder | None = None
        self.leftover: set[bytes] = set()
        self.open_children = 1  # the plan itself, until it has left the folder


class RestoredFile:
    """A file whose content is being written. ``left`` counts bytes planned and not written yet."""

    __slots__ = (
        "base", "behind", "busy", "complete", "created", "direct", "done", "entry", "failed", "fd", "folder", "home",
        "kept",
        "left", "lost", "name", "partial", "sparse",
    )  # fmt: skip

    def __init__(self, folder: StagedFolder, name: bytes, entry: Entry) -> None:
        self.folder = folder
        self.name = name
        self.entry = entry
        self.fd = -1
        self.left = 0
        self.busy = 0  # threads that are writing to ``fd`` right now: it must not be closed under them
        self.sparse = False
        self.created = False  # the name is ours: where "A" and "a" are one name, the file there may be another's
        self.complete = False  # every piece has been planned
        self.done = False  # content and metadata are in place
        self.failed = False
        self.lost = False  # some of its content cannot be had
        self.partial = False  # it is restored all the same, with holes, under another name
        self.base: Base | None = None  # what is there already, and compared with
        self.home: Names | None = None  # who made it, if it has several names
        self.kept: tuple[Folder, bytes] | None = None  # where it is, if what is there already is what is wanted
        self.behind = DropBehind() if entry.size > STEP else None
        self.direct: DirectWriter | None = None  # a large image: past the page cache

    def close(self) -> None:
        """Close what is open."""
        if self.direct is not None:
            self.direct.close()
            self.direct = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Piece(NamedTuple):
    """``length`` bytes at ``chunk_offset`` of the chunk go to ``file_offset`` of the file."""

    file: RestoredFile
    file_offset: int
    chunk_offset: int
    length: int


class Group(NamedTuple):
    """Consecutive pieces out of one chunk, in path order."""

    chunk_id: bytes
    pieces: list[Piece]

    @property
    def reach(self) -> int:
        """Bytes of the chunk up to the end of its last piece: the chunk is at least so long."""
        last = self.pieces[-1]
        return last.chunk_offset + last.length

    @property
    def large(self) -> bool:
        """Whether any thread may write this group, out of order and beside others."""
        return all(piece.length >= LARGE_PIECE for piece in self.pieces)

"""A restore in place to where everything was: each root of the point to its own place, on its own file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from transporter.errors import DamagedData
from transporter.workloads.entry import CONTINUATION, Entry, path_key
from transporter.workloads.hard_links import HardLinks
from transporter.workloads.notes import LostRange, Note
from transporter.workloads.restored import Group
from transporter.workloads.selection import Selection
from transporter.workloads.tree_restore import TreeWriter

Opener = Callable[[bytes, list[bytes], HardLinks, str], TreeWriter]
"""Opens the writer of one root: output, the root alone, what all writers share, and what tells it from the others."""


class OriginalPlaces:
    """What ``TreeWriter`` is for a folder, with the same methods; there is one of these for each root.

    They are published one after the other: what is killed meanwhile has some roots done, and the same restore goes on.
    """

    def __init__(self, roots: Sequence[bytes], selection: Selection, open_one: Opener) -> None:
        self._roots = sorted(set(roots), key=path_key)
        self._selection = selection
        self._open_one = open_one
        self._links = HardLinks()
        self._writers: list[TreeWriter] = []
        self._prefix: bytes | None = None
        self._homes: dict[int, TreeWriter] = {}

    def place(self, entries: Iterable[Entry]) -> list[Group]:
        """Give each entry to the writer of its root. Raises what ``TreeWriter.place`` raises."""
        groups: list[Group] = []
        for entry in entries:
            if not self._writers or not self._is_below(entry):
                if self._writers:
                    groups += self._own(self._writers[-1].end(last=False))
                self._next_root(entry)
            groups += self._own(self._writers[-1].place((entry,)))
        return groups

    def _is_below(self, entry: Entry) -> bool:
        assert self._prefix is not None
        root = self._prefix.rstrip(b"/")
        return entry.path == root or entry.path.startswith(self._prefix) or bool(entry.flags & CONTINUATION)

    def _next_root(self, entry: Entry) -> None:
        root = entry.path
        if root not in self._roots[len(self._writers) :]:
            raise DamagedData(f"The manifest holds {root[:200]!r} without the folder it is in.")
        # Roots that are not in the point at all are passed over: they had vanished when it was made.
        while self._roots[len(self._writers)] != root:
            self._roots.pop(len(self._writers))
        self._prefix = root + b"/" if root else b""
        place = b"/" + root if entry.kind == "d" else os.path.dirname(b"/" + root)
        self._writers.append(self._open_one(place, [root], self._links, str(len(self._writers))))

    def _own(self, groups: list[Group]) -> list[Group]:
        writer = self._writers[-1]
        for group in groups:
            self._homes[id(group.pieces)] = writer
        return groups

    def end(self) -> list[Group]:
        """Say that there are no more entries. Raises what ``TreeWriter.end`` raises."""
        if not self._writers:
            raise DamagedData("The manifest is empty.", "Restore another point.")
        return self._own(self._writers[-1].end())

    def write_group(self, group: Group, plaintext: memoryview) -> None:
        """Write a group. Raises what ``TreeWriter.write_group`` raises."""
        self._homes.pop(id(group.pieces)).write_group(group, plaintext)

    def skip_group(self, group: Group, reason: str) -> None:
        """Do without a chunk that cannot be had."""
        self._homes.pop(id(group.pieces)).skip_group(group, reason)

    def finish(self) -> None:
        """Make everything durable."""
        for writer in self._writers:
            writer.finish()

    def publish(self) -> None:
        """Give everything its final name."""
        for writer in self._writers:
            writer.publish()

    def abort(self, *, keep: bool = False) -> None:
        """Remove what was staged; what was published is published."""
        for writer in self._writers:
            if not writer.published:
                writer.abort(keep=keep)

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        return [note for writer in self._writers for note in writer.take_notes()]

    def take_lost(self) -> list[LostRange]:
        """Return the ranges that could not be had since the last call."""
        return [lost for writer in self._writers for lost in writer.take_lost()]

    @property
    def files(self) -> int:
        """Files restored so far."""
        return sum(writer.files for writer in self._writers)

    @property
    def unchanged(self) -> int:
        """Files among them that were there already."""
        return sum(writer.unchanged for writer in self._writers)

    @property
    def damaged(self) -> int:
        """Files of which some content could not be had."""
        return sum(writer.damaged for writer in self._writers)

    @property
    def bytes_written(self) -> int:
        """Bytes of content written so far."""
        return sum(writer.bytes_written for writer in self._writers)

    @property
    def resumed(self) -> bool:
        """Whether an interrupted restore is taken up."""
        return any(writer.resumed for writer in self._writers)

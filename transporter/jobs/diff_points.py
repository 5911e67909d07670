"""What two restore points of a job differ in, in path order.

Both manifests are laid side by side. Files whose extents are the same are the same, and nothing of them is read. Where
sizes are the same and extents are not (a file that was touched is read again, and may lie in other chunks), contents
are compared chunk by chunk, up to the first difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import trio

from transporter.errors import DamagedData
from transporter.events import Differences, FoundDifference, display_path
from transporter.jobs.browse import no_such_path, room
from transporter.jobs.compare_content import same_content
from transporter.jobs.context import JobContext
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.point_tree import open_tree
from transporter.jobs.recovery import Recovery
from transporter.workloads.entry import Entry, path_key
from transporter.workloads.file_map import FileMap
from transporter.workloads.tree_index import TreeIndex

# Entries that are compared in one go of a thread, and differences that travel together.
AT_ONCE = 2048


@dataclass(frozen=True)
class DiffOrder:
    """``where``: the older point; ``other``: the newer one, of the same job. ``path``: compare only beneath it."""

    where: PointOrder
    other: str
    path: bytes = b""


@dataclass(frozen=True)
class _Pair:
    """An entry on either side; None where it is not. Numbers are those of the trees."""

    path: bytes
    old: Entry | None = None
    new: Entry | None = None
    old_number: int = 0
    new_number: int = 0


async def diff(context: JobContext, order: DiffOrder) -> dict[str, int]:
    """Publish what differs; return how much was added, removed and changed. Raises what opening does, DamagedData."""
    async with (
        open_ordered(context, order.where) as old,
        open_ordered(context, replace(order.where, point=order.other)) as new,
        open_tree(context, old) as old_tree,
        open_tree(context, new) as new_tree,
    ):
        return await _Diff(context, order, old, new, old_tree, new_tree).run()


class _Diff:
    def __init__(
        self,
        context: JobContext,
        order: DiffOrder,
        old: Recovery,
        new: Recovery,
        old_tree: TreeIndex,
        new_tree: TreeIndex,
    ) -> None:
        self._context = context
        self._order = order
        self._old, self._new = old, new
        self._old_tree, self._new_tree = old_tree, new_tree
        # A chunk id means a content in one domain alone.
        self._same_names = old.head.domain == new.head.domain
        self._counts = {"added": 0, "removed": 0, "changed": 0, "compared_by_content": 0}

    async def run(self) -> dict[str, int]:
        pairs = self._pairs()
        while True:
            some = await trio.to_thread.run_sync(self._next, pairs)
            if some is None:
                return self._counts
            found: list[FoundDifference] = []
            for difference, doubtful in some:
                found += await self._settled(difference, doubtful)
            if found:
                self._context.bus.publish(Differences(found=found))
                await room(self._context.bus)

    # --- what has to be looked at -----------------------------------------------------------------------------------

    def _next(self, pairs: Iterator[_Pair]) -> list[tuple[FoundDifference, _Pair | None]] | None:
        """Compare some entries; return the differences, with those files of which only their contents can tell."""
        found = []
        seen = 0
        for pair in pairs:
            seen += 1
            difference, doubtful = self._compared(pair)
            if doubtful or difference.change:
                found.append((difference, pair if doubtful else None))
            if seen >= AT_ONCE or len(found) >= AT_ONCE // 8:
                return found
        return found if seen else None

    def _pairs(self) -> Iterator[_Pair]:
        """Yield every path that is in one of the trees, in path order."""
        wanted = self._order.path
        old, new = _Cursor(self._old_tree, wanted), _Cursor(self._new_tree, wanted)
        if wanted.strip(b"/") and old.entry is None and new.entry is None:
            raise no_such_path(self._order.path)
        while old.entry is not None or new.entry is not None:
            if new.entry is None or (old.entry is not None and old.key < new.key):
                assert old.entry is not None
                yield _Pair(old.entry.path, old=old.entry, old_number=old.number)
                old.advance()
            elif old.entry is None or new.key < old.key:
                yield _Pair(new.entry.path, new=new.entry, new_number=new.number)
                new.advance()
            else:
                yield _Pair(new.entry.path, old.entry, new.entry, old.number, new.number)
                old.advance()
                new.advance()

    def _compared(self, pair: _Pair) -> tuple[FoundDifference, bool]:
        """Return the difference (``change`` empty: none), and whether only the contents can tell if there is more."""
        old, new = pair.old, pair.new
        if old is None or new is None:
            one = new or old
            assert one is not None
            change = "added" if old is None else "removed"
            return FoundDifference(path=pair.path, change=change, kind=one.kind, size=one.size), False
        what: list[str] = ["type"]
        doubtful = False
        if old.kind == new.kind:
            what = _metadata(old, new)
            if old.kind == "f":
                content = self._content(pair)
                if content:
                    what.insert(0, "content")
                doubtful = content is None
        change = "changed" if what else ""
        difference = FoundDifference(
            path=pair.path, change=change, kind=new.kind, size=new.size, old_size=old.size, what=what
        )
        return difference, doubtful

    def _content(self, pair: _Pair) -> bool | None:
        """Tell whether the contents of two files differ, None where extents alone do not say it."""
        old_number = self._old_tree.first_name(pair.old_number)
        new_number = self._new_tree.first_name(pair.new_number)
        old = pair.old if old_number == pair.old_number else self._old_tree.entry(old_number)
        new = pair.new if new_number == pair.new_number else self._new_tree.entry(new_number)
        assert old is not None and new is not None
        if old.size != new.size:
            return True
        if not old.size:
            return False
        long = self._old_tree.places(old_number) is not None or self._new_tree.places(new_number) is not None
        same = old.packed_extents == new.packed_extents and old.packed_holes == new.packed_holes
        return False if same and self._same_names and not long else None

    async def _settled(self, difference: FoundDifference, doubtful: _Pair | None) -> list[FoundDifference]:
        if doubtful is not None:
            self._counts["compared_by_content"] += 1
            old_map = FileMap(self._old_tree, self._old_tree.first_name(doubtful.old_number))
            new_map = FileMap(self._new_tree, self._new_tree.first_name(doubtful.new_number))
            try:
                same = await same_content(self._old, old_map, self._new, new_map, same_names=self._same_names)
            except DamagedData as error:
                raise DamagedData(
                    f"{display_path(difference.path)!r} cannot be compared: {error.what}", error.remedy
                ) from error
            if not same:
                difference = _with_content(difference)
        if not difference.change:
            return []
        self._counts[difference.change] += 1
        return [difference]


class _Cursor:
    """Goes through a tree, or through what lies beneath a path of it, in path order."""

    def __init__(self, tree: TreeIndex, wanted: bytes) -> None:
        self._tree = tree
        self.number, self._end = tree.first_stored, tree.count
        if wanted.strip(b"/"):
            found = tree.find(wanted)
            self.number, self._end = (found, tree.end(found)) if found is not None else (0, 0)
        self.entry: Entry | None = None
        self.key = b""
        self._look()

    def advance(self) -> None:
        self.number += 1
        self._look()

    def _look(self) -> None:
        self.entry = self._tree.entry(self.number) if self.number < self._end else None
        if self.entry is not None:
            self.key = path_key(self.entry.path)


def _metadata(old: Entry, new: Entry) -> list[str]:
    """Return what differs beside the content. A folder's time moves with all that is in it: alone it is none."""
    what = []
    if old.mode != new.mode:
        what.append("mode")
    if (old.uid, old.gid, old.user, old.group) != (new.uid, new.gid, new.user, new.group):
        what.append("owner")
    if old.target != new.target:
        what.append("target")
    if old.rdev != new.rdev:
        what.append("device")
    if old.xattrs != new.xattrs:
        what.append("attributes")
    if old.link != new.link:
        what.append("link")
    if old.mtime_ns != new.mtime_ns and (what or new.kind != "d"):
        what.append("time")
    return what


def _with_content(difference: FoundDifference) -> FoundDifference:
    return FoundDifference(
        path=difference.path,
        change="changed",
        kind=difference.kind,
        size=difference.size,
        old_size=difference.old_size,
        what=["content", *difference.what],
    )

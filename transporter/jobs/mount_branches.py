"""What is mounted: one point, or a folder for each point of a job. Inodes to points, and entries of them."""

from __future__ import annotations

import datetime
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import trio

from transporter.errors import DamagedData, TransporterError
from transporter.events import DamageFound, Note, display_path
from transporter.jobs.chunk_cache import ChunkCache
from transporter.jobs.context import JobContext
from transporter.jobs.kept_point import KeptPoint
from transporter.jobs.mount_silence import Away, Silence
from transporter.jobs.mounted_file import Sweep
from transporter.jobs.point_order import PointOrder
from transporter.jobs.points import PointRow
from transporter.workloads.tree_index import TreeIndex

NUMBER_BITS = 32
"""An inode is the number of the point, and in so many bits the number of the entry in it plus one."""
NUMBER_MASK = (1 << NUMBER_BITS) - 1
TOP_INODE = 1
LATEST_INODE = 2
LATEST_NAME = b"latest"

OPEN_AT_MOST = 4
"""Sessions of a mount at once: a target serves 16 for each of its tenants, and jobs run, too."""
TREES_AT_MOST = 16
"""Trees of a mount of all points that are kept; each takes room on the disk (200 bytes an entry), not in memory."""
REFRESH_SECONDS = 30.0
"""How old the list of points may be when somebody looks into the folder of all."""
REPORTED_AT_MOST = 4096
"""Damage that is told of once: chunks that are remembered as told."""


@dataclass(eq=False)
class Branch:
    """A point and what is known of it here."""

    slot: int
    point: KeptPoint
    created_ns: int = 0
    sweep: Sweep | None = field(default=None, repr=False)

    def inode(self, number: int) -> int:
        """Return the inode of an entry."""
        return (self.slot << NUMBER_BITS) + number + 1


def split_inode(inode: int) -> tuple[int, int]:
    """Return the slot and the number of the entry that an inode means."""
    return inode >> NUMBER_BITS, (inode & NUMBER_MASK) - 1


class Branches:
    """Points by their slots. Slot 0 is the only point of a mount of one; else points begin at 1."""

    def __init__(self, context: JobContext, order: PointOrder, nursery: trio.Nursery) -> None:
        self._context = context
        self._order = order
        self._nursery = nursery
        self._cache = ChunkCache()
        self.silence = Silence()
        self._branches: dict[int, Branch] = {}
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._told: OrderedDict[str, None] = OrderedDict()
        self._next = 1

    def add(self, order: PointOrder, created_ns: int = 0, *, alone: bool = False) -> Branch:
        """Add a point; nothing of it is read before somebody looks into it."""
        slot = 0 if alone else self._next
        self._next += 1
        point = KeptPoint(self._context, order, self._cache, self.silence)
        branch = self._branches[slot] = Branch(slot, point, created_ns)
        self._nursery.start_soon(point.run)
        return branch

    def branch(self, slot: int) -> Branch | None:
        """Return the point in a slot."""
        return self._branches.get(slot)

    async def tree(self, branch: Branch, *, patient: bool = False) -> TreeIndex:
        """Return the tree of a point. Raises what opening it raises, and Away unless ``patient``."""
        self._recent[branch.slot] = None
        self._recent.move_to_end(branch.slot)
        tree = branch.point.tree_here
        if tree is None:
            self._make_room()
            tree = await branch.point.tree(patient=patient)
            branch.sweep = Sweep(branch.point, tree)
        return tree

    def _make_room(self) -> None:
        slots = [slot for slot in reversed(self._recent) if slot in self._branches]
        for slot in slots[OPEN_AT_MOST:]:
            self._branches[slot].point.let_go()
        for slot in slots[TREES_AT_MOST:]:
            self._branches[slot].point.forget_tree()
            del self._recent[slot]

    def damaged(self, path: bytes, error: TransporterError) -> None:
        """Tell of damage that a reader met, once for each thing that is damaged."""
        if not isinstance(error, DamagedData) or error.what in self._told:
            return
        self._told[error.what] = None
        if len(self._told) > REPORTED_AT_MOST:
            self._told.popitem(last=False)
        self._context.bus.publish(DamageFound(where=display_path(path), what=error.what))


class AllPoints:
    """The folder of all points: names to slots, looked at again now and then."""

    def __init__(
        self,
        context: JobContext,
        order: PointOrder,
        branches: Branches,
        rows: Callable[[], Awaitable[list[PointRow]]],
        nursery: trio.Nursery,
    ) -> None:
        self._context = context
        self._order = order
        self._branches = branches
        self._rows = rows
        self._nursery = nursery
        self._came = trio.Event()
        self._came.set()
        self._known: dict[bytes, int] = {}
        self._looked_at = -math.inf
        self.names: dict[bytes, int] = {}
        self.latest = b""

    async def refresh(self) -> None:
        """Ask which points there are. Raises what the link raises."""
        began = self._looked_at = trio.current_time()
        try:
            rows = await self._rows()
        except TransporterError as error:
            self._branches.silence.failed(error, began)
            raise
        self._branches.silence.answered()
        names: dict[bytes, int] = {}
        for at, row in enumerate(rows):
            newest = at == len(rows) - 1
            slot = self._known.get(row.point)
            if slot is None:
                order = replace(self._order, point=row.point.hex(), as_latest=newest)
                slot = self._known[row.point] = self._branches.add(order, row.created_ns).slot
            names[point_name(row)] = slot
        self.names = names
        self.latest = point_name(rows[-1]) if rows else b""

    async def refresh_or_keep(self) -> None:
        """Refresh, unless that was done just now; where that does not come in time, what was known stays.

        The question goes on when nobody waits for it any more: on a slow line its answer ends the silence.
        """
        if trio.current_time() - self._looked_at < REFRESH_SECONDS:
            return
        if self._came.is_set():
            self._came = trio.Event()
            self._nursery.start_soon(self._refresh_or_note, self._came)
        with suppress(Away):
            await self._branches.silence.wait(self._came)

    async def _refresh_or_note(self, came: trio.Event) -> None:
        try:
            await self.refresh()
        except TransporterError as error:
            self._context.bus.publish(Note(text=f"the list of restore points stays as it was: {error}"))
        finally:
            came.set()


def point_name(row: PointRow) -> bytes:
    """Return what the folder of a point is called: its time (UTC) and the beginning of its id."""
    try:
        when = datetime.datetime.fromtimestamp(row.created_ns / 1e9, datetime.UTC).strftime("%Y-%m-%d_%H%M%SZ")
    except (ValueError, OverflowError, OSError):
        when = str(row.created_ns)
    return f"{when}_{row.point.hex()[:8]}".encode()

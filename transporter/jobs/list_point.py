"""What lies in a folder of a restore point."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from transporter.events import ListedFile, Listing
from transporter.jobs.browse import (
    Enough,
    WantedPath,
    WholeEntries,
    empty_manifest,
    no_such_path,
    read_until_enough,
    room,
)
from transporter.jobs.context import JobContext
from transporter.jobs.point_order import PointOrder, open_ordered
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery
from transporter.workloads.entry import Entry

# Entries that travel together to whoever shows them: some 60 KiB.
AT_ONCE = 256


@dataclass(frozen=True)
class ListOrder:
    """``path``: empty for the roots. ``recursive``: all that lies beneath, too."""

    where: PointOrder
    path: bytes = b""
    recursive: bool = False


async def list_entries(context: JobContext, order: ListOrder) -> int:
    """Publish the entries as they are found; return how many. Raises UsageError, DamagedData, and what opening does."""
    async with open_ordered(context, order.where) as recovery:
        return await _List(context, order, recovery).run()


class _List:
    def __init__(self, context: JobContext, order: ListOrder, recovery: Recovery) -> None:
        self._context = context
        self._order = order
        self._recovery = recovery
        self._entries: WholeEntries | None = None
        self._wanted: WantedPath | None = None
        self._roots: frozenset[bytes] = frozenset()
        self.count = 0

    async def run(self) -> int:
        await read_until_enough(self._recovery, self._use)
        if self._entries is None or self._wanted is None:
            raise empty_manifest()
        if not self._wanted.everything and self._wanted.found is None:
            raise no_such_path(self._order.path)
        return self.count

    async def _use(self, preamble: Preamble, records: list[Entry]) -> None:
        if self._entries is None or self._wanted is None:
            self._entries = WholeEntries(preamble.roots)
            self._roots = frozenset(preamble.roots)
            self._wanted = WantedPath(self._order.path, preamble.roots)
        entries, over = await trio.to_thread.run_sync(self._chosen, self._entries, self._wanted, records)
        for at in range(0, len(entries), AT_ONCE):
            self._context.bus.publish(Listing(files=list(map(listed, entries[at : at + AT_ONCE]))))
            await room(self._context.bus)
        self.count += len(entries)
        if over:
            raise Enough

    def _chosen(self, whole: WholeEntries, wanted: WantedPath, records: list[Entry]) -> tuple[list[Entry], bool]:
        chosen: list[Entry] = []
        for entry in whole.take(records):
            if wanted.passed(entry.path):
                return chosen, True
            take = self._on_top(entry) if wanted.everything else self._below(wanted, entry)
            if take:
                chosen.append(entry)
        return chosen, False

    def _on_top(self, entry: Entry) -> bool:
        """Tell whether an entry is shown where no path is named: what is in the only root, or else the roots."""
        path = entry.path
        if len(self._roots) != 1:
            return self._order.recursive or path in self._roots
        (root,) = self._roots
        if path == root:
            return entry.kind != "d"
        return self._order.recursive or _parent(path) == root

    def _below(self, wanted: WantedPath, entry: Entry) -> bool:
        path = entry.path
        if wanted.match(path):
            # A folder stands for what is in it, as with `ls`.
            return entry.kind != "d"
        found = wanted.found
        if found is None or not path.startswith(found + b"/"):
            return False
        return self._order.recursive or _parent(path) == found


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def listed(entry: Entry) -> ListedFile:
    """Return an entry as it is shown."""
    return ListedFile(
        path=entry.path,
        kind=entry.kind,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.user,
        group=entry.group,
        target=entry.target,
        link=entry.link,
        rdev=entry.rdev,
        xattrs=sorted(entry.xattrs),
    )

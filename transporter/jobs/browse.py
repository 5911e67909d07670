"""Entries of an opened point, whole and checked, as they stream by: what all that looks into a point shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from transporter.errors import DamagedData, UsageError
from transporter.events import EventBus, display_path
from transporter.jobs.preamble import Preamble
from transporter.jobs.recovery import Recovery
from transporter.workloads.entry import CONTINUATION, MORE, Entry, path_key
from transporter.workloads.restore_path import DryWalk


class Enough(Exception):
    """What was wanted of the manifest has been read."""


async def read_until_enough(recovery: Recovery, use: Callable[[Preamble, list[Entry]], Awaitable[None]]) -> bool:
    """Hand batches of records to ``use`` to the end, or until it raises Enough: tell which. Raises DamagedData."""
    try:
        await recovery.read_manifest(use)
    except Enough:
        return True
    return False


class WholeEntries:
    """Records in, entries out, refused where a restore would refuse them.

    A continued entry comes once, with its last record's size, and the extents of its first record alone.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._walk = DryWalk(roots)
        self._long: Entry | None = None

    def take(self, records: list[Entry]) -> list[Entry]:
        """Return the entries that these records complete. Raises DamagedData."""
        whole: list[Entry] = []
        take = self._walk.take
        for record in records:
            take(record)
            if not record.flags & (MORE | CONTINUATION):
                whole.append(record)
            elif not record.flags & CONTINUATION:
                self._long = record
            elif not record.flags & MORE and self._long is not None:
                whole.append(msgspec.structs.replace(self._long, size=record.size))
                self._long = None
        return whole

    def finish(self) -> None:
        """Say that there are no more records. Raises DamagedData."""
        self._walk.finish()


class WantedPath:
    """A path as a person names it: as listings show it, with or without a ``/`` in front, or below the only root."""

    def __init__(self, text: bytes, roots: Sequence[bytes]) -> None:
        bare = b"/".join(part for part in text.split(b"/") if part not in (b"", b"."))
        if b".." in bare.split(b"/") or b"\0" in bare:
            raise UsageError("a path within a restore point has no `..`", "write it as `ls` shows it")
        self.everything = not bare
        self.candidates = [bare]
        if len(roots) == 1 and roots[0] and not text.startswith(b"/"):
            self.candidates.append(roots[0] + b"/" + bare)
        self._last = max(path_key(path) for path in self.candidates)
        self.found: bytes | None = None

    def match(self, path: bytes) -> bool:
        """Tell whether this is the entry that is meant. The first candidate in path order that is there counts."""
        if self.found is None and path in self.candidates:
            self.found = path
        return path == self.found

    def passed(self, path: bytes) -> bool:
        """Tell whether no entry from ``path`` on can be meant any more, nor lie beneath one that is."""
        if self.everything:
            return False
        last = self._last if self.found is None else path_key(self.found)
        key = path_key(path)
        return key > last and not key.startswith(last + b"\0")


def no_such_path(path: bytes) -> UsageError:
    """Return the error that a point holds no such path."""
    return UsageError(f"the restore point holds no {display_path(path)!r}", "`transporter ls JOB POINT -R` lists all")


def empty_manifest() -> DamagedData:
    """Return the error that a manifest has no beginning."""
    return DamagedData("the manifest is empty", "restore another point")


async def room(bus: EventBus) -> None:
    """Wait until whoever reads the results has caught up."""
    if bus.room is not None:
        await bus.room()

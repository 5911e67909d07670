"""Compaction: the records of thin packs that are still needed move into new packs, as they are, without any key.

    journal/<random>.compact ─ footer, fsync ─▶ link as packs/ab/<hash>, fsync folder ─▶ index: places move, old packs
    are removed ─▶ unlink journal name ─▶ old files unlinked ─▶ old packs forgotten

The originals stay until the index knows the new places, so what a crash leaves of a journal is worthless: the next
prune throws it away. Only the holder of ``leases/prune`` makes such files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transporter.errors import DamagedData
from transporter.repository import files, limits, pack_file
from transporter.repository.healing import copy_record
from transporter.repository.index import Index
from transporter.repository.index_prune import Moved, NumberedPack, PlacesChanged, PruneIndex
from transporter.repository.layout import Layout
from transporter.repository.open_pack import OpenPack, UncertainDisk, name_pack
from transporter.repository.reconcile import enter_pack, footer_or_records


@dataclass
class Compacted:
    """What compaction came to. Sizes in bytes; ``damaged``: packs that were left alone, for `scrub --heal`."""

    rewritten: int = 0
    written: int = 0
    moved_bytes: int = 0
    removed: list[NumberedPack] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)


class PackRemover:
    """Takes packs away for good. ``closed`` hears of each name: a file that is open somewhere keeps its room."""

    def __init__(self, layout: Layout, index: PruneIndex, closed: Callable[[bytes], None]) -> None:
        self._layout = layout
        self._index = index
        self._closed = closed

    def finish(self) -> None:
        """Unlink and forget every pack that is removed from the index's counts."""
        with files.disk_errors("remove packs that nobody needs"):
            while names := self._index.removed(limits.PACKS_AT_ONCE):
                self._index.forget(names, self._unlink)

    def _unlink(self, names: Sequence[bytes]) -> None:
        folders = set()
        for name in names:
            path = self._layout.pack(name)
            self._closed(name)
            if path.exists():
                files.unlink(path)
                folders.add(path.parent)
        for folder in sorted(folders):
            files.sync_folder(folder)


class Compactor:
    """Copies the records that are left of packs, tenant by tenant, into new ones."""

    def __init__(
        self, layout: Layout, index: PruneIndex, whole_index: Index, repository_id: bytes, new_name: Callable[[], str]
    ) -> None:
        self._layout = layout
        self._index = index
        self._whole_index = whole_index
        self._repository_id = repository_id
        self._new_name = new_name
        self._new: OpenPack | None = None
        self._tenant = ""
        self._moved: list[Moved] = []
        self._stale: set[int] = set()
        self.done = Compacted()

    def add(self, pack: NumberedPack, left: int) -> None:
        """Copy what is left of a chosen pack: ``left`` records. One that cannot be read wholly stays, and is noted.

        Old packs are removed once a new one is full; `flush` does it for the rest. Raises DiskFull: nothing is lost.
        """
        if self._new is not None and pack.row.tenant != self._tenant:
            self.flush()
        with files.disk_errors("compact a pack"):
            try:
                fd = os.open(self._layout.pack(pack.row.name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self.done.damaged.append(pack.row.name)
                return
            try:
                self._copy(fd, pack, left)
            except UncertainDisk as error:
                raise error.reason from error
            finally:
                os.close(fd)

    def _copy(self, fd: int, pack: NumberedPack, left: int) -> None:
        try:
            placed = self._index.placed(pack, footer_or_records(fd))
        except DamagedData:
            placed = []
        if len(placed) != left:
            # Places that its own list of records does not explain: it must not go.
            self.done.damaged.append(pack.row.name)
            return
        copied = []
        whole = True
        for entry in placed:
            new = self._open(pack.row.tenant)
            if copy_record(fd, entry, new):
                copied.append(new.entries[-1])
            else:
                whole = False
            if new.full and entry is not placed[-1]:
                self._moved.append(Moved(pack, copied, all_of_it=False))
                copied = []
                self.flush()
        self._moved.append(Moved(pack, copied, all_of_it=whole))
        if not whole:
            self.done.damaged.append(pack.row.name)
        if self._new is not None and self._new.full:
            self.flush()

    def _open(self, tenant: str) -> OpenPack:
        if self._new is None:
            path = self._layout.journal / f"{self._new_name()}.compact"
            self._new = OpenPack(path, pack_file.encode_header(self._repository_id, tenant))
            self._tenant = tenant
        return self._new

    def flush(self) -> None:
        """Publish the new pack, move the places, and remove the old packs that are empty by that."""
        new, moved, self._new, self._moved = self._new, self._moved, None, []
        if new is None:
            return
        try:
            with files.disk_errors("compact a pack"):
                if new.entries:
                    self._publish(new, moved)
        except UncertainDisk as error:
            raise error.reason from error
        finally:
            new.close()
            files.discard(new.path)

    def _publish(self, new: OpenPack, moved: list[Moved]) -> None:
        # Of a pack that was left in one part, the rest must not take the name away.
        moved = [Moved(old.pack, old.entries, old.all_of_it and old.pack.number not in self._stale) for old in moved]
        row = new.complete(self._tenant)
        path = name_pack(self._layout, new.path, row.name)
        try:
            self._index.move(row, path.parent.stat().st_mtime_ns, moved)
        except PlacesChanged:
            # Another process changed the index (it lost a pack, or found one): leave all as it is, for the next prune.
            if not self._whole_index.knows_pack(row.name):
                files.unlink(path)
            self._stale.update(old.pack.number for old in moved)
            return
        gone = [old.pack for old in moved if old.all_of_it]
        self.done.rewritten += len(gone)
        self.done.removed += gone
        self.done.written += 1
        self.done.moved_bytes += row.bytes

    def close(self) -> None:
        """Give up what is not published."""
        new, self._new = self._new, None
        if new is not None:
            new.close()
            files.discard(new.path)


def finish_interrupted(layout: Layout, index: Index) -> None:
    """Put in order what a prune left that was cut short. For the holder of ``leases/prune``.

    A journal of a compaction is thrown away. One that has its name as a pack already may not be in the index: it is
    entered, and found to hold no place later.
    """
    with files.disk_errors("look at what an interrupted compaction left"):
        for path in layout.journal.glob("*.compact"):
            if path.stat().st_nlink > 1:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    name = pack_file.hash_file(fd)
                finally:
                    os.close(fd)
                if layout.pack(name).exists():
                    enter_pack(layout, index, name)
            files.unlink(path)
    PackRemover(layout, PruneIndex(index), lambda _name: None).finish()

"""Removing restore points, step by step, so that a crash between any two leaves what the next one finishes.

1. `tombstones/<point id>`: the decision, durable. From here on the removal is gone through with.
2. the point: renamed into `recycled/`, or unlinked; fsync of the folders. **From here on it is removed.**
3. once nothing brings it back: slots, pin and lock; fsync of their folders.
4. whoever holds keys of it is told; 5. the tombstone goes.

Slots, pins and locks lie under the point's id, or a name of its own where something had that id before
(`Layout.belongings`); those of older repositories by the id alone. They go only where no other point has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.file_system_sync import sync_all
from transporter.repository import files, keeping_files
from transporter.repository.keeping_files import Tombstone
from transporter.repository.layout import ID_NAME, Layout, own_name
from transporter.repository.point_store import PointStore

OnGone = Callable[[Sequence[bytes]], None]
# So many tombstones are synced one by one; more of them by one flush of the file system.
_FEW = 16
# A commit stores its slots a moment before its point. What lies without one for so long belongs to none.
ORPHAN_SECONDS = 86_400.0


def nobody(_gone: Sequence[bytes]) -> None:
    """Tell nobody: there are no keys here."""


class Removal:
    """The steps. Whoever calls holds `leases/keeping`: one at a time in all processes."""

    def __init__(self, layout: Layout, clock: Clock, points: PointStore) -> None:
        self._layout = layout
        self._clock = clock
        self._points = points

    def remove(self, stones: Sequence[Tombstone], on_gone: OnGone) -> None:
        """Remove points of one job."""
        if not stones:
            return
        self._mark(stones)
        for stone in stones:
            self._take_away(stone)
        self._sync_folders(stones[0].tenant, stones[0].job)
        self._clear([stone for stone in stones if not stone.until_ns], on_gone)

    def finish(self, on_gone: OnGone) -> int:
        """Go on with every removal that a crash cut short; return how many there were."""
        due: list[Tombstone] = []
        cut_short: list[Tombstone] = []
        for stone in self.tombstones():
            if self._layout.point(stone.tenant, stone.job, stone.point_id).exists():
                cut_short.append(stone)
            elif not stone.until_ns or not self._in_bin(stone).exists():
                due.append(stone)
        for stone in cut_short:
            self._take_away(stone)
        # Of those that are gone already, too: nobody knows whether whoever took them away lived to sync the folder, and
        # a point must not come back once its slots have gone.
        for tenant, job in {(stone.tenant, stone.job) for stone in (*due, *cut_short)}:
            self._sync_folders(tenant, job)
        self._clear([*due, *(stone for stone in cut_short if not stone.until_ns)], on_gone)
        return len(due) + len(cut_short) + self._drop_doubles()

    def purge(self, now_ns: int, on_gone: OnGone) -> int:
        """Remove for good what has been in the recycle bin until its time was over; return how many points."""
        over: list[Tombstone] = []
        for tenant, job in self._recycled_folders():
            for point_id, until_ns in self._points.recycled_ids(tenant, job):
                if until_ns <= now_ns:
                    stone = Tombstone(point_id=point_id, tenant=tenant, job=job, by="", at_ns=0, until_ns=until_ns)
                    files.unlink(self._in_bin(stone))
                    over.append(stone)
        for tenant, job in {(stone.tenant, stone.job) for stone in over}:
            self._sync_folders(tenant, job)
        self._clear(over, on_gone)
        return len(over)

    def bring_back(self, tenant: str, job: str, point_id: bytes, until_ns: int) -> None:
        """Take a point out of the recycle bin. FileExistsError: another one has its name.

        The tombstone goes first: with one, a point that is there counts as one whose removal was cut short.
        """
        self._drop_stones([(tenant, job, point_id)])
        source = self._layout.recycled_point(tenant, job, point_id, until_ns)
        target = self._layout.point(tenant, job, point_id)
        files.make_folders(target.parent, self._layout.root)
        files.link(source, target)
        files.sync_folder(target.parent)
        files.unlink(source)
        files.sync_folder(source.parent)

    def settle(self, tenant: str, job: str, point_id: bytes) -> None:
        """See to it that no older removal takes away a point of that id that is about to be committed."""
        self.finish(nobody)
        if self.is_marked(tenant, job, point_id):
            self._drop_stones([(tenant, job, point_id)])

    def is_marked(self, tenant: str, job: str, point_id: bytes) -> bool:
        """Tell whether there is a tombstone of this very point."""
        return bool(self._stones_of(tenant, job, point_id))

    def tombstones(self) -> list[Tombstone]:
        """Return all that can be read; a damaged one deletes nothing (`scrub` names it)."""
        found = []
        for name in files.names_in(self._layout.tombstones):
            if ID_NAME.fullmatch(name):
                try:
                    stone = keeping_files.read(self._layout.tombstones / name, Tombstone)
                except DamagedData:
                    continue
                if stone is not None:
                    found.append(stone)
        return found

    def recycled_names(self) -> set[str]:
        """Return the names, in hex, of the slots of all points in the recycle bin."""
        return {
            self._layout.belongings(tenant, job, point).hex()
            for tenant, job in self._recycled_folders()
            for point, _ in self._points.recycled_ids(tenant, job)
        }

    def sweep_orphans(self) -> int:
        """Remove slots and pins that have had no point for long, as commits that were cut short leave; return how many.

        Their age is that of the folder, by the file system's clock: one that commits now is never so old.
        """
        points = [(*owner, point) for point, owners in self._all_points().items() for owner in owners]
        points += [(stone.tenant, stone.job, stone.point_id) for stone in self.tombstones()]
        known = {name for point in points for name in (point[2], own_name(*point))}
        before = self._clock.now_ns() - int(ORPHAN_SECONDS * 1e9)
        orphans = []
        for folder in (self._layout.slots, self._layout.pins):
            for name in files.names_in(folder):
                if ID_NAME.fullmatch(name) and bytes.fromhex(name) not in known:
                    try:
                        if os.stat(folder / name).st_mtime_ns < before:
                            orphans.append(bytes.fromhex(name))
                    except FileNotFoundError:
                        continue
        for point_id in set(orphans):
            self._remove_belongings(point_id)
        self._sync_belongings()
        return len(set(orphans))

    # -- steps ------------------------------------------------------------------------------------------------------

    def _mark(self, stones: Sequence[Tombstone]) -> None:
        temporaries: list[tuple[str, Path]] = []
        try:
            for stone in stones:
                temporary = self._layout.temporary(self._clock.random_bytes(16))
                name = self._layout.belongings(stone.tenant, stone.job, stone.point_id)
                temporaries.append((temporary, self._stone(name)))
                fd = files.create(temporary)
                try:
                    files.write(fd, keeping_files.encode(stone))
                    if len(stones) <= _FEW:
                        files.sync(fd)
                finally:
                    os.close(fd)
            if len(stones) > _FEW:
                self._flush()
            files.make_folders(self._layout.tombstones, self._layout.root)
            for temporary, path in list(temporaries):
                files.replace(temporary, path)
            temporaries.clear()
            files.sync_folder(self._layout.tombstones)
        finally:
            for temporary, _ in temporaries:
                files.discard(temporary)

    def _take_away(self, stone: Tombstone) -> None:
        path = self._layout.point(stone.tenant, stone.job, stone.point_id)
        if not stone.until_ns:
            files.unlink(path)
            return
        target = self._in_bin(stone)
        if not target.parent.is_dir():
            files.make_folders(target.parent, self._layout.root)
        try:
            if os.path.exists(target) and os.path.samefile(path, target):
                # A power cut left a file with both names: to rename it to itself would do nothing.
                files.unlink(path)
            else:
                files.replace(path, target)
        except FileNotFoundError:
            pass

    def _sync_folders(self, tenant: str, job: str) -> None:
        """The bin first: then a power cut never leaves a point in neither folder."""
        for folder in (self._layout.recycled_job(tenant, job), self._layout.job(tenant, job)):
            if folder.is_dir():
                files.sync_folder(folder)

    def _clear(self, stones: Sequence[Tombstone], on_gone: OnGone) -> None:
        if not stones:
            return
        left = self._all_points()
        for stone in stones:
            owners = left.get(stone.point_id, ())
            needed = {self._layout.belongings(*owner, stone.point_id) for owner in owners}
            for name in (stone.point_id, own_name(stone.tenant, stone.job, stone.point_id)):
                if name not in needed:
                    self._remove_belongings(name)
        self._sync_belongings()
        on_gone([stone.point_id for stone in stones if stone.point_id not in left])
        self._drop_stones([(stone.tenant, stone.job, stone.point_id) for stone in stones])

    def _remove_belongings(self, name_of_all: bytes) -> None:
        folder = self._layout.slots_of(name_of_all)
        for name in files.names_in(folder):
            files.unlink(f"{folder}/{name}")
        try:
            os.rmdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
        for place in (self._layout.pins, self._layout.locks):
            files.unlink(place / name_of_all.hex())

    def _sync_belongings(self) -> None:
        for folder in (self._layout.slots, self._layout.pins, self._layout.locks):
            if folder.is_dir():
                files.sync_folder(folder)

    def _drop_stones(self, points: Iterable[tuple[str, str, bytes]]) -> None:
        for point in points:
            for path in self._stones_of(*point):
                files.unlink(path)
        if self._layout.tombstones.is_dir():
            files.sync_folder(self._layout.tombstones)

    def _drop_doubles(self) -> int:
        """Take out of the recycle bin what was brought back from it just before a crash: one file of two names."""
        count = 0
        for tenant, job in self._recycled_folders():
            for point_id, until_ns in self._points.recycled_ids(tenant, job):
                path = self._layout.recycled_point(tenant, job, point_id, until_ns)
                try:
                    same = os.path.samefile(path, self._layout.point(tenant, job, point_id))
                except FileNotFoundError:
                    continue
                if same:
                    # Else a power cut could take both names of it: its first one may not be on the disk yet.
                    files.sync_folder(self._layout.job(tenant, job))
                    files.unlink(path)
                    files.sync_folder(path.parent)
                    count += 1
        return count

    # -- places -----------------------------------------------------------------------------------------------------

    def _stone(self, name: bytes) -> Path:
        return self._layout.tombstones / name.hex()

    def _stones_of(self, tenant: str, job: str, point_id: bytes) -> list[Path]:
        """Return the tombstones of this very point: not that of another one which has its id."""
        found = []
        for path in (self._stone(own_name(tenant, job, point_id)), self._stone(point_id)):
            try:
                stone = keeping_files.read(path, Tombstone)
            except DamagedData:
                found.append(path)
                continue
            if stone is not None and (stone.tenant, stone.job) == (tenant, job):
                found.append(path)
        return found

    def _in_bin(self, stone: Tombstone) -> Path:
        return self._layout.recycled_point(stone.tenant, stone.job, stone.point_id, stone.until_ns)

    def _recycled_folders(self) -> list[tuple[str, str]]:
        return [
            (tenant, job) for tenant in self._points.recycled_tenants() for job in self._points.recycled_jobs(tenant)
        ]

    def _all_points(self) -> dict[bytes, tuple[tuple[str, str], ...]]:
        """Return the ids of all points, those in the recycle bin, too, by their names alone; and whose they are."""
        found: dict[bytes, tuple[tuple[str, str], ...]] = {}
        for tenant in self._points.tenants():
            for job in self._points.jobs(tenant):
                _note(found, self._points.ids(tenant, job), ((tenant, job),))
        for folder in self._recycled_folders():
            _note(found, (point_id for point_id, _ in self._points.recycled_ids(*folder)), (folder,))
        return found

    def _flush(self) -> None:
        fd = os.open(self._layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_all(fd)
        finally:
            os.close(fd)


def _note(
    found: dict[bytes, tuple[tuple[str, str], ...]], points: Iterable[bytes], owner: tuple[tuple[str, str], ...]
) -> None:
    # One tuple for all points of a job: a repository may have a million.
    for point_id in points:
        others = found.get(point_id)
        found[point_id] = owner if others is None else others + owner

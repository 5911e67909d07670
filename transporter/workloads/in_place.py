"""A restore in place: looks at what lies in the output, so that only what differs is restored.

Nothing in the output is touched while it looks. What is to be changed besides files that are put together anew
(metadata that differs, things that the point lacks) is kept in a log until everything is published.
"""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import NamedTuple

from transporter.workloads import xattrs
from transporter.workloads.changes import Change, ChangeLog
from transporter.workloads.entry import CHANGED, UNTRUSTED, Entry
from transporter.workloads.folders import Folder, FolderCache
from transporter.workloads.restore_path import Step, Walk
from transporter.workloads.restore_stage import Stage
from transporter.workloads.staging import PREFIX, Staging

DELTA = 1 << 20
"""Bytes from which on a file of another size is compared all the same: below that, it is quicker restored."""
FORMS = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
}


class Verdict(Enum):
    """What is to be done with one thing."""

    NEW = "new"
    KEEP = "keep"
    COMPARE = "compare"


class Found(NamedTuple):
    """What lies in the output under a name, and what is to be done."""

    verdict: Verdict
    state: os.stat_result | None


NOTHING = Found(Verdict.NEW, None)


class InPlace:
    """What lies in the output. For the plan's thread, but for ``kept``, which locks.

    ``compare``: read files whose size and time are right, too; ``delete``: what is not in the point is to go.
    ``again``: what has the right size and time was put there by this very restore before it was interrupted.

    Memory: the names in the folders on the way down (with ``delete``), a line for each kept file with several names.
    """

    def __init__(
        self, staging: Staging, stage: Stage, walk: Walk, *, compare: bool, delete: bool, again: bool = False
    ) -> None:
        self._again = again
        self._stage = stage
        self._walk = walk
        self._compare = compare
        self._delete = delete
        self.cache = FolderCache()
        self.top = Folder(None, b"", staging.output_fd)
        self._device = os.fstat(staging.output_fd).st_dev
        self._several: dict[tuple[int, int], bytes] = {}
        self.changes = ChangeLog(staging.fd)
        self.unchanged = 0

    def close(self) -> None:
        """Close what is open."""
        self.cache.close_all()
        self.changes.close()

    # -- folders

    def enter(self, step: Step, parent: Step | None) -> bool:
        """Find the folder in the output that ``step`` stands for; tell whether it is there and as it should be."""
        with self._stage.lock:
            if not step.name:
                step.there = self.top
            else:
                found = self._state(self.there(parent), step.name)
                if found is None or not stat.S_ISDIR(found.st_mode):
                    return False
                step.there = Folder(self.there(parent), step.name)
            try:
                return self._listed(step)
            except OSError as error:
                # It cannot be looked into; what is restored to it will be refused, and noted, when it is published.
                step.there = None
                self._stage.note("unreadable", step.entry.path, error.strerror or str(error), gap=False)
                return False

    def _listed(self, step: Step) -> bool:
        assert step.there is not None
        fd = self.cache.fd(step.there)
        if self._delete and step.included:
            names = (os.fsencode(name) for name in os.listdir(fd))
            step.names = sorted((name for name in names if not name.startswith(PREFIX)), reverse=True)
        if not step.name or not step.included:
            return True  # the output itself gets its metadata at the end in any case
        return not self._stage.metadata.differ(os.fstat(fd), fd, step.entry)

    def passed(self, parent: Step | None, name: bytes) -> bool:
        """Say that the point has ``name``: what comes before it in the folder and was not named, it has not.

        Returns whether anything is to be removed from the folder.
        """
        if parent is None or parent.names is None:
            return False
        names, before = parent.names, self.changes.count
        while names and names[-1] < name:
            self._lacking(parent, names.pop())
        if names and names[-1] == name:
            names.pop()
        return self.changes.count > before

    def left(self, step: Step) -> bool:
        """Say that the point has nothing more in a folder; returns whether anything is to be removed from it."""
        before = self.changes.count
        while step.names:
            self._lacking(step, step.names.pop())
        return self.changes.count > before

    def _lacking(self, step: Step, name: bytes) -> None:
        path = step.prefix + name
        with self._stage.lock:
            state = self._state(step.there, name)
            if state is None or self._walk.excluded(path):
                return
            if state.st_dev != self._device:
                self._stage.note("not-removed", path, "it is on another file system", gap=True)
                return
            assert step.there is not None
            self.changes.add(Change("remove", self._path(step.there, name), path, state.st_dev, state.st_ino))

    # -- files and the rest

    def look(self, parent: Step | None, name: bytes, entry: Entry) -> Found:
        """Say what is to be done with a file, link, fifo or device."""
        with self._stage.lock:
            there = self.there(parent)
            state = self._state(there, name)
            if state is None:
                return NOTHING
            if stat.S_IFMT(state.st_mode) != FORMS[entry.kind]:
                self._in_the_way(there, name, state, entry)
                return Found(Verdict.NEW, state)
            if entry.kind == "f":
                return Found(self._file(state, entry), state)
            assert there is not None
            fd = self.cache.fd(there)
            same = self._special(fd, name, state, entry) and not self._several_names(state, entry)
            return Found(Verdict.KEEP if same else Verdict.NEW, state)

    def _in_the_way(self, there: Folder | None, name: bytes, state: os.stat_result, entry: Entry) -> None:
        """A folder where something else should be goes with all that is in it, if what the point lacks is to go."""
        if self._delete and there is not None and stat.S_ISDIR(state.st_mode):
            self.changes.add(Change("remove", self._path(there, name), entry.path, state.st_dev, state.st_ino))

    def _file(self, state: os.stat_result, entry: Entry) -> Verdict:
        if self._several_names(state, entry):
            return Verdict.NEW
        if self._again:
            same = (state.st_size, state.st_mtime_ns) == (entry.size, entry.mtime_ns)
            return Verdict.KEEP if same else Verdict.NEW
        if state.st_size != entry.size:
            return Verdict.COMPARE if min(state.st_size, entry.size) >= DELTA else Verdict.NEW
        if self._compare or state.st_mtime_ns != entry.mtime_ns or entry.flags & (CHANGED | UNTRUSTED):
            return Verdict.COMPARE
        # It is the very file that the point was made from, and something was done to it since: its times may lie.
        own = (state.st_dev, state.st_ino) == (entry.dev, entry.inode)
        return Verdict.COMPARE if own and state.st_ctime_ns != entry.ctime_ns else Verdict.KEEP

    def _several_names(self, state: os.stat_result, entry: Entry) -> bool:
        """Tell whether a file is another name of one that was kept as something else."""
        if state.st_nlink < 2:
            return False
        return self._several.setdefault((state.st_dev, state.st_ino), entry.path) != entry.path

    def _special(self, fd: int, name: bytes, state: os.stat_result, entry: Entry) -> bool:
        if entry.kind == "l" and os.readlink(name, dir_fd=fd) != entry.target:
            return False
        if entry.kind in "bc" and state.st_rdev != entry.rdev:
            return False
        return not self._stage.metadata.differ(state, xattrs.link_path(fd, name), entry)

    def state(self, there: Folder | None, name: bytes) -> os.stat_result | None:
        """Return the state of what lies under a name; None for nothing."""
        with self._stage.lock:
            return self._state(there, name)

    def kept(self, there: Folder, name: bytes, state: os.stat_result, entry: Entry) -> None:
        """Keep a file whose content is right; its metadata is put right later, if need be. Raises ``OSError``."""
        with self._stage.lock:
            self.unchanged += entry.kind == "f"
            own = (state.st_dev, state.st_ino, state.st_ctime_ns) == (entry.dev, entry.inode, entry.ctime_ns)
            if own and not entry.flags & UNTRUSTED:
                return  # nothing at all was done to it since
            fd = self.cache.fd(there)
            if self._stage.metadata.differ(state, xattrs.link_path(fd, name), entry):
                path, slim = self._path(there, name), _without_content(entry)
                self.changes.add(Change("repair", path, entry.path, state.st_dev, state.st_ino, slim))

    def there(self, parent: Step | None) -> Folder | None:
        """Return the folder in the output that stands for ``parent``; None where there is none."""
        return self.top if parent is None else parent.there

    def _state(self, there: Folder | None, name: bytes) -> os.stat_result | None:
        if there is None:
            return None
        try:
            return os.stat(name, dir_fd=self.cache.fd(there), follow_symlinks=False)
        except OSError:
            return None

    def _path(self, there: Folder, name: bytes) -> bytes:
        parts = [name]
        folder: Folder | None = there
        while folder is not None and folder is not self.top:
            parts.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(parts))


def _without_content(entry: Entry) -> Entry:
    return Entry(
        entry.path, entry.kind, 0, entry.size, entry.mtime_ns, entry.ctime_ns, entry.dev, entry.inode, entry.mode,
        entry.uid, entry.gid, entry.user, entry.group, b"", entry.nlink, xattrs=entry.xattrs,
    )  # fmt: skip

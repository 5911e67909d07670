"""Publishing: what has been put together in the staging folder gets its final names by renaming.

Whole subtrees move with one rename where nothing is in the way. Where a folder exists already its contents are merged,
files are replaced atomically, and a symbolic link that lies in the output is replaced, never followed.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from transporter.workloads import xattrs
from transporter.workloads.folders import Folder, FolderCache
from transporter.workloads.restore_stage import Stage
from transporter.workloads.staging import Staging


class _Level:
    """One folder that exists on both sides: ``here`` is staged, ``there`` is in the output."""

    __slots__ = ("here", "mine", "names", "path", "present", "there")

    def __init__(self, here: Folder, there: Folder, path: bytes) -> None:
        self.here = here
        self.there = there
        self.path = path
        self.names: list[bytes] = []
        self.mine: os.stat_result | None = None
        self.present: os.stat_result | None = None


class Publisher:
    """Moves the contents of a staging folder to its output folder, once.

    Two caches of folders, one a side: a descriptor of the one stays good while the other is walked.
    """

    def __init__(self, staging: Staging, stage: Stage) -> None:
        self._staging = staging
        self._stage = stage
        self._here = FolderCache()
        self._there = FolderCache()
        self._privileged = os.geteuid() == 0

    def publish(self) -> None:
        """Move everything. What cannot be moved is noted; the rest goes on."""
        top = _Level(Folder(None, b"", self._staging.fd), Folder(None, b"", self._staging.output_fd), b"")
        top.names = self._list(top)
        levels = [top]
        try:
            while levels:
                level = levels[-1]
                if level.names:
                    inner = self._move(level, level.names.pop())
                    if inner is not None:
                        levels.append(inner)
                else:
                    levels.pop()
                    self._finish(level)
        finally:
            self._here.close_all()
            self._there.close_all()

    def _list(self, level: _Level) -> list[bytes]:
        return [os.fsencode(name) for name in os.listdir(self._here.fd(level.here))]

    def _move(self, level: _Level, name: bytes) -> _Level | None:
        """Move one thing; returns the level to go down to when it is a folder that exists on both sides."""
        try:
            here, there = self._here.fd(level.here), self._there.fd(level.there)
            mine = os.stat(name, dir_fd=here, follow_symlinks=False)
            try:
                present = os.stat(name, dir_fd=there, follow_symlinks=False)
            except FileNotFoundError:
                self._rename(here, there, name, mine)
                return None
            if stat.S_ISDIR(mine.st_mode):
                if stat.S_ISDIR(present.st_mode):
                    return self._down(level, name, mine, present)
                os.unlink(name, dir_fd=there)
            elif stat.S_ISDIR(present.st_mode):
                os.rmdir(name, dir_fd=there)
            self._rename(here, there, name, mine)
        except OSError as error:
            text = error.strerror or str(error)
            if error.errno == errno.ENOTEMPTY:
                text = "a folder that is not empty is in the way"
            self._stage.note("in-the-way", level.path + name, text, gap=True)
        return None

    def _rename(self, here: int, there: int, name: bytes, mine: os.stat_result) -> None:
        """Rename. A folder needs write permission on itself to change its parent: lend it, if it is not root's."""
        try:
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
        except PermissionError:
            if not stat.S_ISDIR(mine.st_mode) or mine.st_mode & stat.S_IWUSR:
                raise
            os.chmod(name, 0o700, dir_fd=here)
            place = here
            try:
                os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
                place = there
            finally:
                os.chmod(name, stat.S_IMODE(mine.st_mode), dir_fd=place)

    def _down(self, level: _Level, name: bytes, mine: os.stat_result, present: os.stat_result) -> _Level:
        inner = _Level(Folder(level.here, name), Folder(level.there, name), level.path + name + b"/")
        inner.mine, inner.present = mine, present
        if not self._privileged:
            for folder_fd, state in ((self._here.fd(level.here), mine), (self._there.fd(level.there), present)):
                if state.st_mode & 0o700 != 0o700:
                    with suppress(OSError):
                        os.chmod(name, 0o700, dir_fd=folder_fd)
        inner.names = self._list(inner)
        return inner

    def _finish(self, level: _Level) -> None:
        """Give the existing folder the metadata of the staged one, which is empty now, and remove that."""
        if level.mine is None or level.present is None:
            return
        try:
            here, there = self._here.fd(level.here), self._there.fd(level.there)
            if level.mine.st_ino in self._stage.ancestors:
                _restore_state(there, level.present)
            else:
                _copy_xattrs(here, there)
                _copy_state(there, level.mine)
            self._here.close(level.here)
            self._there.close(level.there)
            assert level.here.parent is not None
            with suppress(OSError):  # what was in the way is still in it: it goes when the staging folder goes
                os.rmdir(level.here.name, dir_fd=self._here.fd(level.here.parent))
        except OSError as error:
            self._stage.note("metadata-not-set", level.path.rstrip(b"/"), error.strerror or str(error), gap=True)


def _copy_state(fd: int, state: os.stat_result) -> None:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (state.st_uid, state.st_gid):
        os.chown(fd, state.st_uid, state.st_gid)
    os.chmod(fd, stat.S_IMODE(state.st_mode))
    os.utime(fd, ns=(state.st_mtime_ns, state.st_mtime_ns))


def _restore_state(fd: int, state: os.stat_result) -> None:
    """Take back a lent permission; the folder is only on the way to what was asked for."""
    if stat.S_IMODE(os.fstat(fd).st_mode) != stat.S_IMODE(state.st_mode):
        os.chmod(fd, stat.S_IMODE(state.st_mode))


def _copy_xattrs(source: int, target: int) -> None:
    """Make the attributes of ``target`` those of ``source``; the ones that may not be touched are left."""
    wanted = xattrs.read(source, xattrs.listed(source))
    present = xattrs.read(target, xattrs.listed(target))
    for name in present.keys() - wanted.keys():
        with suppress(OSError):
            os.removexattr(target, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            with suppress(OSError):
                os.setxattr(target, name, value)

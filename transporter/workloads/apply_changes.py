"""Carries out what a restore in place has put off: removes what the point lacks, puts metadata right."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from transporter.workloads.changes import Change, ChangeLog
from transporter.workloads.folders import Folder, FolderCache
from transporter.workloads.notes import NoteCode
from transporter.workloads.remove_tree import remove_tree
from transporter.workloads.restore_stage import Stage

Act = Callable[[int, bytes, os.stat_result, Change], None]


class Changer:
    """Goes to each place anew, folder by folder and never through a link; what is not the same any more is let be."""

    def __init__(self, stage: Stage, output_fd: int) -> None:
        self._stage = stage
        self._cache = FolderCache()
        self._way: list[Folder] = [Folder(None, b"", output_fd)]

    def remove(self, log: ChangeLog) -> None:
        """Remove what the point lacks: before anything moves, for it may be in the way."""
        self._each(log, "remove", self._remove)

    def repair(self, log: ChangeLog) -> None:
        """Put metadata right that alone differed."""
        self._each(log, "repair", self._repair)

    def _each(self, log: ChangeLog, what: str, act: Act) -> None:
        try:
            for change in log.read():
                if change.what == what:
                    self._guarded(change, act)
        finally:
            self._cache.close_all()

    def _guarded(self, change: Change, act: Act) -> None:
        try:
            folder, name = self._folder(change.path)
            fd = self._cache.fd(folder)
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if (state.st_dev, state.st_ino) == (change.dev, change.inode):
                act(fd, name, state, change)
        except FileNotFoundError:
            return  # it went by itself
        except OSError as error:
            code: NoteCode = "not-removed" if change.what == "remove" else "metadata-not-set"
            self._stage.note(code, change.path, error.strerror or str(error), gap=True)

    @staticmethod
    def _remove(fd: int, name: bytes, state: os.stat_result, _change: Change) -> None:
        if stat.S_ISDIR(state.st_mode):
            remove_tree(fd, name)
        else:
            os.unlink(name, dir_fd=fd)

    def _repair(self, fd: int, name: bytes, state: os.stat_result, change: Change) -> None:
        assert change.entry is not None
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        try:
            if os.path.samestat(os.fstat(file), state):
                self._stage.metadata.to_existing(file, change.entry)
        finally:
            os.close(file)

    def _folder(self, path: bytes) -> tuple[Folder, bytes]:
        """Return the folder of a path below the output, and the name in it; what the last path shared is used again."""
        *parents, name = path.split(b"/")
        way = self._way
        shared = 0
        while shared < len(parents) and shared + 1 < len(way) and way[shared + 1].name == parents[shared]:
            shared += 1
        for folder in way[shared + 1 :]:
            self._cache.close(folder)
        del way[shared + 1 :]
        for parent in parents[shared:]:
            way.append(Folder(way[-1], parent))
        return way[-1], name

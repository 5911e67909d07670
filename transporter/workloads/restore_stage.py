"""What all parts of a restore share: the staging folder, its open folders, the lock, the notes."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import NoReturn

from transporter.errors import DiskFull, JobFailed
from transporter.workloads.entry import Entry
from transporter.workloads.folders import FolderCache
from transporter.workloads.metadata import Metadata
from transporter.workloads.notes import LostRange, Note, NoteCode
from transporter.workloads.remove_tree import remove_tree
from transporter.workloads.restored import StagedFolder
from transporter.workloads.staging import Staging

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Stage:
    """``lock`` guards everything here, and every use of a folder's descriptor; contents are written without it."""

    def __init__(self, staging: Staging, *, numeric_owner: bool) -> None:
        self.lock = threading.RLock()
        self.cache = FolderCache()
        self.top = StagedFolder(None, b"", None, staging.fd)
        if staging.resumed:
            self.top.leftover = set(map(os.fsencode, os.listdir(staging.fd)))
        self.files = 0
        self.damaged = 0
        self._lost: list[LostRange] = []
        self.bytes_written = 0
        self.ancestors: set[int] = set()  # inodes of staged folders that are only on the way to what was asked for
        self._notes: list[Note] = []
        self.metadata = Metadata(staging.probe, self._notes.append, numeric_owner=numeric_owner)

    def make_folder(self, parent: StagedFolder, name: bytes, entry: Entry) -> StagedFolder:
        """Make a folder that only we can enter until its metadata is set, or take up the one that was made before."""
        folder = StagedFolder(parent, name, entry)
        with self.lock:
            try:
                fd = self.cache.fd(parent)
                if self._left(parent, name, stat.S_IFDIR):
                    os.chmod(name, 0o700, dir_fd=fd)
                    folder.leftover = set(map(os.fsencode, os.listdir(self.cache.fd(folder))))
                else:
                    os.mkdir(name, 0o700, dir_fd=fd)
            except OSError as error:
                self.stop(error, entry)
            parent.open_children += 1
        return folder

    def _left(self, folder: StagedFolder, name: bytes, form: int) -> os.stat_result | None:
        """Return the state of what an interrupted restore has left, if it is of that form; else it is removed."""
        if name not in folder.leftover:
            return None
        folder.leftover.discard(name)
        fd = self.cache.fd(folder)
        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_IFMT(state.st_mode) == form:
            return state
        self._remove(fd, name, state)
        return None

    @staticmethod
    def _remove(fd: int, name: bytes, state: os.stat_result) -> None:
        if stat.S_ISDIR(state.st_mode):
            remove_tree(fd, name)
        else:
            os.unlink(name, dir_fd=fd)

    def left_file(self, folder: StagedFolder, name: bytes, entry: Entry) -> os.stat_result | None:
        """Return the state of a file that an interrupted restore had begun, if it is nobody else's, too.

        Anything else under that name is removed. Raises ``DiskFull``, ``JobFailed``.
        """
        if name not in folder.leftover:
            return None
        with self.lock:
            try:
                state = self._left(folder, name, stat.S_IFREG)
                if state is None or state.st_nlink == 1 or entry.nlink > 1:
                    return state
                os.unlink(name, dir_fd=self.cache.fd(folder))
            except OSError as error:
                self.stop(error, entry)
        return None

    def drop_leftover(self, folder: StagedFolder) -> None:
        """Remove what an interrupted restore left in a folder and this one does not want. Raises ``JobFailed``."""
        with self.lock:
            while folder.leftover:
                self.clear(folder, next(iter(folder.leftover)))

    def mark_ancestor(self, folder: StagedFolder) -> None:
        """Remember that a folder was not asked for itself: if it exists already, it keeps its metadata."""
        with self.lock:
            self.cache.fd(folder)
            self.ancestors.add(folder.inode)

    def clear(self, folder: StagedFolder, name: bytes) -> None:
        """Remove what an interrupted restore has left under a name. Raises ``OSError``."""
        if name in folder.leftover:
            folder.leftover.discard(name)
            fd = self.cache.fd(folder)
            self._remove(fd, name, os.stat(name, dir_fd=fd, follow_symlinks=False))

    def taken(self, folder: StagedFolder, name: bytes, source_fd: int, first: bytes) -> bool:
        """Tell whether a further name of a file, made by an interrupted restore, is there. Raises ``OSError``.

        Anything else under that name is removed.
        """
        if name not in folder.leftover:
            return False
        state = os.stat(name, dir_fd=self.cache.fd(folder), follow_symlinks=False)
        if os.path.samestat(state, os.stat(first, dir_fd=source_fd, follow_symlinks=False)):
            folder.leftover.discard(name)
            return True
        self.clear(folder, name)
        return False

    def release(self, folder: StagedFolder | None) -> None:
        """Say that one thing in a folder is done; the last one sets the folder's metadata, and so on upwards."""
        with self.lock:
            while folder is not None:
                folder.open_children -= 1
                if folder.open_children or folder.entry is None:
                    return
                try:
                    self.metadata.to_descriptor(self.cache.fd(folder), folder.entry)
                    self.cache.close(folder)
                except OSError as error:
                    self.stop(error, folder.entry)
                folder = folder.parent_folder

    def refuse(self, error: Exception, entry: Entry) -> None:
        """Note what this machine will not make; stop when there is no room, for then nothing else will do either."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            self.stop(error, entry)
        self.note("not-restored", entry.path, getattr(error, "strerror", None) or str(error), gap=True)

    def stop(self, error: OSError, entry: Entry) -> NoReturn:
        """End the restore. Raises ``DiskFull`` or ``JobFailed``."""
        path = repr(os.fsdecode(entry.path[:200]))
        if error.errno in NO_ROOM:
            raise DiskFull(f"no room left to restore {path}", "free some room, or restore elsewhere") from error
        raise JobFailed(f"{path} cannot be restored: {error.strerror}") from error

    def note(self, code: NoteCode, path: bytes, text: str, *, gap: bool) -> None:
        """Add a note."""
        with self.lock:
            self._notes.append(Note(code, path, text, gap))

    def lose(self, path: bytes, offset: int, length: int, reason: str) -> None:
        """Note that bytes of a file cannot be had."""
        with self.lock:
            self._lost.append(LostRange(path, offset, length, reason))

    def take_lost(self) -> list[LostRange]:
        """Return the ranges that were lost since the last call."""
        with self.lock:
            taken, self._lost = self._lost, []
            return taken

    def take_notes(self) -> list[Note]:
        """Return the notes made since the last call."""
        with self.lock:
            taken = self._notes[:]
            self._notes.clear()  # the list itself is shared with the metadata
            return taken

"""Open folders, bounded: every path is walked with ``openat`` one component at a time.

Two reasons. A path may be longer than PATH_MAX, which only bounds one system call; and nobody can slip a symbolic link
into a path we go through, because each component is opened with O_NOFOLLOW from its parent's descriptor.
"""

from __future__ import annotations

import os
from typing import Final

MAX_OPEN_FOLDERS = 128
"""Descriptors kept for folders by one scanner or writer: far below the usual limit of 1,024 a process. A tree that is
deeper is walked all the same: the least recently used descriptor is closed, and opened again from its parent."""

OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A folder by its parent and name: enough to open it again and to know that it is still the same one.

    A root has no parent, and either a path for a name or a descriptor that someone else opened and will close.
    """

    __slots__ = ("dev", "fd", "inode", "name", "parent")

    def __init__(self, parent: Folder | None, name: bytes, fd: int = -1) -> None:
        self.parent = parent
        self.name = name
        self.fd = fd
        self.dev = -1
        self.inode = -1


class FolderCache:
    """At most ``limit`` open folder descriptors, least recently used closed first.

    Not thread-safe. A descriptor it returns is good until the next call of ``fd``.
    """

    def __init__(self, limit: int = MAX_OPEN_FOLDERS) -> None:
        self._limit = max(limit, 2)
        self._open: dict[Folder, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def fd(self, folder: Folder) -> int:
        """Return a descriptor of ``folder``. Raises ``OSError`` when it cannot be opened or is another folder now."""
        if folder.fd < 0:
            missing = []
            step: Folder | None = folder
            while step is not None and step.fd < 0:
                missing.append(step)
                step = step.parent
            for closed in reversed(missing):
                self._open_one(closed)
        elif self._open.pop(folder, False) is None:
            self._open[folder] = None  # used last; a descriptor that is not ours (a root's) stays outside
        return folder.fd

    def close(self, folder: Folder) -> None:
        """Close one folder, if it is open and was opened here."""
        if self._open.pop(folder, False) is None:
            os.close(folder.fd)
            folder.fd = -1

    def close_all(self) -> None:
        """Close every folder; each is opened again when it is asked for."""
        for folder in list(self._open):
            self.close(folder)

    def _open_one(self, folder: Folder) -> None:
        parent = folder.parent
        if parent is None:
            fd = os.open(folder.name, OPEN_FOLDER & ~os.O_NOFOLLOW)
        else:
            fd = os.open(folder.name, OPEN_FOLDER, dir_fd=parent.fd)
        try:
            state = os.fstat(fd)
            if folder.inode < 0:
                folder.dev, folder.inode = state.st_dev, state.st_ino
            elif (folder.dev, folder.inode) != (state.st_dev, state.st_ino):
                raise FileNotFoundError(2, "the folder was replaced", folder.name)
        except BaseException:
            os.close(fd)
            raise
        folder.fd = fd
        self._open[folder] = None
        if len(self._open) > self._limit:
            self._evict(folder)

    def _evict(self, keep: Folder) -> None:
        for oldest in self._open:
            if oldest is not keep:
                self.close(oldest)
                return

"""Removes folders, whatever their depth and permissions, and never what is mounted in them."""

from __future__ import annotations

import errno
import os

from transporter.workloads.folders import Folder, FolderCache


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove a folder and what is in it, whatever its depth and however its permissions were restored.

    Raises ``OSError``: EXDEV at a folder where another file system is mounted, which is not gone into.
    """
    cache = FolderCache()
    device = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_dev
    top = Folder(Folder(None, b"", parent_fd), name)
    stack: list[tuple[Folder, list[bytes]]] = []
    try:
        stack.append((top, _empty(cache, top, device)))
        while stack:
            folder, below = stack[-1]
            if below:
                inner = Folder(folder, below.pop())
                stack.append((inner, _empty(cache, inner, device)))
                continue
            cache.close(folder)
            assert folder.parent is not None
            os.rmdir(folder.name, dir_fd=cache.fd(folder.parent))
            stack.pop()
    finally:
        cache.close_all()


def _empty(cache: FolderCache, folder: Folder, device: int) -> list[bytes]:
    """Remove what is not a folder; returns the names of the folders."""
    assert folder.parent is not None
    try:
        names = os.listdir(cache.fd(folder))
    except PermissionError:
        os.chmod(folder.name, 0o700, dir_fd=cache.fd(folder.parent))
        names = os.listdir(cache.fd(folder))
    fd = cache.fd(folder)
    if os.fstat(fd).st_dev != device:
        raise OSError(errno.EXDEV, "another file system is mounted there", folder.name)
    if names:
        os.fchmod(fd, 0o700)
    below = []
    for name in map(os.fsencode, names):
        try:
            os.unlink(name, dir_fd=fd)
        except (IsADirectoryError, PermissionError):
            below.append(name)
    return below

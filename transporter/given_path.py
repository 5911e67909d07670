"""Paths that somebody typed, for a file or a folder to be made: what cannot be used there is an error of usage.

Looked at before anybody types a pass phrase and before anything is fetched. What the making itself meets is told alike:
a folder may go meanwhile.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from transporter.errors import DiskFull, TransporterError, UsageError

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def check_new_file(path: Path) -> None:
    """Raise UsageError where no file can get the name ``path`` (absolute). One that is there is the caller's affair."""
    # os.path and not Path: a name that is too long, or a folder that nobody may look into, is no error here.
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder", "name a file in it")
    _check_writable(path, path.parent)


def check_new_folder(path: Path) -> None:
    """Raise UsageError where ``path`` (absolute) is no folder, and cannot be made with the parents that are missing."""
    _check_writable(path, next(each for each in (path, *path.parents) if os.path.lexists(each)))


def unusable(path: Path, error: OSError) -> TransporterError:
    """Return what to tell of an error from making a file or folder ``path``: DiskFull, else UsageError."""
    if error.errno in NO_ROOM:
        return no_room(str(path))
    return UsageError(f"cannot write {path}: {error.strerror}", "name a place that is there and yours")


def no_room(place: str) -> DiskFull:
    """Return the error of a disk that is full; ``place`` is for people."""
    return DiskFull(f"no room left for {place}", "free some room, or choose another place")


def _check_writable(path: Path, folder: Path) -> None:
    for number, problem in (
        (errno.ENOENT, not os.path.lexists(folder)),
        (errno.ENOTDIR, not os.path.isdir(folder)),
        (errno.EACCES, not os.access(folder, os.W_OK | os.X_OK)),
    ):
        if problem:
            raise unusable(path, OSError(number, os.strerror(number)))

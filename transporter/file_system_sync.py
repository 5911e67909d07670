"""Waiting until a whole file system is on its disk (syncfs(2), Linux)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable


def _library() -> Callable[[int], int] | None:
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    syncfs.argtypes = [ctypes.c_int]
    return syncfs


_syncfs = _library()


def sync_all(fd: int) -> None:
    """Return once everything in the file system of ``fd`` is on its disk. Raises ``OSError`` when some of it is not.

    One call for many small files: a sync of each would cost more than writing them.
    """
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

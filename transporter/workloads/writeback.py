"""Starting to write files to the disk before anybody waits for it (sync_file_range(2), syncfs(2); Linux).

Without a start the kernel gathers for many seconds, and then the end of a restore waits for a disk that was idle.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Final

_SYNC_FILE_RANGE_WRITE: Final = 2


def _library() -> tuple[Callable[..., int] | None, Callable[..., int] | None]:
    try:
        library = ctypes.CDLL(None, use_errno=True)
        start, whole = library.sync_file_range, library.syncfs
    except (OSError, AttributeError):
        return None, None
    start.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    whole.argtypes = [ctypes.c_int]
    return start, whole


_start, _syncfs = _library()


def start_writing(fd: int) -> None:
    """Have the kernel begin to write a file; advice only: it waits for nothing, and errors are for ``sync_all``."""
    if _start is not None:
        _start(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def sync_all(fd: int) -> None:
    """Return once everything in the file system of ``fd`` is on its disk. Raises ``OSError`` when some of it is not."""
    if _syncfs is None:
        os.sync()
    elif _syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

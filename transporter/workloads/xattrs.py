"""Extended attributes; POSIX ACLs are among them (``system.posix_acl_access`` and ``…_default``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_VANISHED = {errno.ENODATA, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

NONE: dict[bytes, bytes] = {}
"""Shared by all entries without attributes; never changed."""


def link_path(folder_fd: int, name: bytes) -> bytes:
    """Return a path to ``name`` in an open folder, for the system calls that take no descriptor of a folder."""
    return b"/proc/self/fd/%d/%s" % (folder_fd, name)


def read(
    target: int | bytes, names: list[str], failed: Callable[[bytes, OSError], None] | None = None
) -> dict[bytes, bytes]:
    """Return the values of ``names``; one that vanished meanwhile is left out.

    So is one that cannot be read: ``failed`` is told. ``target`` is a descriptor, or a path that is not followed when
    it is a symbolic link.
    """
    found: dict[bytes, bytes] = {}
    follow = isinstance(target, int)
    for name in names:
        try:
            found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
        except OSError as error:
            if failed is not None and error.errno not in _VANISHED:
                failed(os.fsencode(name), error)
    return found


def listed(target: int | bytes) -> list[str]:
    """Return the names of the attributes; none where the file system has no such thing."""
    try:
        return os.listxattr(target, follow_symlinks=isinstance(target, int))
    except OSError:
        return []

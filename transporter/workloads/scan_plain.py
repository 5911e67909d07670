"""The short way for plain files: what each small file of a first copy costs is decided here.

A file is looked at once, and after it was read: a ctime before the moment at which its folder was looked at says that
nothing changed since before it was opened, so that a look before reading would tell nothing more. Whatever is not
plain (too long for the buffer, sparse, changed just now, with attributes, one of several names, unreadable) is left
alone for the careful way, which begins anew.

One function with everything in local names, on purpose: split up, its calls cost as much as the system calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

from transporter.workloads import xattrs
from transporter.workloads.entry import Entry
from transporter.workloads.owners import OwnerNames
from transporter.workloads.pending import Pending

Name = tuple[bytes, int]
"""A name in a folder; the inode where the folder says that it is a regular file, else -1."""

PLAIN_AT_MOST: Final = 1 << 20
"""Bytes of a plain file: one that turns out longer was read in vain so far, so this bounds the waste."""

_S_IFMT: Final = 0o170000
_S_IFREG: Final = 0o100000


def list_folder(fd: int) -> list[Name]:
    """Return the names in an open folder in path order, each once.

    Some file systems list a name twice when it is replaced meanwhile; a manifest with both could not be restored.
    """
    with os.scandir(fd) as rows:
        names = {os.fsencode(row.name): row.inode() if row.is_file(follow_symlinks=False) else -1 for row in rows}
    return sorted(names.items())


class PlainReader:
    """Reads plain files in a row. ``linked``: inodes of files with several names that have been met (the scanner's)."""

    def __init__(self, owners: OwnerNames, linked: set[int], flags: int) -> None:
        self._owners = owners
        self._linked = linked
        self._flags = flags

    def read(
        self,
        fd: int,
        prefix: bytes,
        names: Iterator[Name],
        excluded: Callable[[bytes], bool] | None,
        seen_ns: int,
        buffer: memoryview,
        filled: int,
        stream_start: int,
        entries: list[Pending],
        most: int,
    ) -> tuple[int, Name | None]:
        """Read files of one folder until one is not plain, the buffer is full, or ``entries`` holds ``most``.

        ``stream_start``: the place of ``buffer[0]`` in the stream. Returns how full the buffer is now, and the name
        that is not plain, None if there was none.
        """
        open_, readv, fstat, listxattr, close = os.open, os.readv, os.fstat, os.listxattr, os.close
        flags, linked, room = self._flags, self._linked, len(buffer)
        uid = gid = -1
        user = group = b""
        for item in names:
            name, inode = item
            path = prefix + name
            if excluded is not None and excluded(path):
                continue
            if inode < 0 or inode in linked:
                return filled, item
            try:
                file = open_(name, flags, dir_fd=fd)
            except OSError:
                return filled, item
            try:
                got = readv(file, (buffer[filled : filled + PLAIN_AT_MOST],))
                state = fstat(file)
                try:
                    named = listxattr(file)
                except OSError:
                    named = []  # where the file system has no such thing
            except OSError:
                return filled, item
            finally:
                close(file)
            changed_ns = state.st_ctime_ns
            if (
                named
                or got != state.st_size
                or changed_ns >= seen_ns
                or state.st_blocks * 512 < got
                or state.st_nlink > 1
                or state.st_mode & _S_IFMT != _S_IFREG
            ):
                return filled, item
            if state.st_uid != uid or state.st_gid != gid:
                uid, gid = state.st_uid, state.st_gid
                user, group = self._owners.user(uid), self._owners.group(gid)
            start = stream_start + filled
            filled += got
            entry = Entry(
                path, "f", 0, got, state.st_mtime_ns, changed_ns, state.st_dev, state.st_ino, state.st_mode & 0o7777,
                uid, gid, user, group, b"", 1, b"", b"", 0, xattrs.NONE,
            )  # fmt: skip
            entries.append(Pending(entry, start, start + got))
            if filled == room or len(entries) >= most:
                return filled, None
        return filled, None

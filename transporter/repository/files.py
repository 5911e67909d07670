"""The few things the repository does to files, each in one place, so that a test can make any of them fail.

Durability follows one order everywhere: write, fsync the file, link it under its name, fsync the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from transporter.errors import DamagedData, DiskFull, JobFailed, TransporterError

# Where many small files are worked on, names are strings: a Path costs as much as the system call it is made for.
StrPath: TypeAlias = str | Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a disk that dies, was pulled out, or is served by a machine that is gone, answers with.
_DISK = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN)


def translate(error: OSError, doing: str) -> TransporterError:
    """Return the error a user meets for an operating system's error; ``doing`` completes "cannot …"."""
    if error.errno in _NO_ROOM:
        return DiskFull(
            f"no room left in the repository: cannot {doing}",
            "free some space; the next run goes on where this one stopped",
        )
    reason = error.strerror or type(error).__name__
    if error.errno in _DISK:
        return DamagedData(
            f"the disk of the repository fails: cannot {doing}: {reason}", "look at the disk, then run `scrub`"
        )
    if error.errno == errno.ENOENT:
        return JobFailed(
            f"cannot {doing}: {reason}",
            "is the disk of the repository still there? if it died: docs/runbooks.md",
        )
    if error.errno == errno.EROFS:
        return JobFailed(f"cannot {doing}: {reason}", "the kernel does so when a disk fails: look at its log")
    return JobFailed(f"cannot {doing}: {reason}", "look at the repository's folder, its owner and its permissions")


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into the error a user meets."""
    try:
        yield
    except OSError as error:
        raise translate(error, doing) from error


def create(path: StrPath, flags: int = 0) -> int:
    """Create a file that is not there yet; return its descriptor, open for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, 0o600)


def write(fd: int, *parts: bytes | memoryview) -> None:
    """Append all ``parts``, by as few system calls as it takes (one, unless the kernel writes short)."""
    total = sum(len(part) for part in parts)
    written = os.writev(fd, parts)
    while written < total:
        rest: list[bytes | memoryview] = []
        skip = written
        for part in parts:
            if skip < len(part):
                rest.append(memoryview(part)[skip:])
            skip = max(0, skip - len(part))
        step = os.writev(fd, rest)
        if step == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += step


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``, both aligned; past the page cache if descriptor and disk agree to that."""
    while data:
        try:
            count = os.pwrite(fd, data, offset)
        except OSError as error:
            status = fcntl.fcntl(fd, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not status & os.O_DIRECT:
                raise
            # Blocks larger than ours, or a short write that ended inside one: go through the page cache from here on.
            fcntl.fcntl(fd, fcntl.F_SETFL, status & ~os.O_DIRECT)
            continue
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[count:]
        offset += count


def truncate(fd: int, length: int) -> None:
    """Cut a file and put the descriptor's position at its end."""
    os.ftruncate(fd, length)
    os.lseek(fd, length, os.SEEK_SET)


def sync_data(fd: int) -> None:
    """Return once the file's content (and the length that it needs) is on the disk."""
    os.fdatasync(fd)


def sync(fd: int) -> None:
    """Return once the file is on the disk."""
    os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Return once the names in a folder are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; an atomic create that never overwrites (FileExistsError)."""
    os.link(source, target)


def replace(source: StrPath, target: StrPath) -> None:
    """Rename, over what may be there."""
    os.replace(source, target)


def discard(path: StrPath) -> None:
    """Remove a name that nobody needs; if that fails, the next open for writing cleans up."""
    try:
        unlink(path)
    except OSError:
        pass


def unlink(path: StrPath) -> None:
    """Remove a name that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def read_small(path: StrPath, bound: int) -> bytes:
    """Return a small file's content, never more than ``bound`` + 1 bytes of it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(fd, bound + 1)
        # The kernel gives a regular file's bytes at once, but promises it nowhere.
        while len(found) <= bound and (more := os.read(fd, bound + 1 - len(found))):
            found += more
        return found
    finally:
        os.close(fd)


def names_in(folder: StrPath) -> list[str]:
    """Return the names in a folder, sorted; none where there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folders(path: Path, root: Path) -> None:
    """Create ``path`` and its parents below ``root``, each made durable in its parent.

    A folder that is there is synced all the same: a process killed between mkdir and fsync may have made it.
    """
    if path == root:
        return
    make_folders(path.parent, root)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    sync_folder(path.parent)


def publish(temporary: Path, target: Path, root: Path, content: tuple[bytes | memoryview, ...]) -> None:
    """Write a small immutable file: whole and durable under its name, or not there at all.

    Raises FileExistsError when ``target`` is there; the temporary file is gone in every case but a crash.
    """
    try:
        fd = create(temporary)
        try:
            write(fd, *content)
            sync(fd)
        finally:
            os.close(fd)
        make_folders(target.parent, root)
        link(temporary, target)
        sync_folder(target.parent)
    finally:
        discard(temporary)

"""The staging folder of a restore: made inside the output, private, locked while in use, removed on failure."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress

from transporter.errors import JobBusy, JobFailed, UsageError
from transporter.workloads.folders import OPEN_FOLDER, Folder, FolderCache

PREFIX = b".transporter-restore-"
LET_GO_SECONDS = 10.0


class Staging:
    """Makes (or checks) the output folder and makes the staging folder in it.

    Attributes: ``output_fd`` and ``fd`` (of the staging folder), ``probe`` (state of a file created there with mode
    0777), ``created`` (whether the output folder is new).
    """

    def __init__(self, output: str | bytes | os.PathLike[str], point: str, *, overwrite: bool) -> None:
        self.output = os.path.abspath(os.fsencode(output))
        self.name = _name(point)
        self.fd = -1
        self._open_output()
        try:
            self._check_output(overwrite)
            if not os.fstat(self.output_fd).st_nlink:
                # Whoever was waited for had made this folder, and took it away with what was in it.
                os.close(self.output_fd)
                self._open_output()
            self._make()
        except BaseException:
            self.remove()
            raise

    def _open_output(self) -> None:
        self.output_fd = -1
        self._made = _make_folders(self.output)
        self.created = bool(self._made)
        try:
            self.output_fd = os.open(self.output, OPEN_FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise UsageError(f"{os.fsdecode(self.output)!r} cannot be used: {error.strerror}.") from error

    def clear(self) -> None:
        """Remove the staging folder with all that is in it."""
        if self.fd >= 0:
            with suppress(OSError):
                remove_tree(self.output_fd, self.name)
            os.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Remove the staging folder, and the output folder too if we made it and it is empty."""
        if self.output_fd < 0:
            return
        self.clear()
        os.close(self.output_fd)
        self.output_fd = -1
        with suppress(OSError):
            for path in self._made:
                os.rmdir(path)

    def close(self) -> None:
        """Remove the staging folder and keep the output."""
        self._made = []
        self.remove()

    def _check_output(self, overwrite: bool) -> None:
        names = os.listdir(self.output_fd)
        shown = os.fsdecode(self.output)
        if not overwrite and any(not os.fsencode(name).startswith(PREFIX) for name in names):
            raise UsageError(f"{shown!r} is not empty.", "Restore to an empty folder, or give --overwrite.")
        for name in map(os.fsencode, names):
            if name.startswith(PREFIX):
                _remove_leftover(self.output_fd, name)

    def _make(self) -> None:
        try:
            os.mkdir(self.name, 0o700, dir_fd=self.output_fd)
            self.fd = os.open(self.name, OPEN_FOLDER, dir_fd=self.output_fd)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for attribute in ("system.posix_acl_default", "system.posix_acl_access"):
                with suppress(OSError):
                    os.removexattr(self.fd, attribute)  # else everything restored would inherit the output's ACL
            os.fchmod(self.fd, 0o700)
            file = os.open(b".probe", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777, dir_fd=self.fd)
            self.probe = os.fstat(file)
            os.close(file)
            os.unlink(b".probe", dir_fd=self.fd)
        except OSError as error:
            shown = os.fsdecode(self.output)
            raise JobFailed(f"{shown!r} cannot be written to: {error.strerror}.", "Choose another folder.") from error


def remove_leftover(output: str | bytes | os.PathLike[str], point: str) -> None:
    """Remove the staging folder that a writer which was killed has left, if there is one and nobody works in it."""
    try:
        output_fd = os.open(os.path.abspath(os.fsencode(output)), OPEN_FOLDER & ~os.O_NOFOLLOW)
    except OSError:
        return
    try:
        _remove_leftover(output_fd, _name(point))
    except (OSError, JobBusy, UsageError):
        pass  # the next restore to this folder removes it, or says why it cannot
    finally:
        os.close(output_fd)


def _name(point: str) -> bytes:
    return PREFIX + os.fsencode(point).replace(b"/", b"_")


def _remove_leftover(output_fd: int, name: bytes) -> None:
    """Remove the staging folder of a restore that was killed; refuse when its lock shows that it is alive."""
    state = os.stat(name, dir_fd=output_fd, follow_symlinks=False)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise UsageError(f"{os.fsdecode(name)!r} in the output folder is not ours.", "Remove it, then try again.")
    fd = os.open(name, OPEN_FOLDER, dir_fd=output_fd)
    try:
        if not _locked(fd):
            raise JobBusy("Another restore is writing to this folder.", "Wait for it, or restore elsewhere.")
        with suppress(FileNotFoundError):  # the writer that held the lock has removed it itself
            remove_tree(output_fd, name)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    """Lock a staging folder; False when somebody keeps it. A writer whose daemon was killed needs a while to let go."""
    until = time.monotonic() + LET_GO_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        else:
            return True


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove a folder and what is in it, whatever its depth and however its permissions were restored."""
    cache = FolderCache()
    top = Folder(Folder(None, b"", parent_fd), name)
    stack: list[tuple[Folder, list[bytes]]] = []
    try:
        stack.append((top, _empty(cache, top)))
        while stack:
            folder, below = stack[-1]
            if below:
                inner = Folder(folder, below.pop())
                stack.append((inner, _empty(cache, inner)))
                continue
            cache.close(folder)
            assert folder.parent is not None
            os.rmdir(folder.name, dir_fd=cache.fd(folder.parent))
            stack.pop()
    finally:
        cache.close_all()


def _empty(cache: FolderCache, folder: Folder) -> list[bytes]:
    """Remove what is not a folder; returns the names of the folders."""
    assert folder.parent is not None
    try:
        names = os.listdir(cache.fd(folder))
    except PermissionError:
        os.chmod(folder.name, 0o700, dir_fd=cache.fd(folder.parent))
        names = os.listdir(cache.fd(folder))
    fd = cache.fd(folder)
    if names:
        os.fchmod(fd, 0o700)
    below = []
    for name in map(os.fsencode, names):
        try:
            os.unlink(name, dir_fd=fd)
        except (IsADirectoryError, PermissionError):
            below.append(name)
    return below


def _make_folders(path: bytes) -> list[bytes]:
    """Make a folder and its missing parents; returns those that were made, innermost first."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    made: list[bytes] = []
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
        except OSError as error:
            with suppress(OSError):
                for done in made:
                    os.rmdir(done)
            raise UsageError(f"{os.fsdecode(folder)!r} cannot be made: {error.strerror}.") from error
        made.insert(0, folder)
    return made

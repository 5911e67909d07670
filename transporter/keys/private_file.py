"""Files that hold secrets: created for their owner alone, and refused when others may read them."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from transporter.errors import ConfigError, DiskFull

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_private(path: Path) -> bool:
    """Say whether ``path`` exists; refuse it (`ConfigError`) when it is no plain file or open to other users."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", "check the rights of its folder") from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} is not a plain file", "put the file itself there, no link")
    if found.st_mode & _OTHERS:
        raise ConfigError(
            f"{path} holds keys but other users may use it (mode {stat.S_IMODE(found.st_mode):04o})",
            f"run: chmod 600 {path}; if others may have read it, change the passwords",
        )
    return True


def create_private(path: Path, content: bytes) -> None:
    """Create ``path`` with mode 0600 and exactly ``content``, durably; atomic: nobody sees a part of it.

    Raises:
        FileExistsError: another process was first; its file is left alone.
        DiskFull, ConfigError: the file system refuses.
    """
    try:
        _create(path, content)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left for {path}", "free some room") from None
        raise ConfigError(
            f"{path} cannot be made: {error.strerror}", "check that its folder is there and yours"
        ) from None


def _create(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

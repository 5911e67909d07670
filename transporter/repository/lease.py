"""One process writes a repository at a time: a lock that the kernel drops with its holder, however that dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from transporter.repository import files
from transporter.repository.errors import RepositoryBusy


class Lease:
    """The lock on ``leases/writer``. The file stays empty: there is nothing in it that could be damaged."""

    def __init__(self, path: Path) -> None:
        with files.disk_errors("lock the repository"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise RepositoryBusy(
                    f"another process writes to the repository {path.parent.parent}",
                    "stop it first, or open the repository for reading only",
                ) from None
            except BaseException:
                os.close(self._fd)
                raise

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)

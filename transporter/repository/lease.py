"""One process writes a repository at a time, and one prunes: locks that the kernel drops with their holders."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from transporter.repository import files
from transporter.repository.errors import RepositoryBusy


class Lease:
    """The lock on ``leases/writer``, or another. The file stays empty: there is nothing in it that could be damaged.

    Raises RepositoryBusy with what the holder does (``holder``), and what to do about it.
    """

    def __init__(
        self,
        path: Path,
        holder: str = "writes to",
        remedy: str = "stop it first, or open the repository for reading only",
    ) -> None:
        with files.disk_errors("lock the repository"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise RepositoryBusy(f"another process {holder} the repository {path.parent.parent}", remedy) from None
            except BaseException:
                os.close(self._fd)
                raise

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def prune_lease(path: Path) -> Lease:
    """Return the lock that one prune at a time holds, and whatever must not run beside one."""
    return Lease(path, "prunes (or rebuilds, or heals)", "wait until it has ended, then run it again")

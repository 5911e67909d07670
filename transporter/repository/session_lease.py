"""Leases of sessions: whoever relies on answers of the index has one, and `prune` waits for those that are older.

    leases/session-<32 hex>     72 bytes, locked (flock) by its process while the session lasts

    offset  bytes
         0      8   magic "TPLEASE1"
         8     16   era of the index
        24      8   epoch when the session began, big endian
        32      8   number of the newest pack then, big endian
        40     32   BLAKE3 of what precedes

The kernel drops the lock with its process, however that ends; whoever finds a lease that it can lock removes it. So
nothing here needs to be durable.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from transporter.repository import files
from transporter.repository.errors import DamagedIndex
from transporter.repository.index import Moment

_MAGIC: Final = b"TPLEASE1"
_LEASE: Final = struct.Struct(">8s16sQQ")
_NAME: Final = re.compile(r"session-[0-9a-f]{32}(\.tmp)?")
# A scan may take a lease that has no lock yet for a dead one, and remove it: then another is made.
_TRIES: Final = 8


class SessionLease:
    """One lease; a context manager. ``moment`` is asked before anything is answered to the session."""

    def __init__(self, folder: Path, moment: Callable[[], Moment]) -> None:
        with files.disk_errors("note a session in the repository's folder `leases`"):
            self._path, self._fd = _make(folder, _moment_of(moment))

    def release(self) -> None:
        """End the session. Twice does no harm."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                files.discard(self._path)
            finally:
                os.close(fd)

    def __enter__(self) -> SessionLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _moment_of(moment: Callable[[], Moment]) -> Moment:
    try:
        return moment()
    except DamagedIndex:
        return Moment(bytes(16), 0, 0)  # of no era: it forbids everything, and the session may read what it can


def _make(folder: Path, moment: Moment) -> tuple[Path, int]:
    body = _LEASE.pack(_MAGIC, moment.era, moment.epoch, moment.pack)
    for _ in range(_TRIES):
        # Not from the repository's clock: two of them, set by tests, may draw the same, and one lease replace another.
        path = folder / f"session-{secrets.token_hex(16)}"
        temporary = path.with_name(f"{path.name}.tmp")
        fd = files.create(temporary)
        try:
            # Locked before it has its name: a lease of that name that can be locked is one of a dead process.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.write(fd, body + blake3(body).digest())
            files.replace(temporary, path)
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            continue
        except BaseException:
            os.close(fd)
            files.discard(temporary)
            raise
        return path, fd
    raise OSError("leases are removed as fast as they are made")


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """What the live sessions of a repository forbid.

    ``count``: how many; ``epoch``: the oldest epoch at which one of them began; ``pack``: likewise the number of the
    newest pack (None: there is no session).
    """

    count: int
    epoch: int | None
    pack: int | None

    def may_delete(self, epoch: int) -> bool:
        """Tell whether every session began after all that is doomed under ``epoch`` was doomed."""
        return self.epoch is None or epoch <= self.epoch


def live_sessions(folder: Path, era: bytes) -> LiveSessions:
    """Look at all leases and remove those of dead processes. One of another era, or unreadable, forbids everything."""
    count = 0
    epoch: int | None = None
    pack: int | None = None
    with files.disk_errors("look at the sessions in the repository's folder `leases`"):
        for name in filter(_NAME.fullmatch, files.names_in(folder)):
            try:
                fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _is_dead(fd):
                    files.unlink(folder / name)
                    continue
                theirs = _read(fd, era)
            finally:
                os.close(fd)
            count += 1
            epoch = min(theirs[0], theirs[0] if epoch is None else epoch)
            pack = min(theirs[1], theirs[1] if pack is None else pack)
    return LiveSessions(count, epoch, pack)


def _is_dead(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(fd: int, era: bytes) -> tuple[int, int]:
    raw = os.pread(fd, _LEASE.size + 33, 0)
    body = raw[: _LEASE.size]
    if len(raw) != _LEASE.size + 32 or blake3(body).digest() != raw[_LEASE.size :]:
        return 0, 0
    magic, theirs, epoch, pack = _LEASE.unpack(body)
    return (epoch, pack) if (magic, theirs) == (_MAGIC, era) else (0, 0)

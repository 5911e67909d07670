"""The audit trail of a home: what was done to its keys, by whom and when; append-only, and each entry holds the last.

`audit.log`, mode 0600, one JSON object a line, in this order of fields:

    n      1, 2, 3, … without a gap
    at     UTC, ISO 8601 with microseconds
    by     user id and name of whoever ran the command, or the daemon
    event  what was done: "password.add", …
    …      facts of the event: names, counts, ids in hex; never a secret
    prev   `hash` of the entry before (64 zeros in the first)
    hash   BLAKE3 of the line up to here: everything before `,"hash":`

An entry that is altered, taken out or put in breaks the chain. That the *end* was cut off shows only to who remembers
how far it went: the key database does (`Head`, kept by keys/database.py under its master key). An entry is durable
before the deed is: after a crash between the two there is an entry of something that was not done, never the reverse.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from transporter.clock import Clock
from transporter.errors import DamagedData, DiskFull, JobFailed
from transporter.keys.private_file import check_private, create_private

AUDIT_LOG: Final = "audit.log"
NO_HASH: Final = "0" * 64
_LAST_LINE: Final = 64 << 10
"""Bytes read from the end to find the last entry; an entry has at most `MAX_ENTRY`."""
MAX_ENTRY: Final = 16 << 10
_RESERVED: Final = frozenset({"n", "at", "by", "event", "prev", "hash"})
Fact = str | int | bool | list[str]


@dataclass(frozen=True, slots=True)
class Head:
    """How far the trail goes: number and hash of its last entry. (0, zeros) when it is empty."""

    number: int = 0
    hash: str = NO_HASH


class AuditTrail:
    """The file at ``path``. Several processes may append; each waits for the other (flock)."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock

    def append(self, event: str, facts: dict[str, Fact]) -> Head:
        """Add one entry, durably, and return where the trail ends now.

        Raises DamagedData when its end is not an entry, DiskFull, JobFailed.
        """
        if _RESERVED & facts.keys():
            raise ValueError("a fact has the name of a field that every entry has")
        with self._locked() as fd:
            last = _cut_torn(fd, self.path)
            entry = {
                "n": last.number + 1,
                "at": datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC).isoformat(timespec="microseconds"),
                "by": _whoever(),
                "event": event,
                **facts,
                "prev": last.hash,
            }
            body = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))[:-1]
            digest = _digest(body)
            line = f'{body},"hash":"{digest}"}}\n'.encode("utf-8", "surrogateescape")
            if len(line) > MAX_ENTRY:
                raise ValueError("an entry of the audit trail is too long")
            try:
                _write_all(fd, line)
                os.fsync(fd)
            except OSError as error:
                raise DiskFull(
                    f"the audit trail {self.path} cannot be written: {error.strerror}", "free some room"
                ) from error
            return Head(entry["n"], digest)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, oldest first, each proved against the one before. Raises DamagedData at a fault."""
        if not check_private(self.path):
            return
        last = Head()
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written, or torn by a crash: no entry
                entry, last = _proved(line, last, self.path)
                yield entry

    def verify(self, head: Head) -> int:
        """Prove the whole trail, and that it goes at least as far as ``head``; return the number of entries.

        Raises DamagedData.
        """
        count = 0
        reached = head.number == 0
        for entry in self.entries():
            count = entry["n"]
            if count == head.number:
                reached = entry["hash"] == head.hash
        if not reached:
            raise DamagedData(
                f"the audit trail {self.path} was cut off or replaced: entry {head.number} is not what was written",
                "find out who could write to this home; the trail before it may be sound: `audit log` shows it",
            )
        return count

    @contextmanager
    def _locked(self) -> Iterator[int]:
        if not check_private(self.path):
            try:
                create_private(self.path, b"")
            except FileExistsError:
                check_private(self.path)
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise JobFailed(
                f"the audit trail {self.path} cannot be opened: {error.strerror}", "check its rights"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _cut_torn(fd: int, path: Path) -> Head:
    """Return the last entry; what a crash left of one that was being written is taken off first."""
    size = os.fstat(fd).st_size
    start = max(0, size - _LAST_LINE)
    tail = os.pread(fd, size - start, start)
    whole = tail.rfind(b"\n") + 1
    if whole < len(tail):
        os.ftruncate(fd, start + whole)
    lines = tail[:whole].splitlines(keepends=True)
    if not lines:
        if start:
            raise _damaged(path, "its end holds no entry")
        return Head()
    entry = _parsed(lines[-1], path)
    return Head(entry["n"], entry["hash"])


def _proved(line: bytes, last: Head, path: Path) -> tuple[dict[str, Any], Head]:
    entry = _parsed(line, path)
    if entry["n"] != last.number + 1 or entry["prev"] != last.hash:
        raise _damaged(path, f"after entry {last.number} there is one that does not follow it")
    return entry, Head(entry["n"], entry["hash"])


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    """Return an entry that holds its own hash."""
    text = line.decode("utf-8", "surrogateescape")
    body, mark, _rest = text.rpartition(',"hash":"')
    try:
        entry = json.loads(text)
        sound = bool(mark) and entry["hash"] == _digest(body) and type(entry["n"]) is int and type(entry["prev"]) is str
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise _damaged(path, "an entry was altered")
    return dict(entry)


def _digest(body: str) -> str:
    return blake3(body.encode("utf-8", "surrogateescape")).hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _whoever() -> str:
    user = os.getuid()
    try:
        import pwd

        return f"{user} {pwd.getpwuid(user).pw_name}"
    except (ImportError, KeyError):
        return str(user)


def _damaged(path: Path, why: str) -> DamagedData:
    return DamagedData(f"the audit trail {path} is damaged: {why}", "find out who could write to this home")

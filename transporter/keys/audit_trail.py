"""The audit trail of a home: what was done to its keys, by whom and when; append-only, and each entry holds the last.

`audit.log`, mode 0600, one JSON object a line, in this order of fields:

    n      1, 2, 3, … without a gap
    at     UTC, ISO 8601 with microseconds
    by     user id and name of whoever ran the command, or the daemon
    event  what was done: "password.add", …
    …      facts of the event: names, counts, ids in hex; never a secret
    prev   `hash` of the entry before (64 zeros in the first)
    hash   BLAKE3, keyed, of the line up to here: everything before `,"hash":`

The key comes from the home's master key: without that nobody makes an entry. One that is altered, taken out or put in
breaks the chain. That the *end* was cut off shows only to who remembers how far it went: the key database does (`Head`,
kept by open_database.py), and nothing is added behind an end that is not the one it remembers. An entry is durable
before the deed is: after a crash between the two there is an entry of something that was not done, never the reverse.
"""

from __future__ import annotations

import errno
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
_FIELDS: Final = {"n": int, "at": str, "by": str, "event": str, "prev": str, "hash": str}
Fact = str | int | bool | list[str]


@dataclass(frozen=True, slots=True)
class Head:
    """How far the trail goes: number and hash of its last entry. (0, zeros) when it is empty."""

    number: int = 0
    hash: str = NO_HASH


class AuditTrail:
    """The file at ``path``. Several processes may append; each waits for the other (flock)."""

    def __init__(self, path: Path, clock: Clock, key: bytes) -> None:
        self.path = path
        self._clock = clock
        self._key = key

    def append(self, event: str, facts: dict[str, Fact], reached: Head = Head()) -> Head:
        """Add one entry, durably, and return where the trail ends now; ``reached``: how far it went, as remembered.

        Raises DamagedData when it does not go so far any more, or its end is not an entry; DiskFull, JobFailed.
        """
        if _FIELDS.keys() & facts.keys():
            raise ValueError("a fact has the name of a field that every entry has")
        with self._locked() as fd:
            last = self._end(fd, reached)
            number = last.number + 1
            entry = {
                "n": number,
                "at": datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC).isoformat(timespec="microseconds"),
                "by": _whoever(),
                "event": event,
                **facts,
                "prev": last.hash,
            }
            body = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))[:-1]
            digest = self._digest(body)
            line = f'{body},"hash":"{digest}"}}\n'.encode("utf-8", "surrogateescape")
            if len(line) > MAX_ENTRY:
                raise ValueError("an entry of the audit trail is too long")
            try:
                _write_all(fd, line)
                os.fsync(fd)
            except OSError as error:
                full = error.errno in {errno.ENOSPC, errno.EDQUOT}
                raise (DiskFull if full else JobFailed)(
                    f"the audit trail {self.path} cannot be written: {error.strerror}",
                    "free some room" if full else "look at the disk",
                ) from error
            return Head(number, digest)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, oldest first, each proved against the one before. Raises DamagedData at a fault."""
        if not check_private(self.path):
            return
        last = Head()
        with self.path.open("rb") as file:
            # Beside a writer that takes a torn entry off.
            fcntl.flock(file, fcntl.LOCK_SH)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # torn by a crash: no entry
                entry = self._parsed(line)
                if entry["n"] != last.number + 1 or entry["prev"] != last.hash:
                    raise _damaged(self.path, f"after entry {last.number} there is one that does not follow it")
                last = Head(entry["n"], entry["hash"])
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
            raise _cut_off(self.path, head)
        return count

    def set_aside(self) -> Path | None:
        """Rename the file, so that a new trail begins; return where it lies now, or None where there is none."""
        if not self.path.exists():
            return None
        with self._locked():
            aside = self.path.with_name(f"{self.path.name}.{self._clock.now_ns()}")
            self.path.rename(aside)
        return aside

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

    def _end(self, fd: int, reached: Head) -> Head:
        """Return the last entry, once ``reached`` is found to be it or one of those that a crash left behind it.

        Only then is what a crash left of an entry taken off: a cut is not to pass for a crash.
        """
        size = os.fstat(fd).st_size
        start = max(0, size - _LAST_LINE)
        tail = os.pread(fd, size - start, start)
        whole = tail.rfind(b"\n") + 1
        lines = tail[:whole].splitlines(keepends=True)
        if start:
            del lines[:1]  # its beginning may lie before what was read
        entries = (self._parsed(line) for line in reversed(lines))
        last = next(entries, None)
        known = last
        while known is not None and known["n"] > reached.number:
            known = next(entries, None)
        if reached.number and (known is None or known["hash"] != reached.hash):
            raise _cut_off(self.path, reached)
        if whole < len(tail):
            os.ftruncate(fd, start + whole)
        return Head() if last is None else Head(last["n"], last["hash"])

    def _parsed(self, line: bytes) -> dict[str, Any]:
        """Return an entry that holds its own hash, and nothing behind it. Raises DamagedData."""
        text = line.decode("utf-8", "surrogateescape")
        body, _mark, _rest = text.rpartition(',"hash":"')
        try:
            entry = json.loads(text)
            sound = text == f'{body},"hash":"{self._digest(body)}"}}\n' and all(
                type(entry[name]) is kind for name, kind in _FIELDS.items()
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise _damaged(self.path, "an entry was altered")
        return dict(entry)

    def _digest(self, body: str) -> str:
        return blake3(body.encode("utf-8", "surrogateescape"), key=self._key).hexdigest()


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


def _cut_off(path: Path, head: Head) -> DamagedData:
    return DamagedData(
        f"the audit trail {path} was cut off or replaced: entry {head.number} is not what was written",
        "find out who could write to this home; then `transporter audit begin-anew` sets the old file aside",
    )


def _damaged(path: Path, why: str) -> DamagedData:
    return DamagedData(
        f"the audit trail {path} is damaged: {why}",
        "find out who could write to this home; then `transporter audit begin-anew`",
    )

"""All points of a repository, also the recycled ones, domain by domain: what `prune` has to keep.

The list is an SQLite file without a name: a provider has millions of points, and memory is bounded.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from blake3 import blake3

from transporter.errors import DamagedData
from transporter.repository import files, limits, points
from transporter.repository.connections import index_errors
from transporter.repository.layout import Layout

_PIECE = limits.READ_SIZE // 32 * 32


@dataclass(frozen=True, slots=True)
class LivePoint:
    """A file below ``points/`` or ``recycled/``. ``name``: tenant/job/id, as folder names, the same in both."""

    name: str
    path: str


class PointList:
    """The points as they were when `look` was called; may be called again, to find those that came since."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # One prune at a time (leases/prune): what is there is of one that was killed before it took the name away.
        path = layout.journal / "prune.tmp"
        with files.disk_errors("list the restore points"):
            files.unlink(path)
        with index_errors():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
            files.unlink(path)
        except BaseException:
            self._db.close()
            raise
        self._look = 0
        self.count = 0

    def _prepare(self) -> None:
        with index_errors():
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-2048"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(
                "CREATE TABLE points (domain BLOB, name TEXT, path TEXT, look INTEGER, PRIMARY KEY (domain, name))"
                " WITHOUT ROWID"
            )

    def look(self, poll: Callable[[], None]) -> int:
        """List all points; return how many were not listed before.

        A point may move between the folders meanwhile (removed to the recycle bin, or back): whichever way it goes, one
        of the three walks meets it. Raises DamagedData naming a file that is not a point.
        """
        self._look += 1
        before = self.count
        for folder in (self._layout.recycled, self._layout.points, self._layout.recycled):
            for path, name in _walk(folder):
                poll()
                domain = _domain_of(path)
                if domain is not None:
                    with index_errors():
                        self.count += self._db.execute(
                            "INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?)", (domain, name, path, self._look)
                        ).rowcount
        return self.count - before

    def of(self, domain: bytes) -> Iterator[LivePoint]:
        """Yield the points that need chunks of a domain; those of one job one after the other."""
        with index_errors():
            for row in self._db.execute("SELECT name, path FROM points WHERE domain = ? ORDER BY name", (domain,)):
                yield LivePoint(*row)

    def domains(self) -> list[bytes]:
        """Return the domains whose chunks some point needs."""
        with index_errors():
            return [domain for (domain,) in self._db.execute("SELECT DISTINCT domain FROM points")]

    def new(self) -> Iterator[tuple[bytes, LivePoint]]:
        """Yield the points that the last look found first, with their domains."""
        with index_errors():
            query = "SELECT domain, name, path FROM points WHERE look = ? ORDER BY domain, name"
            for domain, name, path in self._db.execute(query, (self._look,)):
                yield domain, LivePoint(name, path)

    def needs(self, point: LivePoint) -> Iterator[bytes]:
        """Yield the needs of a point in pieces of whole ids; the last one was proven with all before it.

        Nothing for a point that was removed since. Raises DamagedData where it does not prove itself.
        """
        fd = self._open(point)
        if fd is None:
            return
        try:
            yield from _proven_needs(fd, point.path)
        except OSError as error:
            _refuse(point.path, error.strerror or str(error))
        finally:
            os.close(fd)

    def _open(self, point: LivePoint) -> int | None:
        for path in (point.path, str(self._layout.points / point.name), *self._recycled(point.name)):
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _refuse(path, error.strerror or str(error))
        return None

    def _recycled(self, name: str) -> Iterator[str]:
        folder = (self._layout.recycled / name).parent
        own = name.rpartition("/")[2]
        return (str(folder / found) for found in files.names_in(folder) if found.partition(".")[0] == own)

    def close(self) -> None:
        """Give the room back."""
        self._db.close()

    def __enter__(self) -> PointList:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the name (tenant/job/id) of every file below a folder, whatever it is."""
    root = str(folder)
    waiting = [root]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        relative = entry.path[len(root) + 1 :]
                        where, _, own = relative.rpartition("/")
                        yield entry.path, f"{where}/{own.partition('.')[0]}"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            _refuse(here, error.strerror or str(error))


def _domain_of(path: str) -> bytes | None:
    """Return the domain whose chunks a point needs, None if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return points.read_frame(fd, path).ref.domain
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    except DamagedData:
        _refuse(path, "it does not prove itself")


def _proven_needs(fd: int, path: str) -> Iterator[bytes]:
    """Yield the needs table, and raise DamagedData after it unless the whole object is what was committed."""
    try:
        frame = points.read_frame(fd, path)
    except DamagedData:
        _refuse(path, "it does not prove itself")
    hasher = blake3()
    offset = 0
    while offset < frame.needs_start:
        offset += _hash(hasher, os.pread(fd, min(_PIECE, frame.needs_start - offset), offset), path)
    end = frame.needs_start + 32 * frame.needs_count
    while offset < end:
        piece = os.pread(fd, min(_PIECE, end - offset), offset)
        offset += _hash(hasher, piece, path)
        if len(piece) % 32:
            _refuse(path, "it ends too early")
        yield piece
    _hash(hasher, os.pread(fd, frame.ref.size - 32 - end, end), path)
    if hasher.digest() != frame.ref.hash:
        _refuse(path, "it does not prove itself")


def _hash(hasher: blake3, piece: bytes, path: str) -> int:
    if not piece:
        _refuse(path, "it ends too early")
    hasher.update(piece)
    return len(piece)


def _refuse(path: str, why: str) -> NoReturn:
    short = "/".join(path.split("/")[-4:])
    raise DamagedData(
        f"nothing is pruned while a restore point cannot be read: {short}: {why}",
        "put the file back from a copy, or move it out of the repository if the point is to be given up",
    )

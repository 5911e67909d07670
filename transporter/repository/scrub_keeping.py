"""Scrub, the part about what becomes of points: the recycle bin, pins, locks, tombstones, the clock's mark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from transporter.errors import TransporterError
from transporter.repository import keeping_files
from transporter.repository.errors import PointMissing
from transporter.repository.keeping_files import ClockMark, Lock, Pin, Tombstone
from transporter.repository.layout import ID_NAME, RECYCLED_NAME, Layout, name_of
from transporter.repository.point_store import PointStore
from transporter.repository.scrub_report import ScrubReport

_READ: Final[tuple[tuple[str, Callable[[Path], object]], ...]] = (
    ("pins", lambda path: keeping_files.read(path, Pin)),
    ("locks", lambda path: keeping_files.read(path, Lock)),
    ("tombstones", lambda path: keeping_files.read(path, Tombstone)),
)


def check_keeping(layout: Layout, store: PointStore, report: ScrubReport) -> None:
    """Prove every one of these files; what a prune must not lose is proved in the recycle bin, too."""
    for folder, read in _READ:
        for path in _files(layout.root / folder):
            where = f"{folder}/{path.name}"
            if not ID_NAME.fullmatch(path.name):
                report.note(where, "not part of the repository")
                continue
            try:
                read(path)
            except TransporterError as error:
                report.hurt(where, str(error))
    try:
        keeping_files.read(layout.clock, ClockMark)
    except TransporterError as error:
        report.hurt("leases/clock", str(error))
    for tenant, job, path in _recycled(layout):
        where = str(path.relative_to(layout.root))
        match = RECYCLED_NAME.fullmatch(path.name)
        if match is None or tenant is None or job is None:
            report.note(where, "not part of the repository")
            continue
        try:
            for _ in store.read_recycled_needs(tenant, job, bytes.fromhex(match[1]), int(match[2])):
                pass
        except PointMissing:
            continue  # brought back, or gone, meanwhile
        except TransporterError as error:
            report.hurt(where, str(error))


def _recycled(layout: Layout) -> Iterator[tuple[str | None, str | None, Path]]:
    for tenant in _files(layout.recycled):
        for job in _files(tenant):
            for path in _files(job):
                yield name_of(tenant.name), name_of(job.name), path


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []

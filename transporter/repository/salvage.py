"""What a crash left in ``journal/``: whole records become packs, the rest goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from transporter.errors import DamagedData
from transporter.repository import files, pack_file
from transporter.repository.errors import DamagedIndex
from transporter.repository.healing import copy_record
from transporter.repository.index import Index, PackRow
from transporter.repository.layout import Layout
from transporter.repository.open_pack import OpenPack, UncertainDisk, publish_pack
from transporter.repository.record import HEADER_LENGTH, Entry


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What `salvage` did: packs made, records saved, bytes of torn ends that went, files set aside.

    ``left``: why a journal that the disk cannot read was left for another time (empty: there was none).
    """

    packs: int = 0
    records: int = 0
    bytes_dropped: int = 0
    set_aside: int = 0
    left: str = ""

    def __add__(self, other: Salvaged) -> Salvaged:
        return Salvaged(
            self.packs + other.packs,
            self.records + other.records,
            self.bytes_dropped + other.bytes_dropped,
            self.set_aside + other.set_aside,
            self.left or other.left,
        )


def salvage(layout: Layout, index: Index, repository_id: bytes, in_use: Callable[[], Collection[str]]) -> Salvaged:
    """Finish every journal file that no live writer holds (``in_use``: the names of theirs).

    Only the holder of the lease may call this, one thread at a time. A journal that the disk cannot read stays as it
    is: it must not keep the others, and the whole repository, from being used.
    """
    total = Salvaged()
    with files.disk_errors("salvage the journal"):
        # The listing comes first: a journal begun after it is not in it, one begun before it is in use.
        found = sorted(layout.journal.glob("*.pack"))
        for path in sorted(set(found) - {layout.journal / name for name in in_use()}):
            total += _salvage_or_leave(layout, index, repository_id, path)
    return total


def _salvage_or_leave(layout: Layout, index: Index, repository_id: bytes, path: Path) -> Salvaged:
    try:
        with files.disk_errors(f"salvage {path.name}"):
            return _salvage_pack(layout, index, repository_id, path)
    except DamagedIndex:
        raise  # not this journal's fault: the index is made anew
    except DamagedData as error:
        return Salvaged(left=str(error))


def sweep(layout: Layout) -> None:
    """Remove temporary files of objects that never got their name, so that nobody was told of them. At open alone."""
    with files.disk_errors("clean the journal"):
        for path in layout.journal.glob("*.tmp"):
            files.unlink(path)


def _salvage_pack(layout: Layout, index: Index, repository_id: bytes, path: Path) -> Salvaged:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Salvaged()  # published by its writer since the folder was listed
    try:
        size = os.fstat(fd).st_size
        try:
            header = pack_file.read_header(fd)
        except DamagedData:
            header = None
        if header is None or header.repository_id != repository_id:
            return _set_aside(layout, path, size)
        entries, end, behind = whole_records(fd, header.length)
        if behind:
            return _copy_records(layout, index, repository_id, path, fd, header.tenant, [*entries, *behind])
        if not entries:
            files.unlink(path)
            return Salvaged(bytes_dropped=size)
        footer = pack_file.encode_footer(entries)
        complete = size == end + len(footer) and os.pread(fd, len(footer), end) == footer
        if not complete and os.fstat(fd).st_nlink > 1:
            # Published already, and damaged since: packs are never changed; scrub will name it.
            files.unlink(path)
            return Salvaged()
        if not complete:
            files.truncate(fd, end)
            files.write(fd, footer)
        # A whole one, too: whoever wrote it may have been killed before its fsync, and from here on it is relied on.
        files.sync(fd)
        name = pack_file.hash_file(fd)
    finally:
        os.close(fd)
    publish_pack(layout, index, path, PackRow(name, header.tenant, len(entries), end + len(footer)), entries)
    return Salvaged(1, len(entries), 0 if complete else size - end)


def whole_records(fd: int, start: int) -> tuple[list[Entry], int, list[Entry]]:
    """Return the records up to the first that is not whole, the offset behind the last of them, and later whole ones.

    If there are any of these, what lies before them was damaged: it is no torn end.
    """
    entries: list[Entry] = []
    behind: list[Entry] = []
    end = start
    torn = False
    for entry, whole in pack_file.walk_records(fd, start):
        torn = torn or not whole
        if not torn:
            entries.append(entry)
            end = entry.offset + HEADER_LENGTH + entry.stored_length
        elif whole:
            behind.append(entry)
    return entries, end, behind


def _copy_records(
    layout: Layout, index: Index, repository_id: bytes, path: Path, fd: int, tenant: str, entries: list[Entry]
) -> Salvaged:
    """Make a pack of the whole records of a journal that was damaged in its middle: all may have been acknowledged.

    The journal goes last. A crash before that has it copied again, to a pack of the same bytes and so the same name.
    """
    size = os.fstat(fd).st_size
    kept = 0
    if os.fstat(fd).st_nlink == 1:  # else it is published already: packs are never changed; scrub will name it
        copy = path.with_name(f"{path.stem}-whole.pack")
        files.unlink(copy)  # of an earlier attempt; the original is still here
        pack = OpenPack(copy, pack_file.encode_header(repository_id, tenant))
        try:
            for entry in entries:
                if not copy_record(fd, entry, pack):
                    raise DamagedData(f"{path.name} could not be read a second time", "look at the disk")
            kept = pack.length
            pack.finish(layout, index, tenant)
        except UncertainDisk as error:
            raise error.reason from error
        finally:
            pack.abandon()
    files.unlink(path)
    return Salvaged(1, len(entries), size - kept) if kept else Salvaged()


def _set_aside(layout: Layout, path: Path, size: int) -> Salvaged:
    """Deal with a journal file whose first bytes are not a header of ours.

    Torn while it was begun: it holds nothing. Longer: acknowledged records may be in it, so it is kept for a person to
    look at.
    """
    if size <= pack_file.LONGEST_HEADER:
        files.unlink(path)
        return Salvaged(bytes_dropped=size)
    files.make_folders(layout.quarantine, layout.root)
    files.replace(path, layout.quarantine / path.name)
    files.sync_folder(layout.quarantine)
    return Salvaged(set_aside=1)

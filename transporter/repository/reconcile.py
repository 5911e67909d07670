"""Making the index agree with the packs, cheaply, at open (rebuild.py does it wholly).

The index remembers the modification time of each of the 256 folders of packs as it was when it last agreed with the
folder. At open only folders with another time are listed, and those whose time was seen so early that a later change
may have left it as it was (clocks of file systems tick every 4 or 10 ms). A pack whose publication a crash interrupted
is found through its journal file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError
from transporter.repository import files, pack_file
from transporter.repository.index import Folder, Index, PackRow
from transporter.repository.layout import PACK_NAME, Layout
from transporter.repository.record import Entry

# More than any file system's clock takes for a tick.
_TICK_NS: Final = 100_000_000
_ABSENT: Final = Folder("", 0, 1 << 62)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Packs that were entered into and dropped from the index, and those whose footer could not be read."""

    added: int = 0
    dropped: int = 0
    damaged: int = 0


def pack_folders(layout: Layout) -> Iterator[tuple[str, int]]:
    """Yield each folder of packs (two hex digits) and its modification time in ns."""
    packs = str(layout.packs)  # made into paths, 256 names would cost more than to ask for their times
    for number in range(256):
        name = f"{number:02x}"
        try:
            yield name, os.stat(f"{packs}/{name}").st_mtime_ns
        except FileNotFoundError:
            yield name, 0


def list_packs(layout: Layout, folder: str) -> list[bytes]:
    """Return the names of the packs in a folder, sorted."""
    try:
        names = os.listdir(f"{layout.packs}/{folder}")
    except FileNotFoundError:
        return []
    return sorted(bytes.fromhex(name) for name in names if PACK_NAME.fullmatch(name) and name.startswith(folder))


def trust_folders(layout: Layout, index: Index, clock: Clock) -> None:
    """Note that folders in which this process alone has published still are as it left them. At close."""
    known = index.folders()
    now = clock.now_ns()
    index.set_folders(
        Folder(name, mtime_ns, now)
        for name, mtime_ns in pack_folders(layout)
        if name in known and known[name].mtime_ns == mtime_ns and not _settled(known[name])
    )


def _settled(folder: Folder) -> bool:
    return folder.checked_ns - folder.mtime_ns > _TICK_NS


def reconcile(layout: Layout, index: Index, clock: Clock) -> Reconciled:
    """Enter packs the index lacks and drop those that are gone, in folders that changed."""
    added = dropped = damaged = 0
    agreed = index.folders()
    seen: list[Folder] = []
    for folder, mtime_ns in pack_folders(layout):
        last = agreed.get(folder, _ABSENT)
        if last.mtime_ns == mtime_ns and _settled(last):
            continue
        now = clock.now_ns()
        # In this order: a prune beside this may publish a pack, and unlinks none before the index knows that.
        known = set(index.packs_of_folder(folder))
        present = set(list_packs(layout, folder))
        for name in sorted(known - present):
            if not layout.pack(name).exists():
                index.drop_pack(name)
                dropped += 1
        for name in sorted(present - known):
            entered = enter_pack(layout, index, name)
            added += entered
            damaged += not entered
        seen.append(Folder(folder, mtime_ns, now))
    if dropped:
        enter_second_copies(layout, index)
    index.set_folders(seen)
    return Reconciled(added, dropped, damaged)


@contextmanager
def open_pack(layout: Layout, name: bytes) -> Iterator[int]:
    """Open a published pack for reading. Raises the disk's errors as those a user meets, JobFailed if it is gone."""
    with files.disk_errors("read a pack"):
        fd = os.open(layout.pack(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def enter_pack(layout: Layout, index: Index, name: bytes) -> bool:
    """Enter a published pack into the index by its footer; False if not even its header can be read."""
    try:
        with open_pack(layout, name) as fd:
            header = pack_file.read_header(fd)
            entries = footer_or_records(fd)
            size = os.fstat(fd).st_size
    except DamagedData:  # also a sector that cannot be read
        return False
    index.add_pack(PackRow(name, header.tenant, len(entries), size), entries)
    return True


def enter_second_copies(layout: Layout, index: Index) -> None:
    """Find the chunks of packs that were dropped in the packs that are left: two sessions may have sent one chunk.

    The index keeps one place for each chunk and key. A pack with more records than places holds such copies.
    """
    for name in index.packs_with_more():
        try:
            with open_pack(layout, name) as fd:
                entries = footer_or_records(fd)
        except TransporterError:
            continue  # gone or damaged: scrub names it
        index.add_chunks(name, entries)


def footer_or_records(fd: int) -> list[Entry]:
    """Return what a pack lists, or if its footer is damaged what its records themselves prove.

    DamagedData if neither footer nor header can be read.
    """
    try:
        with files.disk_errors("read the footer of a pack"):
            return pack_file.read_footer(fd)
    except DamagedData:
        start = pack_file.read_header(fd).length
        return [entry for entry, whole in pack_file.walk_records(fd, start) if whole]

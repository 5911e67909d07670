"""Making the index agree with the packs: cheaply at open, wholly by rebuilding.

The index remembers the modification time of each of the 256 folders of packs as it was when it last agreed with the
folder. At open only folders with another time are listed. (A pack whose publication a crash interrupted is found
through its journal file.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transporter.errors import DamagedData
from transporter.repository import files, pack_file
from transporter.repository.connections import remove_log
from transporter.repository.index import Index, PackRow
from transporter.repository.layout import PACK_NAME, Layout
from transporter.repository.record import Entry
from transporter.repository.salvage import whole_records


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Packs that were entered into and dropped from the index, and those whose footer could not be read."""

    added: int = 0
    dropped: int = 0
    damaged: int = 0


def pack_folders(layout: Layout) -> Iterator[tuple[str, int]]:
    """Yield each folder of packs (two hex digits) and its modification time in ns."""
    for number in range(256):
        name = f"{number:02x}"
        try:
            yield name, (layout.packs / name).stat().st_mtime_ns
        except FileNotFoundError:
            yield name, 0


def list_packs(layout: Layout, folder: str) -> list[bytes]:
    """Return the names of the packs in a folder, sorted."""
    try:
        names = os.listdir(layout.packs / folder)
    except FileNotFoundError:
        return []
    return sorted(bytes.fromhex(name) for name in names if PACK_NAME.fullmatch(name) and name.startswith(folder))


def reconcile(layout: Layout, index: Index, *, all_folders: bool = False) -> Reconciled:
    """Enter packs the index lacks and drop those that are gone, in folders that changed (or in all)."""
    added = dropped = damaged = 0
    known_times = {} if all_folders else index.folder_times()
    for folder, mtime_ns in pack_folders(layout):
        if known_times.get(folder, 0) == mtime_ns and not all_folders:
            continue
        present, known = set(list_packs(layout, folder)), set(index.packs_of_folder(folder))
        for name in sorted(known - present):
            index.drop_pack(name)
            dropped += 1
        for name in sorted(present - known):
            entered = enter_pack(layout, index, name)
            added += entered
            damaged += not entered
        index.set_folder(folder, mtime_ns)
    return Reconciled(added, dropped, damaged)


def enter_pack(layout: Layout, index: Index, name: bytes) -> bool:
    """Enter a published pack into the index by its footer; False if not even its header can be read."""
    path = layout.pack(name)
    with files.disk_errors("read a pack"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = pack_file.read_header(fd)
            entries = footer_or_records(fd, header.length)
            size = os.fstat(fd).st_size
        except DamagedData:
            return False
        finally:
            os.close(fd)
    index.add_pack(PackRow(name, header.tenant, len(entries), size), entries)
    return True


def footer_or_records(fd: int, start: int) -> list[Entry]:
    """Return what a pack lists, or if its footer is damaged what its records themselves prove."""
    try:
        return pack_file.read_footer(fd)
    except DamagedData:
        return whole_records(fd, start)[0]


def rebuild(layout: Layout, repository_id: bytes, target: Path) -> Reconciled:
    """Write a new index of all packs to ``target`` (which is replaced if it is there)."""
    files.unlink(target)
    remove_log(target)
    index = Index(target, writable=True)
    try:
        index.claim(repository_id)
        return reconcile(layout, index, all_folders=True)
    finally:
        index.close()

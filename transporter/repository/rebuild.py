"""A new index of all packs, written in key order.

Pack by pack each of them would touch most pages of a large index; sorted first, every page is written once or twice.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.repository import files, limits, pack_file
from transporter.repository.connections import remove_log
from transporter.repository.index import Folder, Index, PackRow
from transporter.repository.layout import Layout
from transporter.repository.reconcile import Reconciled, footer_or_records, list_packs, open_pack, pack_folders
from transporter.repository.record import Entry
from transporter.repository.sorted_records import SortedRecords

# The columns of `chunks`, such that the order of the bytes is that of the table's key, and the first pack comes first.
ROW: Final = struct.Struct(">Q32sQQQIIB")


def rebuild(layout: Layout, repository_id: bytes, target: Path, clock: Clock) -> Reconciled:
    """Write a new index of all packs to ``target`` (which is replaced if it is there).

    It belongs to nobody until it is whole: `Index.claim` comes last.
    """
    files.unlink(target)
    remove_log(target)
    index = Index(target, writable=True)
    try:
        with files.disk_errors("make the index anew"), SortedRecords(layout.journal, ROW.size) as rows:
            folders, report = _read_packs(layout, index, rows, clock)
            for block in rows.blocks():
                index.put_rows(map(ROW.unpack, block))
            index.set_folders(folders)
        index.claim(repository_id, clock.random_bytes(16))
        return report
    finally:
        index.close()


def rebuild_in_place(layout: Layout, repository_id: bytes, clock: Clock) -> Reconciled:
    """Make the index anew while nobody has it open: in one step, so that a crash leaves the old one, or the new one."""
    fresh = layout.index.with_name("rebuild.db")
    report = rebuild(layout, repository_id, fresh, clock)
    with files.disk_errors("replace the index"):
        remove_log(layout.index)
        files.replace(fresh, layout.index)
        files.sync_folder(layout.index.parent)
    return report


def _read_packs(layout: Layout, index: Index, rows: SortedRecords, clock: Clock) -> tuple[list[Folder], Reconciled]:
    added = damaged = 0
    seen: list[Folder] = []
    for folder, mtime_ns in pack_folders(layout):
        now = clock.now_ns()
        for name in list_packs(layout, folder):
            entered = _read_pack(layout, index, rows, name)
            added += entered
            damaged += not entered
        seen.append(Folder(folder, mtime_ns, now))
    return seen, Reconciled(added, 0, damaged)


def _read_pack(layout: Layout, index: Index, rows: SortedRecords, name: bytes) -> bool:
    """Enter a pack; tell whether it could be read."""
    try:
        with open_pack(layout, name) as fd:
            header = pack_file.read_header(fd)
            entries = footer_or_records(fd)
            size = os.fstat(fd).st_size
    except DamagedData:  # also a sector that cannot be read
        return False
    pack, domains, keys = index.number_pack(PackRow(name, header.tenant, len(entries), size), entries)
    for start in range(0, len(entries), limits.PRUNE_BATCH):
        rows.add(encode_row(entry, pack, domains, keys) for entry in entries[start : start + limits.PRUNE_BATCH])
    return True


def encode_row(entry: Entry, pack: int, domains: dict[bytes, int], keys: dict[bytes, int]) -> bytes:
    """Return a record as bytes that sort as its row does; the maps: numbers of domains and keys."""
    domain, chunk_id, key_id, offset, stored, plain, codec = entry
    return ROW.pack(domains[domain], chunk_id, keys[key_id], pack, offset, stored, plain, codec)

"""Setting a damaged pack aside: what is sound in it moves into a new pack, and so does what a copy supplies.

What neither has becomes unknown, and is listed (lost.py): a chunk that nobody knows is sent again by the next run that
still has its plaintext. The damaged file stays in ``quarantine/`` for a person to look at. Nothing is healed by itself:
`transporter scrub --heal` asks for it.

Order: new journal with sound and supplied records, fsync → list of what is lost → the journal gets its name as a
pack → one index transaction forgets the damaged pack and enters the new one → damaged pack renamed to quarantine/ →
journal name removed. So at no moment is a sound chunk unknown. After a crash at any step the next scrub heals the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transporter.errors import DamagedData
from transporter.repository import files, limits, lost, pack_file
from transporter.repository.index import Index
from transporter.repository.layout import Layout
from transporter.repository.open_pack import OpenPack, UncertainDisk, name_pack
from transporter.repository.reconcile import footer_or_records
from transporter.repository.record import HEADER_LENGTH, ChunkRecord, Entry, open_record, seal_header

Supply = Callable[[Entry], ChunkRecord | None]
"""Returns the record of a chunk under the same key from elsewhere, proved, or None."""


@dataclass(frozen=True, slots=True)
class Healed:
    """Records of damaged packs that were saved, chunks that a copy supplied, and chunks that wait to be sent again."""

    saved: int = 0
    supplied: int = 0
    lost: int = 0

    def __add__(self, other: Healed) -> Healed:
        return Healed(self.saved + other.saved, self.supplied + other.supplied, self.lost + other.lost)


def heal_pack(
    layout: Layout, index: Index, repository_id: bytes, name: bytes, journal: Path, supply: Supply | None = None
) -> Healed:
    """Replace a damaged pack by one of its sound records and of what ``supply`` has, written through ``journal``.

    DamagedData if nobody can tell whose it is (neither its header nor the index): then nothing is changed. A pack that
    is gone is replaced likewise, by what ``supply`` has of it.
    """
    with files.disk_errors("heal a damaged pack"):
        try:
            fd = os.open(layout.pack(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if index.tenant_of(name) is None:
                return Healed()  # another scrub was faster
            return _heal_open(layout, index, repository_id, name, journal, None, supply)
        try:
            return _heal_open(layout, index, repository_id, name, journal, fd, supply)
        finally:
            os.close(fd)


def _heal_open(
    layout: Layout,
    index: Index,
    repository_id: bytes,
    name: bytes,
    journal: Path,
    fd: int | None,
    supply: Supply | None,
) -> Healed:
    tenant = _tenant(fd, index, name)
    entries = _entries(fd, index, name)
    pack = OpenPack(journal, pack_file.encode_header(repository_id, tenant))
    try:
        saved = 0
        gone: list[Entry] = []
        # In their old order: a pack that gets everything back is the one that it was, and has its name.
        for entry in entries:
            if fd is not None and copy_record(fd, entry, pack):
                saved += 1
            elif supply is None or not _take(supply, entry, pack):
                gone.append(entry)
        if pack.entries:
            pack.sync(layout.journal, pack.length)
        if gone:
            lost.write_list(layout, name, tenant, [lost.lost_chunk(fd, entry) for entry in gone])
        _exchange(layout, index, name, tenant, pack)
        if pack.entries:
            files.unlink(journal)
    except UncertainDisk as error:
        raise error.reason from error
    finally:
        pack.abandon()
    return Healed(saved, len(pack.entries) - saved, len(gone))


def _exchange(layout: Layout, index: Index, name: bytes, tenant: str, pack: OpenPack) -> None:
    """Put the new pack (if there is anything in it) in the damaged one's place, and that one into ``quarantine/``."""
    if not pack.entries:
        index.drop_pack(name)
        _set_aside(layout, name)
        return
    row = pack.complete(tenant)
    if row.name == name:
        # Everything was saved or supplied in the order it had: it is the pack that this once was. At no moment is the
        # name free, for somebody may read.
        _keep_damaged(layout, name)
        files.replace(pack.path, layout.pack(name))
        files.sync_folder(layout.pack(name).parent)
    else:
        name_pack(layout, pack.path, row.name)
    index.replace_pack(name, row, pack.entries, layout.pack(row.name).parent.stat().st_mtime_ns)
    if row.name != name:
        _set_aside(layout, name)


def _keep_damaged(layout: Layout, name: bytes) -> None:
    path = layout.pack(name)
    files.make_folders(layout.quarantine, layout.root)
    files.unlink(layout.quarantine / path.name)  # one that was damaged before
    try:
        files.link(path, layout.quarantine / path.name)
    except FileNotFoundError:
        files.make_folders(path.parent, layout.root)  # it is gone, with its folder perhaps
    files.sync_folder(layout.quarantine)


def _set_aside(layout: Layout, name: bytes) -> None:
    path = layout.pack(name)
    files.make_folders(layout.quarantine, layout.root)
    try:
        files.replace(path, layout.quarantine / path.name)
    except FileNotFoundError:
        return  # it was gone before
    files.sync_folder(path.parent)
    files.sync_folder(layout.quarantine)


def _tenant(fd: int | None, index: Index, name: bytes) -> str:
    try:
        if fd is not None:
            with files.disk_errors("read the header of a pack"):
                return pack_file.read_header(fd).tenant
    except DamagedData:
        pass  # the index knows it as well
    tenant = index.tenant_of(name)
    if tenant is None:
        raise DamagedData("neither the header of a pack nor the index tells whose it is", "look at the file")
    return tenant


def _entries(fd: int | None, index: Index, name: bytes) -> list[Entry]:
    """Return what lay in a pack: what it lists or proves itself, and what the index has there besides."""
    entries: list[Entry] = []
    if fd is not None:
        try:
            with files.disk_errors("read a damaged pack"):
                entries = footer_or_records(fd)
        except DamagedData:
            pass  # the index alone knows
    listed = {(entry.domain, entry.chunk_id, entry.key_id) for entry in entries}
    entries += [e for e in index.entries_of_pack(name) if (e.domain, e.chunk_id, e.key_id) not in listed]
    return entries[: limits.PACK_RECORDS]


def _take(supply: Supply, entry: Entry, pack: OpenPack) -> bool:
    record = supply(entry)
    if record is None:
        return False
    pack.append(entry.domain, seal_header(entry.domain, record), record)
    return True


def copy_record(fd: int, entry: Entry, pack: OpenPack) -> bool:
    """Copy one record if it is sound; tell whether it was."""
    try:
        with files.disk_errors("read a record"):
            raw = os.pread(fd, HEADER_LENGTH + entry.stored_length, entry.offset)
        found = open_record(raw, entry)
    except DamagedData:
        return False
    pack.append(entry.domain, raw[:HEADER_LENGTH], found)
    return True

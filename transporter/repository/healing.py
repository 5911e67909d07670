"""Setting a damaged pack aside: what is sound in it moves into a new pack, what is not becomes unknown.

A chunk that nobody knows is sent again by the next run that still has its plaintext. The damaged file stays in
``quarantine/`` for a person to look at. Nothing is healed by itself: `transporter scrub --heal` asks for it.

Order: new journal with the sound records, fsync → damaged pack renamed to quarantine/ → dropped from the index →
journal published. A crash after the rename is finished by the next open: the pack is missed, the journal is salvaged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from transporter.errors import DamagedData
from transporter.repository import files, pack_file
from transporter.repository.index import Index
from transporter.repository.layout import Layout
from transporter.repository.open_pack import OpenPack, UncertainDisk
from transporter.repository.reconcile import footer_or_records
from transporter.repository.record import HEADER_LENGTH, Entry, open_record


@dataclass(frozen=True, slots=True)
class Healed:
    """How many records of damaged packs were saved, and how many chunks wait to be sent again."""

    saved: int = 0
    lost: int = 0


def heal_pack(layout: Layout, index: Index, repository_id: bytes, name: bytes, journal: Path) -> Healed:
    """Replace a damaged pack by one of its sound records, written through the file ``journal``.

    DamagedData if neither its header nor its footer can be read: then nothing is changed. A pack that is gone is
    dropped from the index.
    """
    path = layout.pack(name)
    with files.disk_errors("heal a damaged pack"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return Healed(0, index.drop_pack(name))
        try:
            tenant = _tenant(fd, index, name)
            entries = footer_or_records(fd)
            pack = OpenPack(journal, pack_file.encode_header(repository_id, tenant))
            try:
                saved = sum(copy_record(fd, entry, pack) for entry in entries)
                pack.sync(layout.journal, pack.length)
                files.make_folders(layout.quarantine, layout.root)
                files.replace(path, layout.quarantine / path.name)
                files.sync_folder(path.parent)
                files.sync_folder(layout.quarantine)
                index.drop_pack(name)
                if pack.entries:
                    pack.finish(layout, index, tenant)
            except UncertainDisk as error:
                raise error.reason from error
            finally:
                pack.abandon()
        finally:
            os.close(fd)
    return Healed(saved, len(entries) - saved)


def _tenant(fd: int, index: Index, name: bytes) -> str:
    try:
        return pack_file.read_header(fd).tenant
    except DamagedData:
        tenant = index.tenant_of(name)
        if tenant is None:
            raise
        return tenant


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

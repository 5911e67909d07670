"""A pack that is being written: its journal file, what is in it, and the steps that make it a published pack.

    journal/<random>.pack ─ footer, fsync ─▶ link as packs/ab/<hash>, fsync folder ─▶ index ─▶ unlink journal name

The journal name goes last, so a crash at any step leaves it behind, and the next `open` finds it and finishes the work.
No locks here: `PackWriter` sees to it that one thread at a time appends and one at a time finishes.
"""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

from transporter.errors import TransporterError
from transporter.repository import files, limits
from transporter.repository.index import Index, PackRow
from transporter.repository.journal_file import JournalFile
from transporter.repository.layout import Layout
from transporter.repository.pack_file import encode_footer
from transporter.repository.record import HEADER_LENGTH, ChunkRecord, Entry


class UncertainDisk(Exception):
    """An fsync failed: nobody knows which pages are on the disk. ``reason`` is what the user meets."""

    def __init__(self, reason: TransporterError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class OpenPack:
    """One journal file. ``waiting`` holds chunk ids that are written and not yet handed out as durable."""

    def __init__(self, path: Path, header: bytes) -> None:
        self.path = path
        with files.disk_errors("begin a pack"):
            self._file = JournalFile(path)
        self._file.append(header)
        self.entries: list[Entry] = []
        self.by_chunk: dict[bytes, tuple[Entry, ...]] = {}
        self.waiting: list[bytes] = []
        self._hasher = blake3(header)
        self._durable_length = 0
        self._name_durable = False
        self._row: PackRow | None = None
        self._doubtful = False

    @property
    def length(self) -> int:
        """Bytes of header and records."""
        return self._file.length

    @property
    def full(self) -> bool:
        """Whether the next record belongs into another pack."""
        return self.length >= limits.PACK_TARGET or len(self.entries) >= limits.PACK_RECORDS

    def holds(self, record: ChunkRecord) -> bool:
        """Tell whether the chunk is here already, under the same key."""
        return any(entry.key_id == record.key_id for entry in self.by_chunk.get(record.chunk_id, ()))

    def append(self, domain: bytes, header: bytes, record: ChunkRecord) -> None:
        """Add one record; OSError leaves the pack as it was."""
        stored = record.stored
        entry = Entry(
            domain, record.chunk_id, record.key_id, self.length, len(stored), record.plain_length, record.codec
        )
        self._file.append(header, stored)
        # While the bytes are warm: the pack's name needs no second read of the file.
        self._hasher.update(header).update(stored)
        self.entries.append(entry)
        self.by_chunk[entry.chunk_id] = (*self.by_chunk.get(entry.chunk_id, ()), entry)
        self.waiting.append(record.chunk_id)

    def sync(self, journal: Path, length: int) -> None:
        """Make the first ``length`` bytes durable under the journal name.

        OSError: nothing is lost, try again. UncertainDisk: an fsync failed.
        """
        self._file.flush()
        try:
            self._file.sync()
            if not self._name_durable:
                files.sync_folder(journal)
                self._name_durable = True
        except OSError as error:
            self._doubt(error, "make chunks durable")
        self._durable_length = length

    def finish(self, layout: Layout, index: Index, tenant: str) -> None:
        """Publish; OSError and the index's errors leave it to be tried again, UncertainDisk does not."""
        publish_pack(layout, index, self.path, self.complete(tenant), self.entries)

    def complete(self, tenant: str) -> PackRow:
        """Write the footer and make the file durable, as far as that is not done; what `finish` raises."""
        if self._row is None:
            footer = encode_footer(self.entries)
            self._file.append(footer, eager=False)
            try:
                self._file.flush()
            except OSError:
                self._file.take_back(len(footer))
                raise
            try:
                self._file.end()
            except OSError as error:
                self._doubt(error, "publish a pack")
            name = self._hasher.update(footer).digest()
            self._row = PackRow(name, tenant, len(self.entries), self.length)
        return self._row

    def read(self, entry: Entry) -> bytes:
        """Return header and stored bytes of a record of this pack."""
        return self._file.read(entry.offset, HEADER_LENGTH + entry.stored_length)

    def abandon(self) -> None:
        """Close; what was appended stays in the journal file if the disk takes it, and an empty one goes."""
        try:
            if self.entries and self._row is None and not self._doubtful:
                self._file.flush()
        except OSError:
            pass  # it was not acknowledged
        self.close()
        if not self.entries:
            files.discard(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _doubt(self, cause: OSError, doing: str) -> None:
        """Give up what the failed fsync left uncertain: a later one may succeed without having written it."""
        self._doubtful = True
        try:
            self._file.cut(self._durable_length)
        except OSError:
            pass  # salvage proves each record by its hash anyway
        raise UncertainDisk(files.translate(cause, doing)) from cause


def publish_pack(layout: Layout, index: Index, journal: Path, row: PackRow, entries: list[Entry]) -> None:
    """Give a finished, fsynced journal file its name, enter it in the index, drop the journal name. Idempotent."""
    target = name_pack(layout, journal, row.name)
    index.add_pack(row, entries, target.parent.stat().st_mtime_ns)
    if not target.exists():
        # The same pack was there, and a prune removed it before it was entered anew; from now on none does.
        name_pack(layout, journal, row.name)
    files.unlink(journal)


def name_pack(layout: Layout, journal: Path, name: bytes) -> Path:
    """Give a finished, fsynced journal file its name as a pack, durably; return its path."""
    target = layout.pack(name)
    files.make_folders(target.parent, layout.root)
    try:
        files.link(journal, target)
    except FileExistsError:
        pass  # the name is the content's hash: it is this very pack
    files.sync_folder(target.parent)
    return target

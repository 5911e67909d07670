"""Writing packs: sequential appends to a journal file, acknowledgement after fdatasync, publication of full packs.

    journal/<random>.pack ─ footer, fsync ─▶ link as packs/ab/<hash>, fsync folder ─▶ index ─▶ unlink journal name

The journal name goes last, so a crash at any step leaves it behind, and the next `open` finds it and finishes the work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from transporter.errors import JobFailed, TransporterError
from transporter.repository import files, limits
from transporter.repository.index import PackRow
from transporter.repository.pack_file import ENTRY_LENGTH, encode_footer, encode_header
from transporter.repository.record import HEADER_LENGTH, ChunkRecord, Entry, seal_header

if TYPE_CHECKING:
    from transporter.repository.index import Index
    from transporter.repository.layout import Layout
    from transporter.repository.quota import QuotaBook


@dataclass(slots=True)
class _Pack:
    """A pack that is being written. Its entries are visible to `have` at once, and to `read` through its descriptor."""

    path: Path
    fd: int
    length: int
    hasher: blake3 = field(repr=False)
    entries: list[Entry] = field(default_factory=list, repr=False)
    by_chunk: dict[bytes, tuple[Entry, ...]] = field(default_factory=dict, repr=False)
    waiting: list[bytes] = field(default_factory=list, repr=False)
    name_durable: bool = False

    def holds(self, record: ChunkRecord) -> bool:
        return any(entry.key_id == record.key_id for entry in self.by_chunk.get(record.chunk_id, ()))

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.by_chunk[entry.chunk_id] = (*self.by_chunk.get(entry.chunk_id, ()), entry)


class PackWriter:
    """Stores records of one dedup domain for one tenant.

    One thread appends; `sync`, `seal` and the look-ups may run beside it in others: no lock that `append` needs is held
    while the disk is waited for.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        quota: QuotaBook,
        *,
        repository_id: bytes,
        domain: bytes,
        tenant: str,
        new_name: Callable[[], str],
        on_close: Callable[[PackWriter], None],
    ) -> None:
        self.domain = domain
        self.tenant = tenant
        self._layout = layout
        self._index = index
        self._quota = quota
        self._header = encode_header(repository_id, tenant)
        self._new_name = new_name
        self._on_close = on_close
        self._lock = threading.Lock()  # the state below
        self._disk_lock = threading.Lock()  # one sync or seal at a time; taken before _lock, never after
        self._current: _Pack | None = None
        self._full: list[_Pack] = []
        self._durable: list[bytes] = []
        self._failure: TransporterError | None = None
        self._closed = False
        quota.enter(tenant)

    # -- the hot path -----------------------------------------------------------------------------------------------

    def append(self, record: ChunkRecord) -> None:
        """Write one record (not yet durable). QuotaExceeded and DiskFull leave the pack as it was.

        A chunk this writer holds already under the same key is not written twice, and acknowledged all the same.
        """
        header = seal_header(self.domain, record)
        with self._lock:
            crowded = len(self._full) >= limits.FULL_PACKS
        if crowded:
            self._finish_full()  # the disk is slower than the sender: wait here, and so does the sender
        with self._lock:
            self._check_usable()
            for pack in self._live():
                if pack.holds(record):
                    pack.waiting.append(record.chunk_id)
                    return
            pack = self._current or self._start()
            self._write(pack, header, record)
            if pack.length >= limits.PACK_TARGET or len(pack.entries) >= limits.PACK_RECORDS:
                self._full.append(pack)
                self._current = None

    def _write(self, pack: _Pack, header: bytes, record: ChunkRecord) -> None:
        stored = record.stored
        cost = HEADER_LENGTH + len(stored) + ENTRY_LENGTH
        self._quota.charge(self.tenant, cost)
        try:
            files.write(pack.fd, header, stored)
        except OSError as error:
            self._quota.charge(self.tenant, -cost)
            self._roll_back(pack)
            raise files.translate(error, "store a chunk") from error
        # While the bytes are warm: the pack's name needs no second read of the file.
        pack.hasher.update(header).update(stored)
        entry = Entry(
            self.domain, record.chunk_id, record.key_id, pack.length, len(stored), record.plain_length, record.codec
        )
        pack.add(entry)
        pack.waiting.append(record.chunk_id)
        pack.length += HEADER_LENGTH + len(stored)

    def _roll_back(self, pack: _Pack) -> None:
        try:
            files.truncate(pack.fd, pack.length)
        except OSError as error:
            self._failure = files.translate(error, "take back half a record")

    def _start(self) -> _Pack:
        path = self._layout.journal / f"{self._new_name()}.pack"
        with files.disk_errors("begin a pack"):
            fd = files.create(path)
            try:
                files.write(fd, self._header)
            except BaseException:
                os.close(fd)
                files.unlink(path)
                raise
        self._current = _Pack(path, fd, len(self._header), blake3(self._header))
        return self._current

    def _live(self) -> list[_Pack]:
        return [*self._full, self._current] if self._current is not None else self._full

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise JobFailed("the pack writer is closed")

    # -- durability -------------------------------------------------------------------------------------------------

    def sync(self) -> list[bytes]:
        """Make everything appended so far durable and return the chunk ids that became so since the last call.

        Publishes full packs on the way. `append` may go on meanwhile.
        """
        with self._disk_lock:
            with self._lock:
                self._check_usable()
                pack = self._current
                waiting: list[bytes] = []
                if pack is not None:
                    waiting, pack.waiting = pack.waiting, []
            self._finish_all()
            if pack is not None and waiting:
                self._sync_pack(pack)
            self._durable += waiting
            return self._take_durable()

    def _sync_pack(self, pack: _Pack) -> None:
        try:
            files.sync_data(pack.fd)
            if not pack.name_durable:
                files.sync_folder(self._layout.journal)
                pack.name_durable = True
        except OSError as error:
            # After a failed fsync nobody knows which pages are on the disk: nothing is acknowledged any more.
            self._failure = files.translate(error, "make chunks durable")
            raise self._failure from error

    def _take_durable(self) -> list[bytes]:
        durable, self._durable = self._durable, []
        return durable

    def publish(self) -> None:
        """Publish everything appended so far as packs; the ids are returned by the next `sync` or `seal`."""
        with self._disk_lock:
            with self._lock:
                self._check_usable()
                if self._current is not None and self._current.entries:
                    self._full.append(self._current)
                    self._current = None
            self._finish_all()

    def seal(self) -> list[bytes]:
        """Publish everything appended so far as packs; return ids like `sync`."""
        self.publish()
        with self._disk_lock:
            return self._take_durable()

    def _finish_full(self) -> None:
        with self._disk_lock:
            self._finish_all()

    def _finish_all(self) -> None:
        while True:
            with self._lock:
                if not self._full:
                    return
                pack = self._full[0]
            self._finish(pack)
            with self._lock:
                # Only now: have() asks the writers first and the index after, so a chunk is always in one of them.
                self._full.remove(pack)
                self._durable += pack.waiting
            os.close(pack.fd)

    def _finish(self, pack: _Pack) -> None:
        footer = encode_footer(pack.entries)
        try:
            files.truncate(pack.fd, pack.length)  # what an earlier attempt may have left
            files.write(pack.fd, footer)
            files.sync(pack.fd)
            name = pack.hasher.copy().update(footer).digest()
            size = pack.length + len(footer)
            publish_pack(
                self._layout, self._index, pack.path, PackRow(name, self.tenant, len(pack.entries), size), pack.entries
            )
        except OSError as error:
            raise files.translate(error, "publish a pack") from error

    # -- look-ups ---------------------------------------------------------------------------------------------------

    def entries_of(self, chunk_id: bytes) -> tuple[Entry, ...]:
        """Return the records of a chunk that are in packs not yet published."""
        with self._lock:
            return tuple(entry for pack in self._live() for entry in pack.by_chunk.get(chunk_id, ()))

    def keys_of(self, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """Return the key ids of those of ``ids`` that are in packs not yet published."""
        with self._lock:
            packs = [pack.by_chunk for pack in self._live() if pack.by_chunk]
            return {
                chunk_id: tuple(entry.key_id for chunks in packs for entry in chunks.get(chunk_id, ()))
                for chunk_id in ids
                if any(chunk_id in chunks for chunks in packs)
            }

    def read_raw(self, entry: Entry) -> bytes | None:
        """Return header and stored bytes of a record that is not yet published, None if it is by now."""
        with self._lock:
            for pack in self._live():
                if entry in pack.by_chunk.get(entry.chunk_id, ()):
                    return os.pread(pack.fd, HEADER_LENGTH + entry.stored_length, entry.offset)
        return None

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> list[bytes]:
        """Publish everything and end; return ids like `sync`. What cannot be published stays in the journal."""
        if self._closed:
            return []
        try:
            return self.seal()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End at once; journal files stay for salvage (by the next writer, or the next open)."""
        with self._disk_lock, self._lock:
            if self._closed:
                return
            self._closed = True
            left = self._live()
            self._full, self._current = [], None
            for pack in left:
                os.close(pack.fd)
                if not pack.entries:
                    files.unlink(pack.path)
        self._quota.leave(self.tenant)
        self._on_close(self)

    def journals(self) -> set[str]:
        """Return the names of the journal files in use."""
        with self._lock:
            return {pack.path.name for pack in self._live()}


def publish_pack(layout: Layout, index: Index, journal: Path, row: PackRow, entries: list[Entry]) -> None:
    """Give a finished, fsynced journal file its name, enter it in the index, drop the journal name. Idempotent."""
    target = layout.pack(row.name)
    files.make_folders(target.parent, layout.root)
    try:
        files.link(journal, target)
    except FileExistsError:
        pass  # the name is the content's hash: it is this very pack
    files.sync_folder(target.parent)
    index.add_pack(row, entries, target.parent.stat().st_mtime_ns)
    files.unlink(journal)

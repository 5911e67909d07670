"""Writing packs: sequential appends to a journal file, acknowledgement after fdatasync, publication of full packs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from transporter.errors import JobFailed, TransporterError
from transporter.repository import files, limits
from transporter.repository.index import Index
from transporter.repository.layout import Layout
from transporter.repository.open_pack import OpenPack, UncertainDisk
from transporter.repository.pack_file import ENTRY_LENGTH, encode_header
from transporter.repository.quota import QuotaBook
from transporter.repository.record import HEADER_LENGTH, ChunkRecord, Entry, seal_header


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
        self._current: OpenPack | None = None
        self._full: list[OpenPack] = []
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
        if crowded:  # the disk is slower than the sender: wait here, and so does the sender
            with self._disk_lock:
                self._finish_all()
        with self._lock:
            self._check_usable()
            for pack in self._live():
                if pack.holds(record):
                    pack.waiting.append(record.chunk_id)
                    return
            self._append(header, record)

    def _append(self, header: bytes, record: ChunkRecord) -> None:
        cost = HEADER_LENGTH + len(record.stored) + ENTRY_LENGTH
        self._quota.charge(self.tenant, cost)
        try:
            pack = self._current
            if pack is None:
                pack = self._current = OpenPack(self._layout.journal / f"{self._new_name()}.pack", self._header)
            pack.append(self.domain, header, record)
        except BaseException as error:
            self._quota.charge(self.tenant, -cost)
            raise self._translated(error, "store a chunk") from error
        if pack.full:
            self._full.append(pack)
            self._current = None

    def _translated(self, error: BaseException, doing: str) -> BaseException:
        if isinstance(error, UncertainDisk):
            self._failure = error.reason
            return error.reason
        return files.translate(error, doing) if isinstance(error, OSError) else error

    def _live(self) -> list[OpenPack]:
        return [*self._full, self._current] if self._current is not None else self._full

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise JobFailed("the pack writer is closed", "run the job again")

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
                    length = pack.length
            if pack is not None and waiting:
                try:
                    pack.sync(self._layout.journal, length)
                except (OSError, UncertainDisk) as error:
                    with self._lock:
                        pack.waiting = waiting + pack.waiting
                    raise self._translated(error, "make chunks durable") from error
                self._durable += waiting
            self._finish_all()
            return self._take_durable()

    def publish(self) -> None:
        """Publish everything appended so far as packs; the ids are returned by the next `sync` or `seal`."""
        with self._disk_lock:
            self._publish()

    def seal(self) -> list[bytes]:
        """Publish everything appended so far as packs; return ids like `sync`."""
        with self._disk_lock:
            self._publish()
            return self._take_durable()

    def _publish(self) -> None:
        with self._lock:
            self._check_usable()
            if self._current is not None and self._current.entries:
                self._full.append(self._current)
                self._current = None
        self._finish_all()

    def _finish_all(self) -> None:
        while True:
            with self._lock:
                self._check_usable()
                if not self._full:
                    return
                pack = self._full[0]
            try:
                pack.finish(self._layout, self._index, self.tenant)
            except (OSError, UncertainDisk) as error:
                raise self._translated(error, "publish a pack") from error
            with self._lock:
                # Only now: have() asks the writers first and the index after, so a chunk is always in one of them.
                self._full.remove(pack)
                self._durable += pack.waiting
            pack.close()

    def _take_durable(self) -> list[bytes]:
        durable, self._durable = self._durable, []
        return durable

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
                    with files.disk_errors("read a chunk"):
                        return pack.read(entry)
        return None

    def journals(self) -> set[str]:
        """Return the names of the journal files in use."""
        with self._lock:
            return {pack.path.name for pack in self._live()}

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> list[bytes]:
        """Publish everything and end; return ids like `sync`. What cannot be published stays in the journal."""
        with self._lock:
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
                pack.abandon()
        self._quota.leave(self.tenant)
        self._on_close(self)

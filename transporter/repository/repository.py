"""The repository: what the rest of the program sees of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError, UsageError
from transporter.repository import files, format_file, limits
from transporter.repository.chunk_store import ChunkStore
from transporter.repository.errors import RepositoryExists, RepositoryMissing
from transporter.repository.format_file import Format
from transporter.repository.healing import Healed, heal_pack
from transporter.repository.index import Index
from transporter.repository.layout import FOLDERS, Layout, folder_name
from transporter.repository.lease import Lease
from transporter.repository.opening import OpenReport, open_index, seal_index
from transporter.repository.point_head import decode_head
from transporter.repository.point_store import PointStore
from transporter.repository.points import PointRef
from transporter.repository.quota import QuotaBook
from transporter.repository.reconcile import Reconciled, enter_second_copies, rebuild, trust_folders
from transporter.repository.record import ChunkRecord
from transporter.repository.salvage import Salvaged, salvage
from transporter.repository.scrub import Scrubber, ScrubProgress, ScrubReport
from transporter.repository.slot_store import Replaced, SlotChange, SlotStore
from transporter.repository.statistics import Statistics, measure
from transporter.repository.writer import PackWriter


class Repository:
    """One repository on a local disk. All methods may be called from any thread.

    Made by `create` or `open`; a context manager that closes. Errors of the disk arrive as `transporter.errors`.
    """

    def __init__(self, layout: Layout, clock: Clock, content: Format, index: Index, lease: Lease | None) -> None:
        self._layout = layout
        self._clock = clock
        self._format = content
        self._index = index
        self._lease = lease
        self._chunks = ChunkStore(layout, index, self._writers_of)
        self._slots = SlotStore(layout, clock)
        self._points = PointStore(layout, clock, content.id, self._slots)
        self._quota = QuotaBook(content.quota, self._used_by)
        self._lock = threading.Lock()
        self._salvage_lock = threading.Lock()
        self._writers: list[PackWriter] = []
        self._salvage_due = False
        self._closed = False
        self.opened = OpenReport()

    # -- making, opening, closing -----------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path | str, *, quota: int | None = None, clock: Clock, encrypted: bool = False) -> Repository:
        """Make a repository in a folder that is empty or not there yet, and open it. ``quota``: bytes per tenant."""
        layout = Layout(Path(path))
        with files.disk_errors("create a repository"):
            layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_free(layout):
                raise RepositoryExists(f"{layout.root} is not empty", "choose an empty folder")
            files.unlink(layout.journal / "format.tmp")
            for folder in FOLDERS:
                (layout.root / folder).mkdir(mode=0o700, exist_ok=True)
            content = Format(id=clock.random_bytes(16), created_ns=clock.now_ns(), encrypted=encrypted, quota=quota)
            # The format file goes last: a folder without it is not a repository.
            files.publish(layout.journal / "format.tmp", layout.format, layout.root, (format_file.encode(content),))
            files.sync_folder(layout.root.parent)
        return cls.open(path, clock)

    @classmethod
    def open(cls, path: Path | str, clock: Clock, *, writable: bool = True) -> Repository:
        """Open a repository; for writing, finish what a crash left (see ``opened`` for what that was).

        RepositoryMissing, RepositoryBusy (another process writes), UnsupportedFormat, DamagedData.
        ``writable=False`` takes no lock and changes nothing, so it works beside a running writer.
        """
        layout = Layout(Path(path))
        content = _read_format(layout)
        lease = None
        if writable:
            with files.disk_errors("open the repository"):
                for folder in FOLDERS:
                    files.make_folders(layout.root / folder, layout.root)
            lease = Lease(layout.lease)
        try:
            index, report = open_index(layout, content.id, clock, writable=writable)
        except BaseException:
            if lease is not None:
                lease.release()
            raise
        repository = cls(layout, clock, content, index, lease)
        repository.opened = report
        return repository

    def close(self) -> None:
        """Close; writers that are still open leave their journals for salvage."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            writers = list(self._writers)
        for writer in writers:
            writer.abandon()
        self._chunks.close()
        try:
            if self._lease is not None:
                self._trust_folders()
            self._index.close()
            if self._lease is not None:
                seal_index(self._layout)
        finally:
            if self._lease is not None:
                self._lease.release()

    def _trust_folders(self) -> None:
        try:
            trust_folders(self._layout, self._index, self._clock)
        except (TransporterError, OSError):
            pass  # the next open lists a few folders more

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The repository's folder."""
        return self._layout.root

    @property
    def scratch(self) -> Path:
        """A folder on the repository's disk for files without a name, and such as end in ``.tmp``: swept at `open`."""
        return self._layout.journal

    @property
    def repository_id(self) -> bytes:
        """16 bytes that no other repository has."""
        return self._format.id

    @property
    def encrypted(self) -> bool:
        """Whether the provider seals what arrives plain."""
        return self._format.encrypted

    @property
    def quota(self) -> int | None:
        """Bytes that each tenant may store (None: no bound)."""
        return self._quota.limit

    def set_quota(self, quota: int | None) -> None:
        """Set the quota for as long as the repository is open: the configuration overrides what it was created with."""
        self._quota.limit = quota

    def quota_left(self, tenant: str) -> int:
        """Return the bytes a tenant may still store, −1 without a bound."""
        return self._quota.left(tenant)

    def _used_by(self, tenant: str) -> int:
        usage = self._index.usage(tenant)
        return (usage[0].bytes if usage else 0) + self._points.size_of(tenant)

    # -- chunks -----------------------------------------------------------------------------------------------------

    def have(self, domain: bytes, ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """Return, for each id, the key ids under which the chunk is stored in ``domain`` (unknown: ()).

        Counts what live writers hold, durable or not; `commit_point` sees to it that it becomes so.
        """
        return self._chunks.have(domain, ids)

    def knows_domain(self, domain: bytes) -> bool:
        """Tell whether the repository ever published a chunk of ``domain``: if not, nobody need ask for any."""
        return self._index.knows_domain(domain)

    def read(self, domain: bytes, chunk_id: bytes, key_ids: Collection[bytes] | None = None) -> ChunkRecord:
        """Return the proven record of a chunk stored under one of ``key_ids`` (None: any).

        ChunkMissing if there is none, DamagedData if there are some and none is sound.
        """
        return self._chunks.read(domain, chunk_id, key_ids)

    def read_many(
        self,
        domain: bytes,
        ids: Sequence[bytes],
        key_ids: Collection[bytes] | None = None,
        *,
        on_problem: Callable[[bytes, DamagedData], None] | None = None,
    ) -> Iterator[ChunkRecord]:
        """Yield the records of distinct chunks in the order in which they lie on the disk.

        A chunk that is missing or damaged raises, or is handed to ``on_problem`` and left out. Hold ≤ 4096 ids a call.
        """
        return self._chunks.read_many(domain, ids, key_ids, on_problem=on_problem)

    def _writers_of(self, domain: bytes) -> list[PackWriter]:
        with self._lock:
            return [writer for writer in self._writers if writer.domain == domain]

    def writer(self, domain: bytes, tenant: str) -> PackWriter:
        """Return a new writer of packs for one tenant and dedup domain. Several may be open at once."""
        if len(domain) != 16:
            raise UsageError("a domain has 16 bytes")
        folder_name(tenant)
        self._need_writable()
        if self._salvage_due:
            self.salvage()
        writer = PackWriter(
            self._layout,
            self._index,
            self._quota,
            repository_id=self.repository_id,
            domain=domain,
            tenant=tenant,
            new_name=lambda: self._clock.random_bytes(16).hex(),
            on_close=self._forget_writer,
        )
        with self._lock:
            self._writers.append(writer)
        return writer

    def _forget_writer(self, writer: PackWriter) -> None:
        with self._lock:
            self._writers.remove(writer)
            self._salvage_due = True

    def salvage(self) -> Salvaged:
        """Turn journals that no live writer holds into packs."""
        self._need_writable()
        with self._salvage_lock:
            self._salvage_due = False
            try:
                return salvage(self._layout, self._index, self.repository_id, self._journals_in_use)
            except BaseException:
                self._salvage_due = True
                raise

    def _journals_in_use(self) -> set[str]:
        with self._lock:
            writers = list(self._writers)
        return {name for writer in writers for name in writer.journals()}

    def _need_writable(self) -> None:
        if self._lease is None:
            raise UsageError("the repository is open for reading only", "open it for writing")

    # -- restore points ---------------------------------------------------------------------------------------------

    def put_slot(self, point_id: bytes, slot_id: bytes, data: bytes) -> None:
        """Store a slot durably; before the point itself. The same bytes again are fine, others: PointExists."""
        self._need_writable()
        self._slots.put(point_id, slot_id, data)

    def slots(self, point_id: bytes) -> dict[bytes, bytes]:
        """Return the sound slots of a point by their ids; DamagedData only if there are some and none is sound."""
        return self._slots.of(point_id)

    def replace_slots(
        self, tenant: str, job: str, changes: Sequence[SlotChange], keep_seconds: float, most: int | None = None
    ) -> Replaced:
        """Replace slots of points of one job, durably.

        Works beside a running writer, also on a repository that is open for reading only. ``most``: slots that a point
        may have then. Raises PointMissing, and what `SlotStore.replace` does.
        """
        for change in changes:
            self._points.check_exists(tenant, job, change.point_id)
        return self._slots.replace(changes, keep_seconds, limits.SLOTS_PER_POINT if most is None else most)

    def replace_slots_of_read(self, changes: Sequence[SlotChange], keep_seconds: float) -> Replaced:
        """As `replace_slots`, of points of any tenants and jobs that the caller has just read here."""
        return self._slots.replace(changes, keep_seconds)

    def replaced_slots(self, point_id: bytes) -> dict[bytes, int]:
        """Return the replaced slots of a point that are still kept: id → until when (ns)."""
        return self._slots.replaced(point_id)

    def slot_folders(self) -> list[str]:
        """Return the names of the folders that `purge_replaced_slots` takes, a few at a time: there are many."""
        return self._slots.folders()

    def purge_replaced_slots(self, folders: Sequence[str]) -> int:
        """Remove the replaced slots in these folders whose time is over; return how many."""
        return self._slots.purge(folders)

    def commit_point(
        self,
        tenant: str,
        job: str,
        point_id: bytes,
        head: bytes,
        needs: bytes | Iterable[bytes],
        *,
        domain: bytes | None = None,
        key_ids: Collection[bytes] | None = None,
        slots: Sequence[tuple[bytes, bytes]] = (),
    ) -> bytes:
        """Make a restore point visible, in one atomic step and as the last one; return its hash (32 bytes).

        ``needs`` are ids of chunks in ``domain`` (None: as the head says), in pieces of any size: every one must be
        stored, under one of ``key_ids`` (None: any), or ChunkMissing names how many are not. Packs of live writers that
        hold needed chunks are published first. ``slots`` are (id, bytes): they are charged to the tenant as the point
        is, and stored just before it, so that a commit that is refused leaves none.
        """
        self._need_writable()
        if domain is None:
            domain = decode_head(head).domain
        target = PointRef(tenant, job, point_id, domain, 0, 0, b"")
        return self._points.commit(
            target,
            head,
            needs,
            lambda ids: self._chunks.require(domain, ids, key_ids),
            lambda size: self._quota.charge(tenant, size),
            slots,
        )

    def tenants(self) -> list[str]:
        """Return the tenants that have restore points here."""
        return self._points.tenants()

    def point_ids(self, tenant: str) -> Iterator[tuple[str, bytes]]:
        """Yield (job, point id) of all points of a tenant by their names alone: quick, for many of them."""
        for job in self._points.jobs(tenant):
            for point_id in self._points.ids(tenant, job):
                yield job, point_id

    def points(self, tenant: str, job: str | None = None) -> list[PointRef]:
        """Return a tenant's restore points (of one job) in the order of their commits; `scrub` names damaged ones."""
        return self._points.listed(tenant, job, skip_damaged=True)

    def point(self, tenant: str, job: str, point_id: bytes) -> PointRef:
        """Return what is known of one point, its hash among it; PointMissing if there is none."""
        return self._points.ref(tenant, job, point_id)

    def point_hash(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return a point's hash (32 bytes)."""
        return self.point(tenant, job, point_id).hash

    def read_head(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return a point's head after proving the whole object."""
        return self._points.read_head(tenant, job, point_id)

    def head_unproved(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return a point's head without proving the object: quick, for many points."""
        return self._points.head_unproved(tenant, job, point_id)

    def read_needs(self, tenant: str, job: str, point_id: bytes) -> Iterator[bytes]:
        """Yield the ids of the chunks a point needs, in its order, after proving the whole object."""
        return self._points.read_needs(tenant, job, point_id)

    # -- care -------------------------------------------------------------------------------------------------------

    def scrub(
        self, on_progress: Callable[[ScrubProgress], None] | None = None, sample: float | None = None
    ) -> ScrubReport:
        """Prove every byte (``sample``: of a random share of the packs, 0 … 1). Changes nothing, needs no key."""
        scrubber = Scrubber(self._layout, self._index, self._points, self.repository_id, self._clock)
        return scrubber.run(on_progress, sample)

    def heal(self, packs: Iterable[bytes]) -> Healed:
        """Set damaged packs (as `scrub` names them) aside and keep their sound records.

        What is lost becomes unknown, so that the next run that has its plaintext sends it again.
        """
        self._need_writable()
        saved = lost = 0
        for name in packs:
            journal = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.pack"
            with self._salvage_lock:
                done = heal_pack(self._layout, self._index, self.repository_id, name, journal)
            saved, lost = saved + done.saved, lost + done.lost
        if lost:
            enter_second_copies(self._layout, self._index)
        return Healed(saved, lost)

    def rebuild_index(self) -> Reconciled:
        """Make the index anew from the packs. No writer may be open."""
        self._need_writable()
        with self._lock:
            if self._writers:
                raise UsageError("the index cannot be rebuilt while a job writes", "wait for the jobs to end")
            fresh = self._layout.index.with_name("rebuild.db")
            report = rebuild(self._layout, self.repository_id, fresh, self._clock)
            with files.disk_errors("replace the index"):
                self._index.swap(fresh)
        return report

    def statistics(self) -> Statistics:
        """Return sizes and counts, tenant by tenant, and the room that is left."""
        return measure(self._layout, self._index, self._points)


def _read_format(layout: Layout) -> Format:
    try:
        with open(layout.format, "rb") as file:
            raw = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        raise RepositoryMissing(
            f"there is no repository in {layout.root}", "create it with `transporter repository add`"
        ) from None
    except OSError as error:
        raise files.translate(error, "read the repository's format file") from error
    return format_file.decode(raw)


def _is_free(layout: Layout) -> bool:
    """Tell whether a folder is empty, or holds what a creation that was cut short leaves."""
    for path in layout.root.iterdir():
        if path.name not in FOLDERS or not path.is_dir() or {item.name for item in path.iterdir()} - {"format.tmp"}:
            return False
    return True

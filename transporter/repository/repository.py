"""The repository: what the rest of the program sees of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, TransporterError, UsageError
from transporter.repository import files, format_file, limits
from transporter.repository.care import Care
from transporter.repository.chunk_store import ChunkStore
from transporter.repository.errors import RepositoryExists, RepositoryMissing
from transporter.repository.format_file import Format
from transporter.repository.index import Index
from transporter.repository.keeping import Keeping
from transporter.repository.layout import FOLDERS, Layout, folder_name, own_name
from transporter.repository.lease import Lease
from transporter.repository.opening import OpenReport, open_index, seal_index
from transporter.repository.point_head import decode_head
from transporter.repository.point_store import PointStore
from transporter.repository.points import Origin, PointRef
from transporter.repository.quota import QuotaBook
from transporter.repository.reconcile import trust_folders
from transporter.repository.record import ChunkRecord
from transporter.repository.salvage import Salvaged, salvage
from transporter.repository.session_lease import SessionLease
from transporter.repository.slot_store import Replaced, SlotChange, SlotStore
from transporter.repository.writer import PackWriter


class Repository(Care):
    """One repository on a local disk. All methods may be called from any thread.

    Made by `create` or `open`; a context manager that closes. Errors of the disk arrive as `transporter.errors`.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Clock,
        content: Format,
        index: Index,
        lease: Lease | None,
        reading: SessionLease | None = None,
    ) -> None:
        self._layout = layout
        self._clock = clock
        self._format = content
        self._index = index
        self._lease = lease
        self._reading = reading
        self._chunks = ChunkStore(layout, index, self._writers_of)
        self._slots = SlotStore(layout, clock)
        self._points = PointStore(layout, clock, content.id, self._slots)
        self.keeping = Keeping(layout, clock, content, self._points)
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
        ``writable=False`` changes nothing, so it works beside a running writer; until it is closed it is a session that
        `prune` waits for (where the folder ``leases`` can be written).
        """
        layout = Layout(Path(path))
        content = read_format(layout)
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
        reading = None if writable else _reading_lease(layout, index)
        repository = cls(layout, clock, content, index, lease, reading)
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
            if self._reading is not None:
                self._reading.release()
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

    def check_room(self, tenant: str) -> None:
        """Raise QuotaExceeded where a tenant can store nothing more."""
        self._quota.check_room(tenant)

    def _used_by(self, tenant: str) -> int:
        usage = self._index.usage(tenant)
        return (usage[0].bytes if usage else 0) + self._points.size_of(tenant)

    def session(self) -> SessionLease:
        """Return the lease of a session: until it is released, nothing that is answered from here on is pruned.

        Everybody has one who relies on answers for longer than one call. It begins with the room of what was pruned.
        """
        self.forget_removed_packs()
        return SessionLease(self._layout.leases, self._index.moment)

    def forget_removed_packs(self) -> None:
        """Give back the room of packs that a prune in another process has removed, and that are still open here."""
        self._chunks.forget_removed()

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

    def hash_of(self, domain: bytes, chunk_id: bytes, key_id: bytes) -> bytes:
        """Read and prove the record of a chunk that is stored under ``key_id``; return its hash. Raises as `read`."""
        return self._chunks.hash_of(domain, chunk_id, key_id)

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

    def put_slot(self, name: bytes, slot_id: bytes, data: bytes) -> None:
        """Store one more slot, durably, under the name that `belongings` gives. PointExists for another of its id."""
        self._need_writable()
        self._slots.put(name, slot_id, data)

    def belongings(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return the name under which slots, pin and lock of a point lie: its id, unless another point had that."""
        return self._layout.belongings(tenant, job, point_id)

    def slots_of(self, tenant: str, job: str, point_id: bytes) -> dict[bytes, bytes]:
        """Return the sound slots of a point by their ids; DamagedData only if there are some and none is sound."""
        return self._slots.of(self.belongings(tenant, job, point_id))

    def slots_left(self, tenant: str, job: str, point_id: bytes) -> dict[bytes, bytes]:
        """Return, before a commit, the slots that earlier tries of it left, beside which its own will lie."""
        return self._slots.of(own_name(tenant, job, point_id))

    def slots(self, name: bytes) -> dict[bytes, bytes]:
        """Return the same as `slots_of`, by the name that `belongings` gives."""
        return self._slots.of(name)

    def slots_and_names(self, name: bytes) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
        """Return the same, and the names in the folder of these slots, for `SlotChange.seen`."""
        return self._slots.with_names(name)

    def replace_slots(
        self, tenant: str, job: str, changes: Sequence[SlotChange], keep_seconds: float, most: int | None = None
    ) -> Replaced:
        """Replace slots of points of one job, durably.

        Works beside a running writer, also on a repository that is open for reading only. ``most``: slots that a point
        may have then. Raises PointMissing, and what `SlotStore.replace` does.
        """
        for change in changes:
            self._points.check_exists(tenant, job, change.point_id)
        most = limits.SLOTS_PER_POINT if most is None else most
        needed = self.keeping.slots_needed(tenant, job)
        points = {self.belongings(tenant, job, change.point_id): change.point_id for change in changes}
        named = [replace(change, point_id=self.belongings(tenant, job, change.point_id)) for change in changes]
        now = self.keeping.clock.latest_ns()
        return self._slots.replace(named, keep_seconds, now, most, lambda name: needed(points[name]))

    def replace_slots_of_read(self, changes: Sequence[SlotChange], keep_seconds: float) -> Replaced:
        """As `replace_slots`, of points of any tenants and jobs that the caller has just read here.

        ``SlotChange.point_id`` is the name that `belongings` gives.
        """
        now = self.keeping.clock.latest_ns()
        return self._slots.replace(changes, keep_seconds, now, needed_until=self.keeping.locks())

    def replaced_slots(self, point_id: bytes) -> dict[bytes, int]:
        """Return the replaced slots of a point that are still kept: id → until when (ns)."""
        return self._slots.replaced(point_id)

    def slot_folders(self) -> list[str]:
        """Return the names of the folders that `purge_replaced_slots` takes, a few at a time: there are many."""
        return self._slots.folders()

    def purge_replaced_slots(self, folders: Sequence[str]) -> int:
        """Remove the replaced slots in these folders whose time is over; return how many.

        By the repository's time: by a clock that was set ahead a locked point would lose what opens it. Not those of
        points in the recycle bin: they go with their point, which may be brought back until then.
        """
        going = self.keeping.going()
        return self._slots.purge([name for name in folders if name not in going], self.keeping.clock.now_ns())

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
        replaces: bytes = b"",
        origin: Origin | None = None,
    ) -> bytes:
        """Make a restore point visible, in one atomic step and as the last one; return its hash (32 bytes).

        ``needs`` are ids of chunks in ``domain`` (None: as the head says), in pieces of any size: every one must be
        stored, under one of ``key_ids`` (None: any), or ChunkMissing names how many are not. Packs of live writers that
        hold needed chunks are published first. ``slots`` are (id, bytes): they are charged to the tenant as the point
        is, and stored just before it, so that a commit that is refused leaves none. ``origin``: it is the copy of a
        point of another repository; DamagedData unless head and needs are what the original had.

        ``replaces``: the id of a point of the job whose time, and so place in the order of commits, the new one takes;
        once that is there the old one is removed, as by the tenant. If it must stay, PointKept, PointMissing or
        ClockDoubtful come before anything is done.
        """
        self._need_writable()
        if domain is None:
            domain = decode_head(head).domain
        self.keeping.settle(tenant, job, point_id)
        committed_ns = 0
        if replaces and not self._points.exists(tenant, job, point_id):
            committed_ns = self.keeping.check_removable(tenant, job, replaces, tenant).committed_ns
        if origin is not None:
            # From here on runs for how long it must stay, so this is never earlier than what the repository has seen.
            origin = replace(origin, copied_ns=self.keeping.clock.latest_ns())
        target = PointRef(tenant, job, point_id, domain, committed_ns, 0, b"", origin)
        try:
            # From the first look at a chunk until the point has its name: what was found must not be pruned between.
            with self.session():
                return self._points.commit(
                    target,
                    head,
                    needs,
                    self.keeping.clock.date_of(_made_ns(head)),
                    lambda ids: self._chunks.require(domain, ids, key_ids),
                    lambda size: self._quota.charge(tenant, size),
                    slots,
                    before_link=self.keeping.lock_new,
                )
        finally:
            # Also where the new one was there already: a crash may have come between the two.
            if replaces and self._points.exists(tenant, job, point_id):
                self.keeping.remove(tenant, job, [replaces], tenant)

    def tenants(self) -> list[str]:
        """Return the tenants that have restore points here."""
        return self._points.tenants()

    def recycled_tenants(self) -> list[str]:
        """Return the tenants that have restore points in the recycle bin here."""
        return self._points.recycled_tenants()

    def jobs_of(self, tenant: str) -> set[str]:
        """Return the jobs of a tenant that have restore points, in the recycle bin or out of it."""
        return {*self._points.jobs(tenant), *self._points.recycled_jobs(tenant)}

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
        return self._points.unproved(tenant, job, point_id)[1]

    def point_unproved(self, tenant: str, job: str, point_id: bytes) -> tuple[PointRef, bytes]:
        """Return what is known of a point, and its head, likewise: its file is opened once."""
        return self._points.unproved(tenant, job, point_id)

    def read_needs(self, tenant: str, job: str, point_id: bytes) -> Iterator[bytes]:
        """Yield the ids of the chunks a point needs, in its order, after proving the whole object."""
        return self._points.read_needs(tenant, job, point_id)

    def needs_parts(self, tenant: str, job: str, point_id: bytes, start: int, at_once: int = 4096) -> Iterator[bytes]:
        """Yield the needs table of a point as bytes, ``at_once`` ids at a time, from id number ``start`` on.

        Not proven: for whoever proves the whole by its hash.
        """
        return self._points.needs_parts(tenant, job, point_id, start, at_once)

    def count_needs(self, tenant: str, job: str, point_id: bytes) -> int:
        """Return how many chunks a point needs, as its object says."""
        return self._points.count_needs(tenant, job, point_id)


def _made_ns(head: bytes) -> int | None:
    """Return when a point was made, by the clock of the end that read; None where it does not say."""
    try:
        return decode_head(head).created_ns
    except DamagedData:
        return None


def read_format(layout: Layout) -> Format:
    """Return what the format file says. Raises RepositoryMissing, UnsupportedFormat, DamagedData."""
    try:
        with open(layout.format, "rb") as file:
            raw = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        raise RepositoryMissing(
            f"there is no repository in {layout.root}",
            "is its disk mounted? a new one: `transporter repository add`; "
            "one whose disk is gone for good: `transporter repository make-anew`",
        ) from None
    except OSError as error:
        raise files.translate(error, "read the repository's format file") from error
    return format_file.decode(raw)


def _reading_lease(layout: Layout, index: Index) -> SessionLease | None:
    try:
        return SessionLease(layout.leases, index.moment)
    except TransporterError:
        return None  # on a medium that cannot be written nothing is pruned; an unusable index is told by its use


def _is_free(layout: Layout) -> bool:
    """Tell whether a folder is empty, or holds what a creation that was cut short leaves."""
    for path in layout.root.iterdir():
        if path.name not in FOLDERS or not path.is_dir() or {item.name for item in path.iterdir()} - {"format.tmp"}:
            return False
    return True

"""Committing, listing and reading restore points."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, UsageError
from transporter.repository import files, limits, points
from transporter.repository.errors import PointExists, PointMissing
from transporter.repository.files import StrPath
from transporter.repository.layout import ID_NAME, RECYCLED_NAME, Layout, name_of
from transporter.repository.point_head import decode_head
from transporter.repository.points import Origin, PointRef
from transporter.repository.slot_store import SlotStore

_BATCH = 4096


class PointStore:
    """The folder ``points/``; ``slots`` is the one beside it. Thread-safe."""

    def __init__(self, layout: Layout, clock: Clock, repository_id: bytes, slots: SlotStore) -> None:
        self._layout = layout
        self._clock = clock
        self._repository_id = repository_id
        self._slots = slots

    # -- points -----------------------------------------------------------------------------------------------------

    def commit(
        self,
        target: PointRef,
        head: bytes,
        needs: bytes | Iterable[bytes],
        now_ns: int,
        check: Callable[[Sequence[bytes]], None],
        charge: Callable[[int], None],
        slots: Sequence[tuple[bytes, bytes]] = (),
        *,
        before_link: Callable[[PointRef], None] | None = None,
    ) -> bytes:
        """Make a point visible: whole, durable, in one step; return its hash. PointExists if its id is taken.

        ``now_ns``: what it is dated, if none of its job is later.
        ``target`` with a time of commit takes another point's place in the order of commits; of a copy,
        ``origin.copied_ns`` is the time now. ``slots``: (id, bytes),
        stored once everything else was found in order and is paid for. ``before_link``: the last thing before.
        """
        if not 0 < len(head) <= limits.HEAD_LENGTH:
            raise UsageError(f"a point's head has {len(head)} bytes; 1 to {limits.HEAD_LENGTH} are allowed")
        path = self._layout.point(target.tenant, target.job, target.point_id)
        if len(target.domain) != 16:
            raise UsageError("a domain has 16 bytes")
        if path.exists():
            with files.disk_errors("look at a restore point"):
                files.sync_folder(path.parent)  # whoever hears "exists" may rely on it
            raise _exists(target)
        checked = _checked(needs, check)
        if target.origin is not None and not target.origin.resealed:
            checked = _original(target, target.origin, head, checked)
        stamped = target if target.committed_ns else self._stamp(target, now_ns)
        return self._commit(path, stamped, head, checked, charge, slots, before_link)

    def _commit(
        self,
        path: Path,
        stamped: PointRef,
        head: bytes,
        needs: Iterator[bytes],
        charge: Callable[[int], None],
        slots: Sequence[tuple[bytes, bytes]],
        before_link: Callable[[PointRef], None] | None,
    ) -> bytes:
        temporary = self._layout.journal / f"{self._clock.random_bytes(16).hex()}.tmp"
        size = sum(points.size_of_slot(data) for _, data in slots)
        charged = 0
        tail = b""
        try:
            with files.disk_errors("write a restore point"):
                fd = files.create(temporary)
                try:
                    for tail in points.point_parts(self._repository_id, stamped, head, needs):
                        if tail:
                            files.write(fd, tail)
                        size += len(tail)
                    charge(size)
                    charged = size
                    files.sync(fd)
                finally:
                    os.close(fd)
                name = self._slots.claim(stamped.tenant, stamped.job, stamped.point_id)
                for slot_id, data in slots:
                    self._slots.put(name, slot_id, data)
                files.make_folders(path.parent, self._layout.root)
                if before_link is not None:
                    before_link(stamped)
                try:
                    files.link(temporary, path)  # the commit: from here on the point exists
                except FileExistsError:
                    raise _exists(stamped) from None
                files.sync_folder(path.parent)
        except BaseException:
            charge(-charged)
            raise
        finally:
            files.discard(temporary)
        return tail[-32:]

    def _stamp(self, target: PointRef, now_ns: int) -> PointRef:
        """Date a point later than all of its job: a clock set back cannot reorder commits."""
        if target.origin is not None:
            # Its place in the order is the original's. Nobody can place a copy ahead of what is committed from now on.
            origin = target.origin
            return replace(target, committed_ns=min(origin.committed_ns, origin.copied_ns))
        latest = max((ref.committed_ns for ref in self.listed(target.tenant, target.job, skip_damaged=True)), default=0)
        now = max(now_ns, latest + 1)
        return PointRef(target.tenant, target.job, target.point_id, target.domain, now, 0, b"")

    def listed(self, tenant: str, job: str | None = None, *, skip_damaged: bool = False) -> list[PointRef]:
        """Return a tenant's points (of one job) in the order of their commits."""
        found: list[PointRef] = []
        jobs = [job] if job is not None else self.jobs(tenant)
        for name in jobs:
            for point_id in self.ids(tenant, name):
                try:
                    found.append(self.ref(tenant, name, point_id))
                except PointMissing:
                    continue
                except DamagedData:
                    if not skip_damaged:
                        raise
        return sorted(found, key=lambda ref: (ref.committed_ns, ref.point_id))

    def tenants(self) -> list[str]:
        """Return the tenants that have points."""
        return _names(self._layout.points)

    def jobs(self, tenant: str) -> list[str]:
        """Return the jobs of a tenant that have points."""
        return _names(self._layout.job(tenant, "-").parent)

    def ids(self, tenant: str, job: str) -> list[bytes]:
        """Return the ids of a job's points, in no order that matters."""
        names = files.names_in(self._layout.job(tenant, job))
        return [bytes.fromhex(name) for name in names if ID_NAME.fullmatch(name)]

    def size_of(self, tenant: str) -> int:
        """Return the bytes that a tenant's points and their slots take."""
        total = 0
        for job in self.jobs(tenant):
            total += _size_of_folder(self._layout.job(tenant, job))
            for point_id in self.ids(tenant, job):
                total += _size_of_folder(self._slots_of(tenant, job, point_id))
        for job in self.recycled_jobs(tenant):
            # What is in the recycle bin takes room until it goes.
            total += _size_of_folder(self._layout.recycled_job(tenant, job))
            for point_id, _ in self.recycled_ids(tenant, job):
                total += _size_of_folder(self._slots_of(tenant, job, point_id))
        return total

    def _slots_of(self, tenant: str, job: str, point_id: bytes) -> Path:
        return Path(self._layout.slots_of(self._layout.belongings(tenant, job, point_id)))

    # -- the recycle bin --------------------------------------------------------------------------------------------

    def recycled_tenants(self) -> list[str]:
        """Return the tenants that have points in the recycle bin."""
        return _names(self._layout.recycled)

    def recycled_jobs(self, tenant: str) -> list[str]:
        """Return the jobs of a tenant that have points in the recycle bin."""
        return _names(self._layout.recycled_job(tenant, "-").parent)

    def recycled_ids(self, tenant: str, job: str) -> list[tuple[bytes, int]]:
        """Return the points of a job that are in the recycle bin: (id, until when, ns)."""
        names = files.names_in(self._layout.recycled_job(tenant, job))
        found = [match for match in map(RECYCLED_NAME.fullmatch, names) if match is not None]
        return [(bytes.fromhex(match[1]), int(match[2])) for match in found]

    def recycled_ref(self, tenant: str, job: str, point_id: bytes, until_ns: int) -> PointRef:
        """Return what is known of a point in the recycle bin; PointMissing, DamagedData."""
        with self._open_at(
            self._layout.recycled_point(tenant, job, point_id, until_ns), tenant, job, point_id
        ) as opened:
            return opened[1].ref

    def read_recycled_needs(self, tenant: str, job: str, point_id: bytes, until_ns: int) -> Iterator[bytes]:
        """As `read_needs`, of a point in the recycle bin: what it needs must stay as long as it may be brought back."""
        path = self._layout.recycled_point(tenant, job, point_id, until_ns)
        with self._open_at(path, tenant, job, point_id) as (fd, frame, _path):
            points.prove(fd, frame, path)
            for piece in points.iterate_needs(fd, frame, _BATCH):
                for start in range(0, len(piece), 32):
                    yield piece[start : start + 32]

    # -- reading ----------------------------------------------------------------------------------------------------

    def read_head(self, tenant: str, job: str, point_id: bytes) -> bytes:
        """Return a point's head after proving the whole object."""
        with self._open(tenant, job, point_id) as (fd, frame, path):
            points.prove(fd, frame, path)
            return points.read_head(fd, frame)

    def read_needs(self, tenant: str, job: str, point_id: bytes) -> Iterator[bytes]:
        """Yield the ids of the chunks a point needs, in its order, after proving the whole object."""
        with self._open(tenant, job, point_id) as (fd, frame, path):
            points.prove(fd, frame, path)
            for piece in points.iterate_needs(fd, frame, _BATCH):
                for start in range(0, len(piece), 32):
                    yield piece[start : start + 32]

    def exists(self, tenant: str, job: str, point_id: bytes) -> bool:
        """Tell whether there is a point of that name."""
        return self._layout.point(tenant, job, point_id).exists()

    def needs_parts(self, tenant: str, job: str, point_id: bytes, start: int, at_once: int) -> Iterator[bytes]:
        """Yield the needs table as it lies there, not proven, ``at_once`` ids at a time from number ``start`` on."""
        with self._open(tenant, job, point_id) as (fd, frame, _path):
            for number in range(start, frame.needs_count, at_once):
                length = 32 * min(at_once, frame.needs_count - number)
                yield os.pread(fd, length, frame.needs_start + 32 * number)

    def count_needs(self, tenant: str, job: str, point_id: bytes) -> int:
        """Return how many ids the needs table has."""
        with self._open(tenant, job, point_id) as (_, frame, _path):
            return frame.needs_count

    def check_exists(self, tenant: str, job: str, point_id: bytes) -> None:
        """Raise PointMissing unless there is a point of that name; what is in it is not looked at."""
        if not self._layout.point(tenant, job, point_id).exists():
            raise _missing(job, point_id)

    def unproved(self, tenant: str, job: str, point_id: bytes) -> tuple[PointRef, bytes]:
        """Return what is known of a point, and its head as it is: for many points, and what only a wish depends on."""
        return self._glance(tenant, job, point_id, points.read_head)

    def _glance(
        self, tenant: str, job: str, point_id: bytes, read: Callable[[int, points._Frame], bytes]
    ) -> tuple[PointRef, bytes]:
        # As `_open`, with neither paths nor a generator: whole chains are looked at point by point, at every contact.
        path = self._layout.point_name(tenant, job, point_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                frame = self._frame(fd, path, tenant, job, point_id)
                return frame.ref, read(fd, frame)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(job, point_id) from None
        except OSError as error:
            raise files.translate(error, "read a restore point") from error

    def _frame(self, fd: int, path: StrPath, tenant: str, job: str, point_id: bytes) -> points._Frame:
        """Return the outline of an open point; DamagedData if it is not whole or not the one of this name."""
        frame = points.read_frame(fd, path)
        mine = (frame.repository_id, frame.ref.tenant, frame.ref.job, frame.ref.point_id)
        if mine != (self._repository_id, tenant, job, point_id):
            raise points.damaged_point(path)
        return frame

    def ref(self, tenant: str, job: str, point_id: bytes) -> PointRef:
        """Return what is known of a point; PointMissing if there is none."""
        return self._glance(tenant, job, point_id, lambda _fd, _frame: b"")[0]

    def _open(self, tenant: str, job: str, point_id: bytes) -> AbstractContextManager[tuple[int, points._Frame, Path]]:
        return self._open_at(self._layout.point(tenant, job, point_id), tenant, job, point_id)

    @contextmanager
    def _open_at(self, path: Path, tenant: str, job: str, point_id: bytes) -> Iterator[tuple[int, points._Frame, Path]]:
        with files.disk_errors("read a restore point"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                raise _missing(job, point_id) from None
            try:
                yield fd, self._frame(fd, path, tenant, job, point_id), path
            finally:
                os.close(fd)


def _missing(job: str, point_id: bytes) -> PointMissing:
    return PointMissing(f"job {job} has no restore point {point_id.hex()}", "`transporter points` lists them")


def _exists(target: PointRef) -> PointExists:
    return PointExists(
        f"job {target.job} has a restore point {target.point_id.hex()} already", "run the job again for a new one"
    )


def _checked(needs: bytes | Iterable[bytes], check: Callable[[Sequence[bytes]], None]) -> Iterator[bytes]:
    """Pass whole batches of ids on, each after it was checked."""
    for batch in _batches([needs] if isinstance(needs, bytes) else needs):
        check([batch[start : start + 32] for start in range(0, len(batch), 32)])
        yield batch


def _original(target: PointRef, origin: Origin, head: bytes, needs: Iterator[bytes]) -> Iterator[bytes]:
    """Pass the needs of a copy on; DamagedData at their end unless the original had this head and these needs.

    It is that hash that the source's home remembers of its point, and that the next point says of its parent.
    """
    said = decode_head(head)
    proof = points.OriginalHash(origin, target.point_id, said.domain, said.job, head)
    for part in needs:
        proof.update(part)
        yield part
    if (said.point_id, said.tenant) != (target.point_id, origin.tenant) or proof.digest() != origin.hash:
        raise DamagedData(
            f"the copy of restore point {target.point_id.hex()} is not what the original was",
            "copy it from another repository; scrub the one that it came from",
        )


def _batches(pieces: Iterable[bytes]) -> Iterator[bytes]:
    limit = 32 * _BATCH
    kept = bytearray()
    for piece in pieces:
        kept += piece
        while len(kept) >= limit:
            yield bytes(kept[:limit])
            del kept[:limit]
    if len(kept) % 32:
        raise UsageError("a needs table has whole chunk ids of 32 bytes")
    if kept:
        yield bytes(kept)


def _size_of_folder(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a slot that is being put away
                    total += entry.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return total


def _names(folder: Path) -> list[str]:
    return [name for name in map(name_of, files.names_in(folder)) if name is not None]

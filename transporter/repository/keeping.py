"""What becomes of restore points after their commit: pins, locks, removal, the recycle bin.

All of it works beside a running writer, also on a repository that is open for reading only; one keeper at a time, by a
lock on `leases/keeping`. Whoever asks is a tenant or `PROVIDER`; a lock holds against both.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData, UsageError
from transporter.repository import files, keeping_files, limits
from transporter.repository.errors import PointExists, PointKept, PointMissing, RepositoryBusy
from transporter.repository.format_file import Format
from transporter.repository.keeping_clock import KeepingClock
from transporter.repository.keeping_files import PROVIDER, Lock, Pin, Tombstone
from transporter.repository.layout import ID_NAME, Layout
from transporter.repository.point_store import PointStore
from transporter.repository.points import PointRef
from transporter.repository.removal import OnGone, Removal, nobody
from transporter.retention import NO_MINIMUM, Candidate, Minimum, demanded, show_moment

FOREVER_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What the provider configured. Seconds: of the lock that each new point gets, and in the recycle bin."""

    immutable: float = 0.0
    recycle: float = 0.0
    minimum: Minimum = NO_MINIMUM
    clock_jump: float = limits.CLOCK_JUMP_NS / 1e9


@dataclass(frozen=True, slots=True)
class Waived:
    """What a removal by force goes past. Locks are not among it."""

    pins: bool = False
    minimum: bool = False
    recycle_bin: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one point: ``refused`` says why it stays; else it is gone, or in the bin until ``until_ns``."""

    point_id: bytes
    until_ns: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Recycled:
    """A point in the recycle bin. ``by``: who removed it, a tenant or `PROVIDER`."""

    ref: PointRef
    until_ns: int
    by: str


class Keeping:
    """Of one repository. ``rules`` may be set at any time. Thread-safe, and between processes."""

    def __init__(self, layout: Layout, clock: Clock, content: Format, points: PointStore) -> None:
        self._layout = layout
        self._clock = clock
        self._points = points
        self._removal = Removal(layout, clock, points)
        self._created_ns = content.created_ns
        self.clock = KeepingClock(layout, clock, self._first_time)
        self._rules = Rules()

    @property
    def rules(self) -> Rules:
        """What holds in this repository."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._rules = rules
        self.clock.jump_ns = int(rules.clock_jump * 1e9)

    def _first_time(self) -> int:
        latest = self._created_ns
        for tenant in self._points.tenants():
            for ref in self._points.listed(tenant, skip_damaged=True):
                latest = max(latest, ref.committed_ns)
        return min(latest, FOREVER_NS)

    # -- looking ----------------------------------------------------------------------------------------------------

    def candidates(self, tenant: str, job: str, refs: Sequence[PointRef] | None = None) -> list[Candidate]:
        """Return the job's points in the order of their commits, with pins and locks; damaged ones are left out."""
        pins, locks = self._names(self._layout.pins), self._names(self._layout.locks)
        found = []
        for ref in self._points.listed(tenant, job, skip_damaged=True) if refs is None else refs:
            # The rows of a list are of several jobs.
            name = self._layout.belongings(ref.tenant, ref.job, ref.point_id) if pins or locks else b""
            pin = self._pin_reason(name) if name.hex() in pins else None
            until = self.locked_until(name) if name.hex() in locks else 0
            copied_ns = 0 if ref.origin is None else ref.origin.copied_ns
            each = Candidate(ref.point_id, ref.committed_ns, pin, until, copied_ns)
            found.append(replace(each, locked_until_ns=self._lock_of(each)))
        return found

    def pin_of(self, name: bytes) -> Pin | None:
        """Return the pin of the point that has its belongings under ``name`` (`Layout.belongings`). DamagedData."""
        return keeping_files.read(self._layout.pins / name.hex(), Pin)

    def locked_until(self, name: bytes) -> int:
        """Return until when (ns) such a point is locked, 0 if it never was. A lock that cannot be read has no end."""
        try:
            lock = keeping_files.read(self._layout.locks / name.hex(), Lock)
        except DamagedData:
            return FOREVER_NS
        return 0 if lock is None else lock.until_ns

    def locks(self) -> Callable[[bytes], int]:
        """Return what tells by the name of slots until when (ns) they must be kept; 0: their point is not locked."""
        locked = self._names(self._layout.locks)
        now = self.clock.now_ns() if locked else 0

        def until(name: bytes) -> int:
            found = self.locked_until(name) if name.hex() in locked else 0
            return found if found > now else 0

        return until

    def slots_needed(self, tenant: str, job: str) -> Callable[[bytes], int]:
        """Return what tells until when (ns) a point's slots must be kept: while nobody, or no tenant, may remove it.

        And no shorter than a removed point is kept in the recycle bin: without a slot that opens it, it is removed.
        What only the provider's ``keep`` keeps has no date, and is not in it. 0: no longer than any other's.
        """
        by_name, span = self.locks(), int(max(self._rules.immutable, self._rules.minimum.age) * 1e9)

        def locked(point_id: bytes) -> int:
            return by_name(self._layout.belongings(tenant, job, point_id))

        if not span and not self._rules.recycle:
            return locked
        now = self.clock.now_ns()
        recycled = now + int(self._rules.recycle * 1e9) if self._rules.recycle else 0

        def until(point_id: bytes) -> int:
            try:
                ref = self._points.ref(tenant, job, point_id)
            except DamagedData:
                # Since when it is here cannot be told.
                return max(locked(point_id), now + span, recycled)
            since = max(ref.committed_ns, 0 if ref.origin is None else ref.origin.copied_ns)
            least = min(since + span, FOREVER_NS)
            return max(locked(point_id), least if least > now else 0, recycled)

        return until

    def going(self) -> set[str]:
        """Return the names, in hex, of the slots of points that are in the recycle bin, or whose removal has begun.

        A point in the bin may have no tombstone: another one of its id was committed since.
        """
        return self._names(self._layout.tombstones) | self._removal.recycled_names()

    def recycled(self, tenant: str, job: str | None = None) -> list[Recycled]:
        """Return what is in the recycle bin of a tenant (of one job), in the order of the commits."""
        by = {(stone.tenant, stone.job, stone.point_id): stone.by for stone in self._removal.tombstones()}
        found = []
        for name in self._points.recycled_jobs(tenant) if job is None else [job]:
            for point_id, until_ns in self._points.recycled_ids(tenant, name):
                try:
                    ref = self._points.recycled_ref(tenant, name, point_id, until_ns)
                except (DamagedData, PointMissing):
                    continue
                found.append(Recycled(ref, until_ns, by.get((tenant, name, point_id), PROVIDER)))
        return sorted(found, key=lambda each: (each.ref.committed_ns, each.ref.point_id))

    def _lock_of(self, each: Candidate) -> int:
        """What the configuration locks holds, too, for points from before it: from when they came here."""
        until_ns, immutable = each.locked_until_ns, int(self._rules.immutable * 1e9)
        return max(until_ns, each.since_ns + immutable) if immutable else until_ns

    def _pin_reason(self, name: bytes) -> str | None:
        try:
            pin = self.pin_of(name)
        except DamagedData:
            return "its pin is damaged"
        return None if pin is None else pin.reason

    @staticmethod
    def _names(folder: Path) -> set[str]:
        return {name for name in files.names_in(folder) if ID_NAME.fullmatch(name)}

    # -- removing ---------------------------------------------------------------------------------------------------

    def remove(
        self,
        tenant: str,
        job: str,
        point_ids: Sequence[bytes],
        by: str,
        *,
        waived: Waived | None = None,
        on_gone: OnGone = nobody,
    ) -> list[Outcome]:
        """Remove points of one job: into the recycle bin where there is one. A point that is not there counts as gone.

        ``on_gone`` hears of ids of which nothing is left, before that is noted; after a crash perhaps once more.

        Raises ClockDoubtful (then nothing was removed).
        """
        past = waived or Waived()
        with self._one_keeper(), files.disk_errors("remove restore points"):
            self._removal.finish(on_gone)
            now = self.clock.believed_ns()
            refs = self._points.listed(tenant, job, skip_damaged=True)
            known = {each.point_id: each for each in self.candidates(tenant, job, refs)}
            least = {} if past.minimum else demanded(known.values(), self._rules.minimum, now)
            until = 0 if past.recycle_bin or not self._rules.recycle else now + int(self._rules.recycle * 1e9)
            outcomes, stones = [], []
            for point_id in dict.fromkeys(point_ids):
                name = self._layout.belongings(tenant, job, point_id)
                refused = self._why_not(known.get(point_id), name, by, now, past, least.get(point_id, ()))
                outcomes.append(Outcome(point_id, 0 if refused else until, refused))
                if not refused and self._layout.point(tenant, job, point_id).exists():
                    stones.append(
                        Tombstone(point_id=point_id, tenant=tenant, job=job, by=by, at_ns=now, until_ns=until)
                    )
            self._removal.remove(stones, on_gone)
            self.clock.note()
        return outcomes

    def _why_not(
        self, each: Candidate | None, name: bytes, by: str, now_ns: int, past: Waived, least: Sequence[str]
    ) -> str:
        """Return why a point must stay, "" if it may go. One that cannot be read has its lock and pin all the same."""
        until = self.locked_until(name) if each is None else each.locked_until_ns
        if until > now_ns:
            return f"it is locked until {show_moment(until)}"
        try:
            pin = self.pin_of(name)
        except DamagedData:
            return "its pin is damaged" if not past.pins else ""
        if pin is not None and not (past.pins and by in (PROVIDER, pin.by)):
            return f"it is pinned: {pin.reason}"
        return least[0] if least else ""

    def check_removable(self, tenant: str, job: str, point_id: bytes, by: str) -> PointRef:
        """Return what is known of a point that may be removed now. Raises PointKept, PointMissing, ClockDoubtful."""
        ref = self._points.ref(tenant, job, point_id)
        now = self.clock.believed_ns()
        known = {each.point_id: each for each in self.candidates(tenant, job)}
        least = demanded(known.values(), self._rules.minimum, now)
        name = self._layout.belongings(tenant, job, point_id)
        refused = self._why_not(known.get(point_id), name, by, now, Waived(), least.get(point_id, ()))
        if refused:
            raise _kept(point_id, refused)
        return ref

    def undelete(self, tenant: str, job: str, point_id: bytes) -> PointRef:
        """Take a point out of the recycle bin. Raises PointMissing, PointExists, RepositoryBusy (a prune is at it)."""
        with self._one_keeper(), self._no_prune(), files.disk_errors("bring back a restore point"):
            self._removal.finish(nobody)
            found = [until for each, until in self._points.recycled_ids(tenant, job) if each == point_id]
            if not found:
                raise PointMissing(
                    f"the recycle bin has no restore point {point_id.hex()} of job {job}",
                    "`transporter points --recycled` lists them",
                )
            if self._layout.point(tenant, job, point_id).exists():
                raise PointExists(f"job {job} has a restore point {point_id.hex()}", "it need not be brought back")
            # A damaged one stays where it is, and is not given out for a sound one.
            ref = self._points.recycled_ref(tenant, job, point_id, max(found))
            self._removal.bring_back(tenant, job, point_id, max(found))
        return ref

    def purge(self, on_gone: OnGone = nobody) -> int:
        """Finish what crashes left, and remove for good what was in the recycle bin long enough; return how many.

        Raises ClockDoubtful; what was cut short is finished all the same.
        """
        with self._one_keeper(), files.disk_errors("empty the recycle bin"):
            count = self._removal.finish(on_gone)
            now = self.clock.believed_ns()
            count += self._removal.purge(now, on_gone)
            self._drop_expired_locks(now)
            count += self._removal.sweep_orphans()
            self.clock.note()
        return count

    def _drop_expired_locks(self, now_ns: int) -> None:
        gone = False
        for name in self._names(self._layout.locks):
            try:
                lock = keeping_files.read(self._layout.locks / name, Lock)
            except (DamagedData, UsageError):
                continue
            if lock is not None and lock.until_ns <= now_ns:
                files.unlink(self._layout.locks / name)
                gone = True
        if gone:
            files.sync_folder(self._layout.locks)

    # -- pins and locks ---------------------------------------------------------------------------------------------

    def pin(self, tenant: str, job: str, point_id: bytes, reason: str, by: str) -> bool:
        """Have retention keep a point; return whether it was pinned before.

        Raises PointMissing, UsageError, PointKept (somebody else's pin is there).
        """
        _check_reason(reason)
        with self._one_keeper(), files.disk_errors("pin a restore point"):
            self._points.check_exists(tenant, job, point_id)
            name = self._layout.belongings(tenant, job, point_id)
            self._check_own_pin(point_id, name, by)
            path = self._layout.pins / name.hex()
            was = path.exists()
            self._put(path, Pin(point_id=name, reason=reason, by=by, at_ns=self.clock.now_ns()))
            return was

    def bring_pin(
        self, tenant: str, job: str, point_id: bytes, reason: str, by: str, origin_by: str, at_ns: int
    ) -> bool:
        """Pin a copy because the point is pinned where it was copied from; return whether a pin was there already.

        One that is there stays as it is. ``origin_by`` and ``at_ns``: who set it there, and when: a claim, shown and
        never relied on. ``by``: whose it is here. Raises PointMissing, UsageError.
        """
        _check_reason(reason)
        with self._one_keeper(), files.disk_errors("pin a restore point"):
            self._points.check_exists(tenant, job, point_id)
            name = self._layout.belongings(tenant, job, point_id)
            path = self._layout.pins / name.hex()
            if path.exists():
                return True
            at_ns = min(at_ns, self.clock.now_ns())
            self._put(path, Pin(point_id=name, reason=reason, by=by, at_ns=at_ns, origin_by=origin_by))
            return False

    def unpin(self, tenant: str, job: str, point_id: bytes, by: str) -> bool:
        """Take a pin away; return whether there was one. A tenant takes away its own alone. PointKept, PointMissing."""
        with self._one_keeper(), files.disk_errors("unpin a restore point"):
            self._points.check_exists(tenant, job, point_id)
            name = self._layout.belongings(tenant, job, point_id)
            self._check_own_pin(point_id, name, by)
            path = self._layout.pins / name.hex()
            if not path.exists():
                return False
            files.unlink(path)
            files.sync_folder(self._layout.pins)
            return True

    def _check_own_pin(self, point_id: bytes, name: bytes, by: str) -> None:
        if by == PROVIDER:
            return  # also one that is damaged
        pin = self.pin_of(name)
        if pin is not None and pin.by != by:
            raise _kept(point_id, "the provider pinned it" if pin.by == PROVIDER else "another node pinned it")

    def lock(self, tenant: str, job: str, point_id: bytes, until_ns: int) -> int:
        """Lock a point until then, or for as long as it is locked already; return until when. Raises PointMissing."""
        with self._one_keeper(), files.disk_errors("lock a restore point"):
            self._points.check_exists(tenant, job, point_id)
            return self._extend(self._layout.belongings(tenant, job, point_id), until_ns)

    def lock_new(self, target: PointRef) -> None:
        """Lock a point that is about to be committed, where the repository is immutable. Raises OSError."""
        if self._rules.immutable:
            name = self._layout.belongings(target.tenant, target.job, target.point_id)
            self._extend(name, self.clock.latest_ns() + int(self._rules.immutable * 1e9))
        self.clock.note()

    def _extend(self, name: bytes, until_ns: int) -> int:
        known = self.locked_until(name)
        if until_ns > known:
            self._put(self._layout.locks / name.hex(), Lock(point_id=name, until_ns=min(until_ns, FOREVER_NS)))
        elif known:
            # It is said to hold: whoever wrote it may have been killed before the folder was synced.
            files.sync_folder(self._layout.locks)
        return max(known, until_ns)

    def settle(self, tenant: str, job: str, point_id: bytes) -> None:
        """See to it that no removal of an older point of that id takes the one that is about to be committed."""
        if self._removal.is_marked(tenant, job, point_id):
            with self._one_keeper(), files.disk_errors("finish a removal"):
                self._removal.settle(tenant, job, point_id)

    # -- leases -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _one_keeper(self) -> Iterator[None]:
        """Wait for other keepers: they take moments. The kernel lets the lock go with the process."""
        with _locked(self._layout, self._layout.keeping_lease, fcntl.LOCK_EX):
            yield

    @contextmanager
    def _no_prune(self) -> Iterator[None]:
        """A prune that looks for what is needed might see a point in neither of its two folders."""
        try:
            with _locked(self._layout, self._layout.prune_lease, fcntl.LOCK_SH | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise RepositoryBusy("a prune is under way", "try again when it has ended; the point is kept") from None

    def _put(self, path: Path, content: Pin | Lock) -> None:
        temporary = self._layout.temporary(self._clock.random_bytes(16))
        keeping_files.put(temporary, path, self._layout.root, content)


@contextmanager
def _locked(layout: Layout, path: Path, how: int) -> Iterator[None]:
    with files.disk_errors("lock the repository"):
        files.make_folders(layout.lease.parent, layout.root)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > limits.REASON_LENGTH or not reason.isprintable():
        raise UsageError(f"a pin needs a reason of 1 to {limits.REASON_LENGTH} characters", "say why it must stay")


def _kept(point_id: bytes, why: str) -> PointKept:
    return PointKept(f"restore point {point_id.hex()[:8]} stays: {why}", "wait, or ask whoever runs the repository")

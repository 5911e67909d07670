"""A repository, and beside it in plain sets and numbers what must be in it: for the model-based test."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from blake3 import blake3

from tests.repository.model_disk import Cut, Disk
from tests.repository.prune_world import DOMAIN, chunk, chunk_id, known, on_disk
from tests.repository.test_faults import Killed, abort
from transporter.clock import ManualClock
from transporter.errors import DamagedData
from transporter.points.fold import synthetic_head, synthetic_id
from transporter.repository import PROVIDER, ClockDoubtful, Repository, Rules, SessionLease, limits
from transporter.repository.layout import own_name
from transporter.repository.point_head import PointHead, encode_head
from transporter.repository.points import PointRef
from transporter.repository.writer import PackWriter

NS = 10**9
DAY_NS = 86_400 * NS
TENANT, JOB = "t", "j"
MADE_UP_NS = 1_000


@dataclass(frozen=True)
class Point:
    """A restore point as it must be. ``until``: in the recycle bin until then, 0: live. ``pin``: (by, reason).

    ``copied``: when it came, if it is a copy; else 0.
    """

    needs: tuple[int, ...]
    committed: int
    kind: str = "full"
    until: int = 0
    pin: tuple[str, str] | None = None
    lock: int = 0
    copied: int = 0


def head_of(point_id: bytes, needs: Iterable[int]) -> PointHead:
    """Return the head of a point that nobody sealed."""
    return PointHead(
        point_id=point_id,
        tenant=TENANT,
        job=JOB,
        kind="full",
        created_ns=0,
        zone="none",
        encrypted=False,
        domain=DOMAIN,
        manifest=[],
        needs_hash=blake3(ids(needs)).digest(),
        workload="tree",
        chunk_id_key=b"k" * 32,
    )


def ids(needs: Iterable[int]) -> bytes:
    """Return a needs table."""
    return b"".join(chunk_id(number) for number in needs)


@dataclass
class Session:
    """A session of a run: what it was told that is there, and a writer that it stores the rest with."""

    lease: SessionLease
    writer: PackWriter
    told: tuple[int, ...]


@dataclass
class Side:
    """One of the two repositories, and what it must hold."""

    path: Path
    clock: ManualClock
    disk: Disk
    rules: Rules = field(default_factory=Rules)
    points: dict[bytes, Point] = field(default_factory=dict)
    # Chunks that lay in a damaged place: they may be unreadable until they are stored again; never are they others.
    bad: set[int] = field(default_factory=set)
    session: Session | None = None
    mark: int = 0

    def __post_init__(self) -> None:
        self.repository = Repository.create(self.path, clock=self.clock)
        self.repository.keeping.purge()
        self.mark = self.clock.now_ns()

    # -- time -------------------------------------------------------------------------------------------------------

    @property
    def doubt(self) -> bool:
        """Whether nothing may be deleted by the clock."""
        return abs(self.clock.now_ns() - self.mark) > limits.CLOCK_JUMP_NS

    def now(self) -> int:
        """Return the time that locks go by."""
        ahead = self.clock.now_ns() - self.mark > limits.CLOCK_JUMP_NS
        return self.mark if ahead else max(self.mark, self.clock.now_ns())

    def noted(self) -> int:
        """Return the mark as whatever notes the time leaves it."""
        ahead = self.clock.now_ns() - self.mark
        return self.clock.now_ns() if limits.CLOCK_STEP_NS <= ahead <= limits.CLOCK_JUMP_NS else self.mark

    # -- what must be -----------------------------------------------------------------------------------------------

    def live(self) -> list[bytes]:
        """Return the live points in the order of their commits."""
        found = [name for name, point in self.points.items() if not point.until]
        return sorted(found, key=lambda name: (self.points[name].committed, name))

    def recycled(self) -> list[bytes]:
        """Return those in the recycle bin."""
        return sorted(name for name, point in self.points.items() if point.until)

    def next_commit(self) -> int:
        """Return when the next point is committed."""
        latest = max((self.points[name].committed for name in self.live()), default=0)
        # Heads say that they were made in 1970: where the clock is not believed, the mark is.
        ahead = self.clock.now_ns() - self.mark > limits.CLOCK_JUMP_NS
        return max(self.mark if ahead else self.clock.now_ns(), latest + 1)

    def new_lock(self) -> int:
        """Return the lock of a point that is committed now."""
        if not self.rules.immutable:
            return 0
        return max(self.mark, self.clock.now_ns()) + int(self.rules.immutable * NS)

    def locked(self, point: Point) -> bool:
        """Whether nobody may remove a point."""
        by_rule = point.committed + int(self.rules.immutable * NS) if self.rules.immutable else 0
        return max(point.lock, by_rule) > self.now()

    def stays(self, point: Point, by: str, *, pins: bool = False) -> bool:
        """Whether a point stays when ``by`` wants it removed; ``pins``: by force."""
        pinned = point.pin is not None and not (pins and by in (PROVIDER, point.pin[0]))
        # A copy has to stay from when it came.
        since = max(point.committed, point.copied)
        young = since + int(self.rules.minimum.age * NS) > self.now() if self.rules.minimum.age else False
        return self.locked(point) or pinned or young

    def removed(self, point: Point, *, at_once: bool = False) -> Point | None:
        """Return what becomes of a point that is removed."""
        if at_once or not self.rules.recycle:
            return None
        return replace(point, until=self.now() + int(self.rules.recycle * NS))

    def retained(self, last: int, daily: int) -> set[bytes]:
        """Return the live points that a policy lets go."""
        order = self.live()
        known_times: list[bytes] = []
        before = -(2**63)
        for name in order:
            committed = self.points[name].committed
            if committed <= self.now() and not 0 < committed - before < MADE_UP_NS:
                known_times.append(name)
            before = committed
        keep = set(order[-1:]) | (set(order) - set(known_times)) | set(list(reversed(known_times))[:last])
        newest_of_day = {self.points[name].committed // DAY_NS: name for name in known_times}
        keep.update(newest_of_day[day] for day in sorted(newest_of_day, reverse=True)[:daily])
        return {name for name in order if name not in keep and not self.stays(self.points[name], PROVIDER)}

    def needed(self) -> set[int]:
        """Return the chunks that points need."""
        return {number for point in self.points.values() for number in point.needs}

    # -- what is ----------------------------------------------------------------------------------------------------

    def seen(self) -> dict[bytes, Point]:
        """Return all points as the repository shows them, live and recycled; each must be whole."""
        store, found = self.repository, {}
        for ref in store.points(TENANT, JOB):
            needs = tuple(_number(each) for each in store.read_needs(TENANT, JOB, ref.point_id))
            kind = msgspec.msgpack.decode(store.read_head(TENANT, JOB, ref.point_id))["kind"]
            found[ref.point_id] = self._point(ref, needs, kind, 0)
        for each in store.keeping.recycled(TENANT, JOB):
            name = each.ref.point_id
            assert name not in found, "a point is live and in the recycle bin"
            parts = store._points.read_recycled_needs(TENANT, JOB, name, each.until_ns)
            needs = tuple(_number(part) for part in parts)
            kind = self.points[name].kind if name in self.points else "full"
            found[name] = self._point(each.ref, needs, kind, each.until_ns)
        return found

    def _point(self, ref: PointRef, needs: tuple[int, ...], kind: str, until: int) -> Point:
        name, copied = ref.point_id, 0 if ref.origin is None else ref.origin.copied_ns
        assert self.repository.slots_of(TENANT, JOB, name) == {name: b"slot of " + name}, "a point without its slots"
        lies = self.repository.belongings(TENANT, JOB, name)
        pin = self.repository.keeping.pin_of(lies)
        lock = self.repository.keeping.locked_until(lies)
        by = None if pin is None else (pin.by, pin.reason)
        return Point(needs, ref.committed_ns, kind, until, by, lock, copied)

    def check(self) -> None:
        """What is there is what must be, and all that it needs can be read."""
        seen = self.seen()
        for name in seen.keys() | self.points.keys():
            assert seen.get(name) == self.points.get(name), name.hex()
        told = set(self.session.told) if self.session is not None else set()
        for number in sorted(self.needed() | told):
            try:
                assert bytes(self.repository.read(DOMAIN, chunk_id(number)).stored) == chunk(number).stored
            except DamagedData:
                assert number in self.bad, f"chunk {number} is needed and cannot be read"

    def damaged_packs(self) -> set[bytes]:
        """Return the packs whose bytes are not what their name says."""
        found = set()
        for path in (self.path / "packs").glob("*/*"):
            if blake3(path.read_bytes()).hexdigest() != path.name:
                found.add(bytes.fromhex(path.name))
        return found

    def belongings(self) -> set[bytes]:
        """Return the ids of all points of which there is any file."""
        names = {
            path.parent.name if path.parent.parent.name == "slots" else path.name.partition(".")[0]
            for folder in ("points", "slots", "pins", "locks", "recycled", "tombstones")
            for path in (self.path / folder).rglob("*")
            if path.is_file()
        }
        return self._points_of(bytes.fromhex(name) for name in names)

    def _points_of(self, names: Iterable[bytes]) -> set[bytes]:
        """Return the ids of the points to which files of these names belong."""
        own = {own_name(TENANT, JOB, point): point for point in self.points}
        return {own.get(name, name) for name in names}

    # -- deeds that need more than a call ---------------------------------------------------------------------------

    def begin(self, numbers: Iterable[int]) -> None:
        """Begin a session that asks for chunks and makes durable what is missing; it commits nothing."""
        told = tuple(numbers)
        lease = self.repository.session()
        try:
            writer = self.repository.writer(DOMAIN, TENANT)
            present = self.repository.have(DOMAIN, [chunk_id(number) for number in told])
            for number, keys in zip(told, present, strict=True):
                if not keys:
                    writer.append(chunk(number))
                    self.bad.discard(number)
            writer.sync()
        except BaseException:
            lease.release()
            raise
        self.session = Session(lease, writer, told)

    def end(self, store: Repository, point_id: bytes | None) -> None:
        """End the session; with an id it commits what it was told of."""
        session = self.session
        assert session is not None
        if point_id is not None:
            self.commit(store, point_id, session.told)
        session.writer.close()
        session.lease.release()
        self.session = None

    def run(self, store: Repository, point_id: bytes | None, numbers: tuple[int, ...]) -> None:
        """Store what is missing, and commit a point (None: be cut off before)."""
        present = store.have(DOMAIN, [chunk_id(number) for number in numbers])
        writer = store.writer(DOMAIN, TENANT)
        for number, keys in zip(numbers, present, strict=True):
            if not keys:
                writer.append(chunk(number))
        writer.close()
        self.bad -= {number for number, keys in zip(numbers, present, strict=True) if not keys}
        if point_id is not None:
            self.commit(store, point_id, numbers)

    @staticmethod
    def commit(store: Repository, point_id: bytes, numbers: tuple[int, ...]) -> None:
        """Commit a point."""
        slots = [(point_id, b"slot of " + point_id)]
        head = encode_head(head_of(point_id, numbers))
        store.commit_point(TENANT, JOB, point_id, head, ids(numbers), slots=slots)

    def folded(self, point_id: bytes) -> bytes:
        """Return the id of the point that takes another's place."""
        return synthetic_id(point_id, self.repository.point_hash(TENANT, JOB, point_id))

    @staticmethod
    def fold(store: Repository, old: bytes, new: bytes, needs: tuple[int, ...]) -> None:
        """Have a synthetic point take another's place."""
        head = encode_head(synthetic_head(head_of(old, needs), new))
        slots = [(new, b"slot of " + new)]
        table = store.read_needs(TENANT, JOB, old)
        store.commit_point(TENANT, JOB, new, head, table, domain=DOMAIN, slots=slots, replaces=old)

    # -- ends and beginnings ----------------------------------------------------------------------------------------

    def die(self, cut: Cut) -> None:
        """The process is gone, perhaps the power, too; the next one opens the repository, perhaps at the second try."""
        self._die(cut.power, cut.opening)
        if cut.again is not None:
            self._die(cut.again, None)

    def _die(self, power: int | None, opening: int | None) -> None:
        self._forget_session()
        abort(self.repository)
        if power is not None:
            self.disk.lose_power(self.path, power)
        if opening is not None:
            self.disk.arm(opening)
            with suppress(Killed):
                abort(Repository.open(self.path, self.clock))
            self.disk.arm(None)
        self.open()

    def open(self) -> None:
        """Open the repository; each point there is whole before anybody finishes what was cut short, and after it."""
        self.repository = Repository.open(self.path, self.clock)
        self.repository.keeping.rules = self.rules
        self.seen()
        with suppress(ClockDoubtful):
            self.repository.keeping.remove(TENANT, JOB, [], PROVIDER)  # the next keeper
        assert self.stones() <= self.seen().keys()

    def stones(self) -> set[bytes]:
        """Return the ids of all tombstones."""
        return self._points_of(bytes.fromhex(path.name) for path in (self.path / "tombstones").iterdir())

    def close(self) -> None:
        """Close it in order."""
        self._forget_session()
        self.repository.close()

    def _forget_session(self) -> None:
        if self.session is not None:
            self.session.lease.release()
            self.session = None

    def age(self) -> None:
        """Let whatever lies about be older than a day."""
        for folder in ("slots", "pins"):
            for path in (self.path / folder).iterdir():
                os.utime(path, (0, 0))

    def index_is_what_packs_say(self) -> None:
        """Every chunk of every pack is known, and no other; and a new index says the same."""
        numbers = on_disk(self.path)
        assert known(self.repository, range(200)) == numbers
        before = self._rows()
        self.repository.rebuild_index()
        assert self._rows() == before

    def _rows(self) -> set[tuple[object, ...]]:
        query = """SELECT domains.id, chunk, keys.id, packs.name, offset, stored FROM chunks
            JOIN packs ON packs.no = chunks.pack JOIN domains ON domains.no = chunks.domain
            JOIN keys ON keys.no = chunks.key"""
        with self.repository._index.reader() as connection:
            return set(connection.execute(query))


def _number(chunk_id_: bytes) -> int:
    return int.from_bytes(chunk_id_[8:], "big")

"""Everything that is done to a repository and to a copy of it, against a plain model, with kills and power cuts.

The model (`model_side.py`) is a dictionary of points and a few numbers. A deed says what must become of the points that
it is about. It is carried out whole, or refused for the reason that the model knows, or cut short before any step that
touches the disk or the index (`model_disk.py`): then each of its points is as before or as it must become, and whole.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.repository.model_disk import Cut, Disk
from tests.repository.model_side import DAY_NS, JOB, NS, TENANT, Point, Side
from tests.repository.prune_world import DAY, DOMAIN, EVERYTHING, chunk_id, on_disk
from tests.repository.test_faults import Killed
from transporter.clock import ManualClock
from transporter.errors import TransporterError
from transporter.repository import (
    PROVIDER,
    ChunkMissing,
    ClockDoubtful,
    PointExists,
    PointKept,
    PruneHooks,
    PruneOptions,
    PruneProgress,
    Repository,
    Rules,
    Waived,
    prune_beside,
)
from transporter.repository.points import Origin
from transporter.repository.supply import supply_from
from transporter.retention import KeepPolicy, Minimum, decide, demanded

GRACE = PruneOptions(grace_seconds=DAY, compact_below=0.9)
PARTS = st.builds(
    lambda first, count, step: tuple(range(first, first + count * step, step)),
    *(st.integers(0, 60), st.integers(1, 20), st.integers(1, 3)),
)
# Half of the deeds are cut short, if they have as many steps as is thought (`STEPS`).
SEEDS = st.one_of(st.none(), st.integers(0, 3))
CUTS = st.one_of(
    st.none(), st.builds(Cut, st.integers(0, 999), SEEDS, SEEDS, st.one_of(st.none(), st.none(), st.integers(0, 20)))
)
SIDES = st.sampled_from(["one", "two"])
TENANTS = st.sampled_from([PROVIDER, TENANT])
# The steps that a deed has, or a little more: where it may be cut short.
STEPS = {"pin": 7, "unpin": 4, "lock": 7, "accept_clock": 7, "undelete": 14, "purge": 20, "remove": 50, "retention": 50}
STEPS |= {"copy": 150, "prune": 150, "heal": 80, "rebuild_index": 8, "run": 50, "fold": 60}
# What a campaign did, by the names of rules, and how it was cut short.
DONE: Counter[str] = Counter()


class Everything(RuleBasedStateMachine):
    """Points are as the model says, whole, and what they need is there; in the end nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("transporter.repository.limits.PACK_TARGET", 1000)
        self.patch.setattr("transporter.repository.limits.PRUNE_BATCH", 16)
        self.patch.setattr("transporter.repository.removal._FEW", 2)
        self.disk = Disk(self.patch, self.folder)
        self.clock = ManualClock()
        self.one = Side(self.folder / "one", self.clock, self.disk)
        self.two = Side(self.folder / "two", self.clock, self.disk)
        self.next_point = 1
        DONE["examples"] += 1
        # Something to begin with: most deeds are about points that are there.
        for numbers in (range(0, 30), range(10, 50, 2), range(30, 60, 3)):
            self.run(tuple(numbers), None)
        self.copy(None)

    def side(self, name: str) -> Side:
        return self.one if name == "one" else self.two

    def other(self, side: Side) -> Side:
        return self.two if side is self.one else self.one

    def new_point(self) -> bytes:
        self.next_point += 1
        self.clock.advance(1)
        return self.next_point.to_bytes(16, "big")

    def perform(
        self,
        side: Side,
        act: Callable[[Repository], object],
        becomes: dict[bytes, Point | None],
        cut: Cut | None,
        *,
        refused: type[TransporterError] | None = None,
        notes: bool = False,
    ) -> bool:
        """Do something to a repository; return whether it was done, and not cut short.

        ``becomes``: of each point that it is about, what must become of it. ``refused``: what it must raise instead.
        ``notes``: it moves the clock's mark.
        """
        DONE["deeds"] += 1
        marks = {side.mark, side.noted() if notes else side.mark}
        noted = side.noted() if notes and refused is None else side.mark
        try:
            self.arm(cut, name := sys._getframe(1).f_code.co_name)
            DONE[f"deed {name}"] += 1
            try:
                act(side.repository)
            finally:
                self.disk.arm(None)
            assert refused is None, f"it should have been refused: {refused}"
        except Killed:
            DONE[f"cut {name}"] += 1
            assert cut is not None
            self.after_death(side, cut, becomes, marks)
            return False
        except ChunkMissing:
            # Healing took from the index what a damaged pack had lost: no new point may rely on it.
            needs = {number for point in becomes.values() if point is not None for number in point.needs}
            assert needs & side.bad
            DONE["refused for a lost chunk"] += 1
            return False
        except TransporterError as error:
            assert refused is not None, error
            assert isinstance(error, refused), error
            if refused is not PointExists:
                return False
        side.mark = noted
        self.settle(side, becomes)
        return True

    @staticmethod
    def settle(side: Side, becomes: dict[bytes, Point | None]) -> None:
        for name, point in becomes.items():
            if point is None:
                side.points.pop(name, None)
            else:
                side.points[name] = point

    def arm(self, cut: Cut | None, deed: str) -> None:
        self.disk.arm(None if cut is None else cut.at * STEPS.get(deed, 60) // 1000)

    def after_death(self, side: Side, cut: Cut, becomes: dict[bytes, Point | None], marks: set[int]) -> None:
        DONE["kills"] += cut.power is None
        DONE["power cuts"] += (cut.power is not None) + (cut.again is not None)
        before = {name: side.points.get(name) for name in becomes}
        side.mark = max(marks)  # what the next keeper goes by is one of them; it notes nothing that is not
        side.die(cut)
        mark = side.repository.keeping.clock._mark()
        assert mark in marks | {self.clock.now_ns()}
        side.mark = mark
        seen = side.seen()
        for name, point in becomes.items():
            assert seen.get(name) in (before[name], point), f"{name.hex()} is half there: {seen.get(name)}"
        self.settle(side, {name: seen.get(name) for name in becomes})
        self.disk.settle(side.path)  # what nobody was told of reaches the disk some time

    # -- runs ---------------------------------------------------------------------------------------------------------

    @rule(numbers=PARTS, cut=CUTS)
    def run(self, numbers: tuple[int, ...], cut: Cut | None) -> None:
        name, side = self.new_point(), self.one
        point = Point(numbers, side.next_commit(), lock=side.new_lock())
        self.perform(side, lambda store: side.run(store, name, numbers), {name: point}, cut, notes=True)

    @rule(numbers=PARTS, cut=CUTS)
    def run_that_commits_nothing(self, numbers: tuple[int, ...], cut: Cut | None) -> None:
        self.perform(self.one, lambda store: self.one.run(store, None, numbers), {}, cut)

    @precondition(lambda self: self.one.session is None)
    @rule(numbers=PARTS, cut=CUTS)
    def a_session_begins(self, numbers: tuple[int, ...], cut: Cut | None) -> None:
        self.perform(self.one, lambda _store: self.one.begin(numbers), {}, cut)

    @precondition(lambda self: self.one.session is not None)
    @rule(commits=st.booleans(), cut=CUTS)
    def the_session_ends(self, commits: bool, cut: Cut | None) -> None:
        side = self.one
        assert side.session is not None
        name = self.new_point() if commits else None
        point = Point(side.session.told, side.next_commit(), lock=side.new_lock())
        becomes = {name: point} if name is not None else {}
        self.perform(side, lambda store: side.end(store, name), becomes, cut, notes=commits)

    # -- keeping ------------------------------------------------------------------------------------------------------

    @rule(name=SIDES, data=st.data(), by=TENANTS, reason=st.sampled_from(["audit", "law"]), cut=CUTS)
    def pin(self, name: str, data: st.DataObject, by: str, reason: str, cut: Cut | None) -> None:
        side = self.side(name)
        if not (live := side.live()):
            return
        which = data.draw(st.sampled_from(live))
        pin = side.points[which].pin
        refused = PointKept if by != PROVIDER and pin is not None and pin[0] != by else None
        becomes = {which: replace(side.points[which], pin=(by, reason))}
        act = lambda store: store.keeping.pin(TENANT, JOB, which, reason, by)  # noqa: E731
        self.perform(side, act, becomes, cut, refused=refused)

    @rule(name=SIDES, data=st.data(), by=TENANTS, cut=CUTS)
    def unpin(self, name: str, data: st.DataObject, by: str, cut: Cut | None) -> None:
        side = self.side(name)
        if not (live := side.live()):
            return
        which = data.draw(st.sampled_from(live))
        pin = side.points[which].pin
        refused = PointKept if by != PROVIDER and pin is not None and pin[0] != by else None
        becomes = {which: replace(side.points[which], pin=None)}
        self.perform(side, lambda store: store.keeping.unpin(TENANT, JOB, which, by), becomes, cut, refused=refused)

    @rule(name=SIDES, data=st.data(), days=st.sampled_from([1, 5]), cut=CUTS)
    def lock(self, name: str, data: st.DataObject, days: int, cut: Cut | None) -> None:
        side = self.side(name)
        if not (live := side.live()):
            return
        which = data.draw(st.sampled_from(live))
        until = self.clock.now_ns() + days * DAY_NS
        becomes = {which: replace(side.points[which], lock=max(until, side.points[which].lock))}
        self.perform(side, lambda store: store.keeping.lock(TENANT, JOB, which, until), becomes, cut)

    @rule(
        name=SIDES, immutable=st.sampled_from([0, 0, 2]), recycle=st.sampled_from([0, 3]), age=st.sampled_from([0, 1])
    )
    def configure(self, name: str, immutable: int, recycle: int, age: int) -> None:
        side = self.side(name)
        side.rules = Rules(immutable=immutable * DAY, recycle=recycle * DAY, minimum=Minimum(age=age * DAY))
        side.repository.keeping.rules = side.rules

    @rule(name=SIDES, data=st.data(), by=TENANTS, force=st.booleans(), at_once=st.booleans(), cut=CUTS)
    def remove(self, name: str, data: st.DataObject, by: str, force: bool, at_once: bool, cut: Cut | None) -> None:
        side = self.side(name)
        if not (live := side.live()):
            return
        which = data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=4, unique=True))
        waived = Waived(pins=force, recycle_bin=at_once)
        goes = [each for each in which if not side.stays(side.points[each], by, pins=force)]
        becomes = {each: side.removed(side.points[each], at_once=at_once) for each in goes}

        def act(store: Repository) -> None:
            outcomes = store.keeping.remove(TENANT, JOB, which, by, waived=waived)
            assert [each.point_id for each in outcomes if not each.refused] == goes

        self.perform(side, act, becomes, cut, refused=ClockDoubtful if side.doubt else None, notes=True)

    @rule(name=SIDES, last=st.integers(1, 4), daily=st.integers(0, 3), cut=CUTS)
    def retention(self, name: str, last: int, daily: int, cut: Cut | None) -> None:
        side = self.side(name)
        goes = side.retained(last, daily)
        becomes = {each: side.removed(side.points[each]) for each in goes}

        def act(store: Repository) -> None:
            candidates = store.keeping.candidates(TENANT, JOB)
            now = store.keeping.clock.believed_ns()
            wanted = demanded(candidates, store.keeping.rules.minimum, now)
            verdicts = decide(candidates, KeepPolicy(last=last, daily=daily), now, wanted)
            going = [each.point_id for each in verdicts if not each.keep]
            assert set(going) == goes
            assert not any(each.refused for each in store.keeping.remove(TENANT, JOB, going, PROVIDER))

        self.perform(side, act, becomes, cut, refused=ClockDoubtful if side.doubt else None, notes=True)

    @rule(name=SIDES, data=st.data(), cut=CUTS)
    def undelete(self, name: str, data: st.DataObject, cut: Cut | None) -> None:
        side = self.side(name)
        if not (recycled := side.recycled()):
            return
        which = data.draw(st.sampled_from(recycled))
        becomes = {which: replace(side.points[which], until=0)}
        self.perform(side, lambda store: store.keeping.undelete(TENANT, JOB, which), becomes, cut)

    @rule(name=SIDES, cut=CUTS)
    def purge(self, name: str, cut: Cut | None) -> None:
        side = self.side(name)
        now = side.now()
        becomes: dict[bytes, Point | None] = {
            which: replace(point, lock=0) for which, point in side.points.items() if 0 < point.lock <= now
        }
        becomes |= {which: None for which in side.recycled() if side.points[which].until <= now}
        side.age()
        act = lambda store: store.keeping.purge()  # noqa: E731
        if self.perform(side, act, becomes, cut, refused=ClockDoubtful if side.doubt else None, notes=True):
            locks = side._points_of(bytes.fromhex(path.name) for path in (side.path / "locks").glob("*"))
            assert side.belongings() - locks <= side.points.keys()

    @rule(days=st.sampled_from([0.1, 0.5, 2, 4, 10, -0.5, -3, -12]))
    def clock_moves(self, days: float) -> None:
        self.clock.wall_ns += int(days * DAY * NS)

    @rule(name=SIDES, cut=CUTS)
    def accept_clock(self, name: str, cut: Cut | None) -> None:
        side = self.side(name)
        marks = {side.mark, self.clock.now_ns()}
        self.arm(cut, "accept_clock")
        try:
            side.repository.keeping.clock.accept()
            side.mark = self.clock.now_ns()
        except Killed:
            self.disk.arm(None)
            assert cut is not None
            self.after_death(side, cut, {}, marks)
        finally:
            self.disk.arm(None)

    # -- transform ----------------------------------------------------------------------------------------------------

    @rule(data=st.data(), cut=CUTS)
    def fold(self, data: st.DataObject, cut: Cut | None) -> None:
        side = self.one
        if not (live := side.live()):
            return
        old = data.draw(st.sampled_from(live))
        new = side.folded(old)
        before, there = side.points[old], side.points.get(new)
        if there is not None and there.until:
            return  # it would be in both places
        refused: type[TransporterError] | None = PointExists if there else None
        stays = side.stays(before, TENANT)
        if there is None and (stays or side.doubt):
            refused = PointKept if stays and not side.doubt else ClockDoubtful
        made = there or Point(before.needs, before.committed, "synthetic", lock=side.new_lock())
        becomes = {new: made, old: before if stays else side.removed(before)}
        if there is not None and side.doubt:
            refused, becomes = ClockDoubtful, {}
        act = lambda store: side.fold(store, old, new, before.needs)  # noqa: E731
        if not self.perform(side, act, becomes, cut, refused=refused, notes=True) and refused is None:
            assert new in side.points or old in side.points
            assert old in side.points or not becomes[old] or new in side.points

    # -- care ---------------------------------------------------------------------------------------------------------

    @rule(name=SIDES, at_once=st.booleans(), beside=st.booleans(), cut=CUTS)
    def prune(self, name: str, at_once: bool, beside: bool, cut: Cut | None) -> None:
        side = self.side(name)
        options = EVERYTHING if at_once else GRACE
        if not beside:
            refused = ClockDoubtful if side.doubt else None
            self.perform(side, lambda store: store.prune(options), {}, cut, refused=refused, notes=True)
            return
        self.arm(cut, "prune")  # another process dies; the one that has the repository open goes on
        noted = side.noted()
        try:
            prune_beside(side.path, self.clock, options, PruneHooks())
            assert not side.doubt
        except Killed:
            DONE["kills"] += 1
        except ClockDoubtful:
            assert side.doubt
        finally:
            self.disk.arm(None)
        mark = side.repository.keeping.clock._mark()
        assert mark in {side.mark, noted}
        side.mark = mark

    @precondition(lambda self: not self.one.doubt)
    @rule(numbers=PARTS)
    def prune_while_a_point_is_committed(self, numbers: tuple[int, ...]) -> None:
        """Its chunks were looked at before the prune; it has its name after the prune has listed the points."""
        side = self.one
        store = side.repository
        side.run(store, None, numbers)
        name = self.new_point()
        becomes = {name: Point(numbers, side.next_commit(), lock=side.new_lock())}
        looked, goes_on = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as threads, pytest.MonkeyPatch.context() as patch:
            really = store.keeping.lock_new

            def held(point_id: bytes) -> None:
                looked.set()
                assert goes_on.wait(60)
                really(point_id)

            patch.setattr(store.keeping, "lock_new", held)
            commit = threads.submit(side.commit, store, name, numbers)

            def progress(step: PruneProgress) -> None:
                if step.step == "chunks":
                    goes_on.set()
                    commit.result(60)

            try:
                assert looked.wait(60)
                act = lambda _store: store.prune(EVERYTHING, PruneHooks(progress=progress))  # noqa: E731
                self.perform(side, act, becomes, None, notes=True)
            finally:
                goes_on.set()
            commit.result(60)

    @rule(cut=CUTS)
    def copy(self, cut: Cut | None) -> None:
        one, two = self.one, self.two
        whole = [each for each in one.live() if not set(one.points[each].needs) & one.bad]
        missing = [each for each in whole if each not in two.points]
        becomes: dict[bytes, Point | None] = {}
        for each in missing:
            point = one.points[each]
            came = max(two.mark, self.clock.now_ns())
            committed = min(point.committed, came)
            becomes[each] = Point(point.needs, committed, point.kind, lock=two.new_lock(), copied=came)
        if not missing:
            return

        def act(store: Repository) -> None:
            with one.repository.session():
                for each in missing:
                    copy_point(one.repository, store, each, two.bad)

        self.perform(two, act, becomes, cut, notes=True)
        there = [each for each in missing if each in two.points]
        assert there == missing[: len(there)]

    @rule(name=SIDES, data=st.data())
    def a_byte_flips(self, name: str, data: st.DataObject) -> None:
        side = self.side(name)
        packs = sorted((side.path / "packs").glob("*/*"))
        numbers = sorted(on_disk(side.path) - side.bad)
        if not packs or not numbers:
            return
        number = data.draw(st.sampled_from(numbers))
        needle = number.to_bytes(4, "big") * 25
        for path in packs:
            raw = bytearray(path.read_bytes())
            at = raw.find(needle)
            if at >= 0:
                raw[at + 9] ^= 1
                path.write_bytes(raw)
                side.bad.add(number)

    @rule(name=SIDES, supplied=st.booleans(), cut=CUTS)
    def heal(self, name: str, supplied: bool, cut: Cut | None) -> None:
        side = self.side(name)
        other = self.other(side)
        healed: set[int] = set()

        def act(store: Repository) -> None:
            report = store.scrub()
            assert set(report.damaged_packs) == side.damaged_packs()
            copy = other.repository
            store.heal(report.damaged_packs, supply_from(copy) if supplied else None)
            if not supplied:
                return
            store.supply(copy, list(store.wanted_chunks()))
            store.forget_found()
            known = other.repository.have(DOMAIN, [chunk_id(number) for number in sorted(side.bad)])
            there = {number for number, keys in zip(sorted(side.bad), known, strict=True) if keys}
            healed.update(there - other.bad)

        if self.perform(side, act, {}, cut):
            side.bad -= healed

    @precondition(lambda self: self.one.session is None)
    @rule(name=SIDES, cut=CUTS)
    def rebuild_index(self, name: str, cut: Cut | None) -> None:
        side = self.side(name)
        self.perform(side, lambda store: store.rebuild_index(), {}, cut)

    @rule(name=SIDES)
    def open_anew(self, name: str) -> None:
        side = self.side(name)
        side.close()
        side.open()
        side.mark = side.repository.keeping.clock._mark()

    @rule(name=SIDES, cut=CUTS)
    def die_at_rest(self, name: str, cut: Cut | None) -> None:
        self.after_death(self.side(name), cut or Cut(), {}, {self.side(name).mark})

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_there(self) -> None:
        self.one.check()
        self.two.check()

    def teardown(self) -> None:
        try:
            DONE.update({f"before {name}": count for name, count in self.disk.deaths.items()})
            for side in (self.one, self.two):
                self.end_well(side)
        finally:
            for side in (self.one, self.two):
                side.close()
            self.patch.undo()
            shutil.rmtree(self.folder)

    def end_well(self, side: Side) -> None:
        """Heal, let all that is over go, prune: then nothing is left but what points need."""
        self.end_session(side)
        store = side.repository
        store.heal(store.scrub().damaged_packs)
        lost = {int.from_bytes(each.chunk_id[8:], "big") for _tenant, each in store.lost_chunks()}
        side.run(store, None, tuple(sorted(lost | side.needed())))
        side.bad.clear()
        store.forget_found()
        store.keeping.clock.accept()
        side.mark = self.clock.now_ns()
        self.purge(side.path.name, None)
        for _ in range(2):
            store.prune(EVERYTHING)
        side.check()
        assert on_disk(side.path) == side.needed()
        report = store.scrub()
        assert report.clean, [*report.damage[:3], *report.repairable[:3]]
        assert not report.notes, report.notes[:3]
        side.index_is_what_packs_say()
        assert list((side.path / "journal").iterdir()) == []

    def end_session(self, side: Side) -> None:
        if side.session is not None:
            side.end(side.repository, None)


def copy_point(source: Repository, target: Repository, point_id: bytes, bad: set[int]) -> None:
    """Copy a point as it is; no chunk in ``bad`` that is stored anew is bad any more."""
    ref = source.point(TENANT, JOB, point_id)
    needs = list(source.read_needs(TENANT, JOB, point_id))
    writer = target.writer(DOMAIN, TENANT)
    for each, keys in zip(needs, target.have(DOMAIN, needs), strict=True):
        if not keys:
            writer.append(source.read(DOMAIN, each))
            bad.discard(int.from_bytes(each[8:], "big"))
    writer.close()
    head = source.read_head(TENANT, JOB, point_id)
    origin = Origin(source.repository_id, TENANT, ref.committed_ns, ref.hash)
    slots = list(source.slots_of(TENANT, JOB, point_id).items())
    target.commit_point(TENANT, JOB, point_id, head, b"".join(needs), domain=DOMAIN, slots=slots, origin=origin)


# A run with its kills is a second and more. Always the same ones here; for others, and longer: make campaign-model.
TestEverything = Everything.TestCase
TestEverything.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "8")),
    stateful_step_count=int(os.environ.get("MODEL_STEPS", "25")),
    deadline=None,
    derandomize=True,
    database=None,
    # What is found is shown as it was found: to make it small takes minutes.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

"""Prune against a plain model: sets of numbers, with kills, sessions, second processes and time that passes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.repository.prune_world import (
    DAY,
    DOMAIN,
    EVERYTHING,
    backup,
    check_sound,
    chunk_id,
    commit,
    on_disk,
    prune,
    recycle_point,
    remove_point,
    write,
)
from tests.repository.test_faults import Killed, abort
from tests.repository.test_prune_faults import PruneHarness
from transporter.clock import ManualClock
from transporter.repository import PruneHooks, PruneOptions, Repository, SessionLease, prune_beside

GRACE = PruneOptions(grace_seconds=DAY, compact_below=1.0)
PARTS = st.builds(
    lambda first, count, step: set(range(first, first + count * step, step)),
    *(st.integers(0, 60), st.integers(1, 25), st.integers(1, 3)),
)


class Pruning(RuleBasedStateMachine):
    """What points need is never lost; what a session was told stays as long as it lasts; in the end nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("transporter.repository.limits.PACK_TARGET", 1000)
        self.patch.setattr("transporter.repository.limits.PRUNE_BATCH", 16)
        self.patch.setattr("transporter.repository.limits.SORTED_AT_ONCE", 32)
        self.patch.setattr("transporter.repository.limits.MERGED_RUNS", 2)
        self.clock = ManualClock()
        self.repository = Repository.create(self.folder / "r", clock=self.clock)
        self.points: dict[int, set[int]] = {}
        self.recycled: dict[int, set[int]] = {}
        self.session: SessionLease | None = None
        self.told: set[int] = set()
        self.next_point = 1
        self.kills = 0

    @rule(numbers=PARTS)
    def run(self, numbers: set[int]) -> None:
        backup(self.repository, self.next_point, sorted(numbers))
        self.points[self.next_point] = numbers
        self.next_point += 1

    @rule(numbers=PARTS)
    def run_that_is_cut_off(self, numbers: set[int]) -> None:
        write(self.repository, sorted(numbers))

    @precondition(lambda self: self.points)
    @rule(data=st.data(), bin_=st.booleans())
    def remove(self, data: st.DataObject, bin_: bool) -> None:
        point = data.draw(st.sampled_from(sorted(self.points)))
        numbers = self.points.pop(point)
        if bin_:
            recycle_point(self.repository.path, point)
            self.recycled[point] = numbers
        else:
            remove_point(self.repository.path, point)

    @precondition(lambda self: self.recycled)
    @rule(data=st.data())
    def empty_the_bin(self, data: st.DataObject) -> None:
        point = data.draw(st.sampled_from(sorted(self.recycled)))
        del self.recycled[point]
        name = point.to_bytes(16, "big").hex()
        (gone,) = (self.repository.path / "recycled" / "t" / "j").glob(f"{name}.*")
        gone.unlink()

    @precondition(lambda self: self.session is None)
    @rule(numbers=PARTS)
    def a_session_asks(self, numbers: set[int]) -> None:
        self.session = self.repository.session()
        asked = sorted(numbers)
        keys = self.repository.have(DOMAIN, [chunk_id(number) for number in asked])
        self.told = {number for number, found in zip(asked, keys, strict=True) if found}

    @precondition(lambda self: self.session is not None)
    @rule(commits=st.booleans())
    def the_session_ends(self, commits: bool) -> None:
        assert self.session is not None
        if commits and self.told:
            # Nothing is sent again: it was told that all of it is there.
            commit(self.repository, self.next_point, sorted(self.told))
            self.points[self.next_point] = self.told
            self.next_point += 1
        self.session.release()
        self.session, self.told = None, set()

    @rule(days=st.sampled_from([0.5, 2]))
    def time_passes(self, days: float) -> None:
        self.clock.advance(days * DAY)
        # As a daemon does every few hours: a week in which nobody looked would be a clock in doubt, and no prune.
        self.repository.keeping.clock.note()

    @rule(at_once=st.booleans())
    def prunes(self, at_once: bool) -> None:
        prune(self.repository, EVERYTHING if at_once else GRACE)

    @rule()
    def prunes_in_another_process(self) -> None:
        prune_beside(self.repository.path, self.clock, EVERYTHING, PruneHooks())

    @rule(step=st.integers(0, 120), beside=st.booleans())
    def is_killed_while_it_prunes(self, step: int, beside: bool) -> None:
        self.kills += 1
        with pytest.MonkeyPatch.context() as patch:
            PruneHarness(patch, self.folder / f"attic-{self.kills}").die_at = step
            try:
                if beside:
                    prune_beside(self.repository.path, self.clock, EVERYTHING, PruneHooks())
                else:
                    prune(self.repository, EVERYTHING)
            except Killed:
                pass
        if not beside:
            self._open_anew()

    @rule()
    def opens_anew(self) -> None:
        self._open_anew()

    @precondition(lambda self: self.session is None)
    @rule()
    def makes_the_index_anew(self) -> None:
        self.repository.rebuild_index()

    def _open_anew(self) -> None:
        if self.session is not None:
            self.session.release()
            self.session, self.told = None, set()
        abort(self.repository)
        self.repository = Repository.open(self.folder / "r", self.clock)

    def needed(self) -> set[int]:
        return set().union(*self.points.values(), *self.recycled.values())

    @invariant()
    def what_is_needed_is_there(self) -> None:
        assert self.needed() | self.told <= on_disk(self.repository.path)
        for number in sorted(self.needed() | self.told):
            self.repository.read(DOMAIN, chunk_id(number))

    def teardown(self) -> None:
        try:
            if self.session is not None:
                self.session.release()
            for _ in range(2):
                prune(self.repository, EVERYTHING)
            check_sound(self.repository)
            assert on_disk(self.repository.path) == self.needed()
        finally:
            self.repository.close()
            self.patch.undo()
            shutil.rmtree(self.folder)


TestPruning = Pruning.TestCase
# Each example is hundreds of fsyncs. A campaign: PRUNE_EXAMPLES=500 pytest --timeout=0 …/test_prune_model.py
TestPruning.settings = settings(
    max_examples=int(os.environ.get("PRUNE_EXAMPLES", "5")),
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

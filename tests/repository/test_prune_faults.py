"""Every step of a prune that touches the disk or the index is made to fail, and is cut short, one after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.repository.prune_world import EVERYTHING, backup, check_sound, known, on_disk, prune, remove_point, write
from tests.repository.test_faults import Harness, Killed, abort
from transporter.clock import ManualClock
from transporter.errors import DiskFull, TransporterError
from transporter.repository import PruneHooks, Repository, files, prune_beside
from transporter.repository.connections import Connections

pytestmark = pytest.mark.usefixtures("small_packs")

# Every step takes minutes (PRUNE_EVERY=1); here each of these takes another third of them, and all are neighbours.
EVERY = int(os.environ.get("PRUNE_EVERY", "2"))

# Of the first point go whole packs, and parts of others; two tenants are compacted; orphans of a run were there before.
KEPT = {*range(0, 60, 7), *range(60, 75), *range(200, 220, 3)}


class PruneHarness(Harness):
    """As its base; a transaction of the index is two steps, before and after; what is unlinked may come back."""

    def __init__(self, patch: pytest.MonkeyPatch, attic: Path) -> None:
        super().__init__(patch)
        self.attic = attic
        self.unlinked: dict[Path, Path] = {}
        real = Connections.transaction

        @contextmanager
        def transaction(connections: Connections) -> Iterator[object]:
            self.wrap("begin", lambda: None)()
            with real(connections) as connection:
                yield connection
            self.wrap("commit", lambda: None)()

        patch.setattr(Connections, "transaction", transaction)

    def wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def kept(path: Path | str) -> None:
            if Path(path).parent.parent.name == "packs" and Path(path).exists():
                self.attic.mkdir(exist_ok=True)
                os.link(path, self.attic / Path(path).name)
                self.unlinked[Path(path)] = self.attic / Path(path).name
            real(path)

        def synced(path: Path) -> None:
            real(path)
            for gone in [gone for gone in self.unlinked if gone.parent == path]:
                self.unlinked.pop(gone).unlink()

        return super().wrap(name, {"unlink": kept, "sync_folder": synced}.get(name, real))


@pytest.fixture
def made(place: Path, clock: ManualClock) -> Path:
    with Repository.create(place, clock=clock) as repository:
        write(repository, range(300, 305))
        backup(repository, 1, range(75))
        backup(repository, 2, [*range(0, 60, 7), *range(60, 75)])
        backup(repository, 3, range(200, 220), tenant="u")
        backup(repository, 4, range(200, 220, 3), tenant="u")
    remove_point(place, 1)
    remove_point(place, 3, "u")
    return place


def fresh(made: Path, number: int) -> Path:
    return Path(shutil.copytree(made, made.parent / f"copy-{number}"))


def go(place: Path) -> None:
    repository = Repository.open(place, ManualClock())
    try:
        prune(repository, EVERYTHING)
    finally:
        abort(repository)


def check(place: Path, *, whole: bool = True) -> None:
    """Nothing that a point needs is lost, and the next prune does what is left to do."""
    with Repository.open(place, ManualClock()) as repository:
        check_sound(repository)
        assert known(repository, KEPT) == KEPT
        prune(repository, EVERYTHING)
        assert on_disk(place) == KEPT
        check_sound(repository)
        assert {path.name for path in (place / "leases").iterdir()} <= {"writer", "prune", "clock", "keeping"}


def steps_of(made: Path) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        harness = PruneHarness(patch, made.parent / "attic")
        go(fresh(made, -1))
        return harness.names


def test_the_scenario_passes_every_kind_of_step(made):
    names = steps_of(made)
    assert set(names) >= {"create", "write_at", "truncate", "sync", "link", "sync_folder", "unlink", "begin", "commit"}
    assert on_disk(made.parent / "copy--1") == KEPT


@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_any_step_of_a_prune_loses_nothing_and_the_next_one_ends_it(made, part):
    for step in range(part, len(steps_of(made)), 4 * EVERY):
        place = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            PruneHarness(patch, made.parent / f"attic-{step}").die_at = step
            with pytest.raises(Killed):
                go(place)
        check(place)
        shutil.rmtree(place)


@pytest.mark.parametrize("part", range(2))
def test_a_power_cut_at_any_step_of_a_prune_loses_nothing(made, part):
    """Names that were not synced are gone, and files whose removal was not synced are there again."""
    for step in range(part, len(steps_of(made)), 2 * EVERY):
        place = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            harness = PruneHarness(patch, made.parent / f"attic-{step}")
            harness.die_at = step
            with pytest.raises(Killed):
                go(place)
        for names in harness.linked.values():
            for name in names:
                name.unlink(missing_ok=True)
        for path, copy in harness.unlinked.items():
            copy.rename(path)
        check(place)
        shutil.rmtree(place)


@pytest.mark.parametrize("part", range(2))
def test_a_full_disk_at_any_step_of_a_prune_is_told_and_loses_nothing(made, part):
    count = len(steps_of(made))
    for step in range(part + 1, count + 1, 2 * EVERY):
        place = fresh(made, step)
        with pytest.MonkeyPatch.context() as patch:
            harness = PruneHarness(patch, made.parent / f"attic-{step}")
            harness.fail_at = step
            try:
                go(place)
            except DiskFull:
                pass
            except (TransporterError, OSError) as error:
                raise AssertionError(f"step {step} ({harness.names[step - 1]}) was told as {error!r}") from error
        check(place)
        shutil.rmtree(place)


@pytest.mark.parametrize("step", ["create", "write_at", "truncate", "sync", "link", "sync_folder", "begin"])
def test_a_prune_that_met_a_full_disk_is_ended_by_another_once_there_is_room(made, step):
    """The same process goes on, as a daemon does; ``step``: the last of its kind that the compaction takes."""
    last = len(names := steps_of(made)) - names[::-1].index(step)
    with Repository.open(made, ManualClock()) as repository:
        opened = _steps_of_open(made)
        with pytest.MonkeyPatch.context() as patch:
            PruneHarness(patch, made.parent / "attic-full").fail_at = last - opened
            with pytest.raises(DiskFull, match="no room left") as caught:
                prune(repository, EVERYTHING)
        assert caught.value.exit_status == 1
        check_sound(repository)
        prune(repository, EVERYTHING)
        assert on_disk(made) == KEPT
        check_sound(repository)


def _steps_of_open(made: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        harness = PruneHarness(patch, made.parent / "attic-open")
        place = Path(shutil.copytree(made, made.parent / "opened"))
        harness.count = 0
        abort(Repository.open(place, ManualClock()))
        return harness.count


@pytest.mark.parametrize("part", range(2))
def test_a_kill_beside_an_open_repository_leaves_it_in_order(made, part):
    """The process that has the repository open goes on, publishes and commits, and never opens it anew."""
    count = len(steps_of(made))
    for step in range(part, count, 5 * EVERY):
        place = fresh(made, step)
        with Repository.open(place, ManualClock()) as repository:
            with pytest.MonkeyPatch.context() as patch:
                PruneHarness(patch, made.parent / f"attic-{step}").die_at = step
                try:
                    prune_beside(place, ManualClock(), EVERYTHING, PruneHooks())
                except Killed:
                    pass
            backup(repository, 9, range(0, 75, 2))
            for ref in (*repository.points("t"), *repository.points("u")):
                needs = list(repository.read_needs(ref.tenant, ref.job, ref.point_id))
                assert len(list(repository.read_many(ref.domain, needs))) == len(needs)
            prune(repository, EVERYTHING)
            assert on_disk(place) == KEPT | set(range(0, 75, 2))
        with Repository.open(place, ManualClock()) as repository:
            check_sound(repository)
        shutil.rmtree(place)


def test_the_list_of_a_prune_that_was_killed_is_gone_after_the_next_one(made):
    """The process that has the repository open may run for months: nothing may gather in its journal folder."""
    place = fresh(made, 0)
    with Repository.open(place, ManualClock()) as repository:
        with pytest.MonkeyPatch.context() as patch:

            def killed(path):
                assert Path(path).parent.name == "journal"
                raise Killed

            patch.setattr(files, "unlink", lambda path: killed(path) if Path(path).exists() else None)
            with pytest.raises(Killed):
                prune(repository, EVERYTHING)
        assert [path.suffix for path in (place / "journal").iterdir()] == [".tmp"]
        prune(repository, EVERYTHING)
        assert list((place / "journal").iterdir()) == []

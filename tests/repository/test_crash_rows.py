"""The crash table of docs/repository-format.md, row by row: removal, commit, prune, healing. One test for each row.

Each is killed at the moment that its row names, and looks at all three: what is left, what readers see, and who cleans
it up. That every other moment is as good, the tests of every step show (`test_*_faults.py`, `test_model.py`).
"""

from __future__ import annotations

import os
import re
import shutil

import pytest

from tests.repository import test_heal_faults as healing
from tests.repository import test_keeping_faults as keeping
from tests.repository.prune_world import EVERYTHING, check_sound, known, on_disk, prune
from tests.repository.test_faults import Killed, abort
from tests.repository.test_prune_faults import KEPT
from tests.repository.test_prune_faults import made as prunable
from transporter.clock import ManualClock
from transporter.repository import PointExists, Repository, files
from transporter.repository import healing as healing_module
from transporter.repository.compaction import PackRemover
from transporter.repository.index import Index
from transporter.repository.index_prune import PruneIndex
from transporter.repository.supply import supply_from

kept = keeping.made
damaged = healing.damaged
made = prunable
DAY, NS, IDS = keeping.DAY, keeping.NS, keeping.IDS
FIRST, SECOND, THIRD, RECYCLED = IDS


class Dies:
    """The process is killed before the ``nth`` call of a function whose arguments, as text, match."""

    def __init__(self, patch, owner, name, pattern="", nth=1):
        self.dead, self.left = False, nth
        self.pattern = pattern
        for each in keeping.STEPS:
            patch.setattr(files, each, self.wrap(getattr(files, each), counts=(owner, name) == (files, each)))
        if owner is not files or name not in keeping.STEPS:
            patch.setattr(owner, name, self.wrap(getattr(owner, name), counts=True))

    def wrap(self, real, *, counts):
        def step(*args, **how):
            text = " ".join(str(arg) for arg in args)
            if counts and not self.dead and re.search(self.pattern, text):
                self.left -= 1
                self.dead = not self.left
            if self.dead:
                raise Killed
            return real(*args, **how)

        return step


def killed(deed, *where, **how):
    with pytest.MonkeyPatch.context() as patch:
        dies = Dies(patch, *where, **how)
        with pytest.raises(Killed):
            deed()
    assert dies.dead


# --- removal --------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(kept):
    scene = keeping.World(kept)
    scene.made = {*IDS, *keeping.MANY}
    return scene


def seen(world):
    """What a reader sees: live points, without anybody putting anything in order."""
    with Repository.open(world.place, world.clock, writable=False) as repository:
        return {ref.point_id for ref in repository.points("t", "job")} & set(IDS)


def there(world, folder, point):
    path = world.place / folder / point.hex()
    return path.exists() and (not path.is_dir() or bool(list(path.iterdir())))


def cleaned_up(world, left):
    """The next keeper: nothing is half there, and so many of the four points are."""
    live, binned = world.check()
    assert (live & set(IDS), binned) == (set(left), {RECYCLED})
    world.check()


def test_removal_1(world):
    killed(lambda: keeping.remove(world), files, "replace", "tombstones", nth=2)
    assert (there(world, "tombstones", FIRST), there(world, "tombstones", SECOND)) == (True, False)
    assert seen(world) == {FIRST, SECOND, THIRD}
    cleaned_up(world, {SECOND, THIRD})


def test_removal_1_to_2(world):
    killed(lambda: keeping.remove(world), files, "unlink", "/points/")
    assert there(world, "tombstones", FIRST) and there(world, "tombstones", SECOND)
    assert seen(world) == {FIRST, SECOND, THIRD}
    cleaned_up(world, {THIRD})


def test_removal_2(world):
    killed(lambda: keeping.remove(world), files, "unlink", "/points/", nth=2)
    assert seen(world) == {SECOND, THIRD}
    assert there(world, "slots", FIRST)
    cleaned_up(world, {THIRD})


def test_removal_2_to_3(world):
    killed(lambda: keeping.remove(world), files, "unlink", "/slots/")
    assert [there(world, folder, FIRST) for folder in ("slots", "pins", "locks", "tombstones")] == [True] * 4
    assert seen(world) == {THIRD}
    cleaned_up(world, {THIRD})


def test_removal_3(world):
    killed(lambda: keeping.remove(world), files, "unlink", "/pins/")
    assert [there(world, folder, FIRST) for folder in ("slots", "pins", "tombstones")] == [False, True, True]
    assert seen(world) == {THIRD}
    cleaned_up(world, {THIRD})


def test_removal_4(world):
    killed(lambda: keeping.remove(world), files, "unlink", "/tombstones/")
    assert set(world.gone) == {FIRST, SECOND}
    del world.gone[:]  # it died with who was told
    assert [there(world, folder, FIRST) for folder in ("slots", "pins", "locks", "tombstones")] == [False] * 3 + [True]
    assert seen(world) == {THIRD}
    cleaned_up(world, {THIRD})
    assert set(world.gone) >= {FIRST, SECOND}


def test_bringing_back_before_the_link(world):
    killed(lambda: keeping.undelete(world), files, "link", "/points/")
    assert not there(world, "tombstones", RECYCLED)
    assert seen(world) == {FIRST, SECOND, THIRD}
    keeping.undelete(world)
    assert seen(world) == set(IDS)


def test_bringing_back_after_the_link(world):
    killed(lambda: keeping.undelete(world), files, "unlink", "/recycled/")
    (path,) = (world.place / "recycled").rglob(f"{RECYCLED.hex()}.*")
    assert path.stat().st_nlink == 2
    assert seen(world) == set(IDS)
    live, binned = world.check()
    assert RECYCLED in live and not binned


def test_emptying_the_recycle_bin_after_the_unlink(world):
    killed(lambda: keeping.purge(world), files, "unlink", "/slots/")
    assert there(world, "slots", RECYCLED) and there(world, "tombstones", RECYCLED)
    assert not list((world.place / "recycled").rglob(f"{RECYCLED.hex()}.*"))
    assert seen(world) == {FIRST, SECOND, THIRD}
    live, binned = world.check()
    assert (live & set(IDS), binned) == ({FIRST, SECOND, THIRD}, set())


@pytest.mark.parametrize("which", ["pins", "locks", "clock"])
def test_pinning_locking_confirming_the_clock(world, which):
    deed, path = {
        "pins": (keeping.pin, world.place / "pins" / SECOND.hex()),
        "locks": (keeping.lock, world.place / "locks" / SECOND.hex()),
        "clock": (keeping.accept_clock, world.place / "leases" / "clock"),
    }[which]
    before = path.read_bytes() if path.exists() else None
    wall = world.clock.wall_ns
    killed(lambda: deed(world), files, "replace", f"/{which}")
    world.clock.wall_ns = wall
    assert (path.read_bytes() if path.exists() else None) == before
    assert list((world.place / "journal").glob("*.tmp"))
    cleaned_up(world, {FIRST, SECOND, THIRD})  # the temporary name went at the open


def test_commit_after_the_lock_before_the_link(world):
    killed(lambda: keeping.commit(world), files, "link", "/points/")
    assert there(world, "locks", keeping.NEW)
    assert seen(world) == {FIRST, SECOND, THIRD}
    world.clock.wall_ns += int(2 * DAY * NS)
    with Repository.open(world.place, world.clock) as repository:
        repository.keeping.purge()
    assert not there(world, "locks", keeping.NEW)


def test_commit_that_replaces_a_point_after_its_link(world):
    how = {"replaces": THIRD}
    killed(lambda: keeping.commit(world, **how), files, "replace", "/tombstones/")
    with Repository.open(world.place, world.clock, writable=False) as repository:
        refs = {ref.point_id: ref.committed_ns for ref in repository.points("t", "job")}
    assert refs[THIRD] == refs[keeping.NEW]
    with pytest.raises(PointExists):
        keeping.commit(world, **how)
    assert THIRD not in seen(world)


# --- prune ----------------------------------------------------------------------------------------------------------


def go(place):
    repository = Repository.open(place, ManualClock())
    try:
        prune(repository, EVERYTHING)
    finally:
        abort(repository)


def readers_see_all(place):
    with Repository.open(place, ManualClock(), writable=False) as repository:
        for tenant in repository.tenants():
            for ref in repository.points(tenant):
                needs = list(repository.read_needs(ref.tenant, ref.job, ref.point_id))
                assert len(list(repository.read_many(ref.domain, needs))) == len(needs)


def next_prune_ends_it(place):
    with Repository.open(place, ManualClock()) as repository:
        check_sound(repository)
        assert known(repository, KEPT) == KEPT
        prune(repository, EVERYTHING)
        assert on_disk(place) == KEPT
        check_sound(repository)
    assert not list((place / "journal").iterdir())


def index_rows(place, query):
    with Repository.open(place, ManualClock(), writable=False) as repository, repository._index.reader() as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def few_at_once(monkeypatch, small_packs):
    monkeypatch.setattr("transporter.repository.limits.PRUNE_BATCH", 8)


def test_prune_2_between_two_batches(made, few_at_once):
    killed(lambda: go(made), PruneIndex, "mark", nth=2)
    assert index_rows(made, "SELECT count(*) FROM chunks WHERE doomed > 0") != [(0,)]
    complete = "SELECT count(*) FROM chunks WHERE doomed > 0 AND doomed <= (SELECT epoch FROM meta)"
    assert index_rows(made, complete) == [(0,)]
    before = on_disk(made)
    readers_see_all(made)
    assert on_disk(made) == before
    next_prune_ends_it(made)


@pytest.mark.parametrize("nth", [1, 2])
def test_prune_5_packs_chosen(made, few_at_once, nth):
    killed(lambda: go(made), PruneIndex, "delete_doomed", nth=nth)
    assert index_rows(made, "SELECT count(*) FROM packs WHERE state = 1") != [(0,)]
    readers_see_all(made)
    next_prune_ends_it(made)


def test_prune_5_between_removal_and_unlink(made, few_at_once):
    killed(lambda: go(made), files, "unlink", "/packs/")
    assert index_rows(made, "SELECT count(*) FROM packs WHERE state = 2") != [(0,)]
    readers_see_all(made)
    next_prune_ends_it(made)


def test_prune_5_after_the_unlink_before_the_fsync(made, few_at_once):
    with pytest.MonkeyPatch.context() as patch:
        really = PackRemover._unlink

        def unlink(remover, names):
            with pytest.MonkeyPatch.context() as inner:
                Dies(inner, files, "sync_folder", "/packs/")
                really(remover, names)

        patch.setattr(PackRemover, "_unlink", unlink)
        with pytest.raises(Killed):
            go(made)
    assert index_rows(made, "SELECT count(*) FROM packs WHERE state = 2") != [(0,)]
    readers_see_all(made)
    next_prune_ends_it(made)


def test_prune_6_while_copying_before_the_link(made, small_packs):
    killed(lambda: go(made), files, "link", r"\.compact .*/packs/")
    assert list((made / "journal").glob("*.compact"))
    readers_see_all(made)
    next_prune_ends_it(made)


def test_prune_6_after_the_link_before_the_index(made, small_packs):
    killed(lambda: go(made), PruneIndex, "move")
    (left,) = (made / "journal").glob("*.compact")
    assert left.stat().st_nlink == 2
    readers_see_all(made)
    next_prune_ends_it(made)


def test_prune_6_after_the_index(made, small_packs):
    killed(lambda: go(made), files, "unlink", r"\.compact", nth=5)  # the first that removes an old pack
    assert list((made / "journal").glob("*.compact"))
    assert index_rows(made, "SELECT count(*) FROM packs WHERE state = 2") != [(0,)]
    readers_see_all(made)
    next_prune_ends_it(made)


def test_any_session_killed(made, small_packs):
    with Repository.open(made, ManualClock()) as repository:
        lease = repository.session()
        os.close(lease._fd)  # as the kernel does
        lease._fd = -1
        assert list((made / "leases").glob("session-*"))
        prune(repository, EVERYTHING)
        assert not list((made / "leases").glob("session-*"))
        assert on_disk(made) == KEPT


# --- healing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def attempt(damaged, small_packs):
    return healing.Healing(damaged, 1, from_copy=False)


@pytest.fixture
def supplied(damaged, small_packs):
    return healing.Healing(damaged, 1, from_copy=True)


def journals(attempt):
    return [path for path in (attempt.place / "journal").iterdir() if path.suffix == ".pack"]


def damaged_packs(attempt):
    with Repository.open(attempt.place, ManualClock(), writable=False) as repository:
        attempt.all_but_the_victim(repository)
        return repository.scrub().damaged_packs


def test_healing_while_records_are_copied(attempt):
    killed(attempt.go, files, "sync_data")
    assert journals(attempt)
    assert not list((attempt.place / "quarantine").glob("*"))
    assert damaged_packs(attempt)
    attempt.check()


def test_healing_after_the_list_of_what_is_lost(attempt):
    killed(attempt.go, healing_module, "name_pack")
    assert journals(attempt) and list((attempt.place / "quarantine").glob("*.lost"))
    assert damaged_packs(attempt)
    attempt.check()


def test_healing_after_the_new_pack_has_its_name(attempt):
    killed(attempt.go, Index, "replace_pack")
    assert [path.stat().st_nlink for path in journals(attempt)] == [2]
    assert damaged_packs(attempt)
    attempt.check()


def test_healing_after_the_index_transaction(attempt):
    killed(attempt.go, healing_module, "_set_aside")
    assert [path.stat().st_nlink for path in journals(attempt)] == [2]
    assert damaged_packs(attempt)  # in its place, and not in the index
    attempt.check()


def test_healing_after_the_rename(attempt):
    killed(attempt.go, files, "unlink", r"\.pack$")
    assert [path for path in (attempt.place / "quarantine").iterdir() if path.suffix != ".lost"]
    assert not damaged_packs(attempt)
    attempt.check()


def test_healing_a_pack_that_gets_everything_back(supplied):
    killed(supplied.go, files, "replace", r"\.pack .*/packs/")
    assert list((supplied.place / "quarantine").iterdir())
    assert damaged_packs(supplied)
    supplied.check()


def test_supplying_what_was_lost_earlier(damaged, small_packs):
    first = healing.Healing(damaged, 1, from_copy=False)
    first.go()
    place = first.place

    def supply():
        repository = Repository.open(place, ManualClock())
        try:
            with Repository.open(damaged.with_name("sound"), ManualClock(), writable=False) as copy:
                wanted = list(repository.wanted_chunks())
                assert repository.supply(copy, wanted).chunks == len(wanted) == 1
                repository.forget_found()
        finally:
            abort(repository)

    killed(supply, files, "link", "/packs/")
    assert list((place / "quarantine").glob("*.lost"))
    with Repository.open(place, ManualClock()) as repository:
        # The open has made a pack of what had come: another supply has nothing to fetch, or fetches the rest.
        with Repository.open(damaged.with_name("sound"), ManualClock(), writable=False) as copy:
            repository.heal(repository.scrub().damaged_packs, supply_from(copy))
            wanted = list(repository.wanted_chunks())
            repository.supply(copy, wanted)
            repository.forget_found()
        assert repository.read(healing.DOMAIN, healing.record(healing.VICTIM).chunk_id, [healing.KEY])
        assert not list((place / "quarantine").glob("*.lost"))
        assert repository.scrub().clean
    shutil.rmtree(place)

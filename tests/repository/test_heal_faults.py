"""Healing is killed, and finds the disk full, at every single step: no sound chunk is lost, and the next heals on."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from transporter.clock import ManualClock
from transporter.errors import DiskFull
from transporter.repository import ChunkMissing, ChunkRecord, Repository
from transporter.repository.supply import supply_from

DOMAIN, KEY = b"D" * 16, b"K" * 32
COUNT, VICTIM = 12, 3


def load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults = load("test_faults")
pytestmark = pytest.mark.usefixtures("small_packs")


def record(number: int) -> ChunkRecord:
    return ChunkRecord(number.to_bytes(32, "big"), KEY, 1, 1000, number.to_bytes(4, "big") * 25)


def fill(place: Path, numbers: list[int]) -> None:
    with Repository.create(place, clock=ManualClock()) as repository:
        writer = repository.writer(DOMAIN, "t")
        for number in numbers:
            writer.append(record(number))
        writer.close()
        needs = b"".join(record(number).chunk_id for number in numbers)
        repository.commit_point("t", "j", b"p" * 16, b"head", needs, domain=DOMAIN)


@pytest.fixture
def damaged(place: Path) -> Path:
    """A repository with one damaged chunk, and beside it a sound copy whose packs are others."""
    fill(place.with_name("sound"), list(reversed(range(COUNT))))
    fill(place, list(range(COUNT)))
    needle = bytes(record(VICTIM).stored)
    path = next(path for path in place.glob("packs/*/*") if needle in path.read_bytes())
    raw = bytearray(path.read_bytes())
    raw[raw.find(needle) + 9] ^= 1
    path.write_bytes(raw)
    return place


class Healing:
    """One attempt, on a copy of the damaged repository."""

    def __init__(self, damaged: Path, number: int, *, from_copy: bool) -> None:
        self.place = Path(shutil.copytree(damaged, damaged.with_name(f"attempt-{number}")))
        self.sound = damaged.with_name("sound") if from_copy else None

    def go(self) -> None:
        repository = Repository.open(self.place, ManualClock())
        try:
            self.heal(repository)
        finally:
            faults.abort(repository)

    def heal(self, repository: Repository) -> None:
        packs = repository.scrub().damaged_packs
        if self.sound is None:
            repository.heal(packs)
            return
        with Repository.open(self.sound, ManualClock(), writable=False) as copy:
            repository.heal(packs, supply_from(copy))
            repository.supply(copy, repository.wanted_chunks())
            repository.forget_found()

    def check(self) -> None:
        """What was sound is there after the crash; another attempt heals what the first one left."""
        with Repository.open(self.place, ManualClock()) as repository:
            self.all_but_the_victim(repository)
            self.heal(repository)
            self.all_but_the_victim(repository)
            if self.sound is not None:
                assert repository.read(DOMAIN, record(VICTIM).chunk_id, [KEY]).stored == record(VICTIM).stored
                assert repository.scrub().clean
                assert list((self.place / "quarantine").glob("*.lost")) == []
            else:
                with pytest.raises(ChunkMissing):
                    repository.read(DOMAIN, record(VICTIM).chunk_id)
                ((_tenant, lost),) = repository.lost_chunks()
                assert lost.chunk_id == record(VICTIM).chunk_id
                assert not repository.scrub().damaged_packs
            assert list((self.place / "journal").iterdir()) == []
        shutil.rmtree(self.place)

    @staticmethod
    def all_but_the_victim(repository: Repository) -> None:
        for number in range(COUNT):
            if number != VICTIM:
                assert repository.read(DOMAIN, record(number).chunk_id, [KEY]).stored == record(number).stored


def names_of_steps(damaged: Path, *, from_copy: bool) -> list[str]:
    """The steps that touch the disk, from the opening on."""
    with pytest.MonkeyPatch.context() as patch:
        harness = faults.Harness(patch)
        attempt = Healing(damaged, -1, from_copy=from_copy)
        attempt.go()
        shutil.rmtree(attempt.place)
        return harness.names


@pytest.mark.parametrize("from_copy", [False, True])
def test_killed_at_any_step_no_sound_chunk_is_lost_and_the_next_scrub_heals_the_rest(damaged, from_copy):
    names = names_of_steps(damaged, from_copy=from_copy)
    assert {"replace", "link", "sync", "sync_folder", "unlink", "create"} <= set(names)
    # What comes before is the opening of a repository: tests/repository/test_faults.py.
    for step in range(names.index("create"), len(names)):
        attempt = Healing(damaged, step, from_copy=from_copy)
        with pytest.MonkeyPatch.context() as patch:
            faults.Harness(patch).die_at = step
            with pytest.raises(faults.Killed):
                attempt.go()
        attempt.check()


@pytest.mark.parametrize("from_copy", [False, True])
def test_a_disk_that_is_full_at_any_step_is_told_and_loses_no_sound_chunk(damaged, from_copy):
    told = 0
    names = names_of_steps(damaged, from_copy=from_copy)
    for step in range(names.index("create"), len(names) + 1):
        attempt = Healing(damaged, step, from_copy=from_copy)
        with pytest.MonkeyPatch.context() as patch:
            faults.Harness(patch).fail_at = step
            try:
                attempt.go()
            except DiskFull:
                told += 1
        attempt.check()
    assert told > 5


@pytest.fixture
def index_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise faults.Killed

    monkeypatch.setattr("transporter.repository.index.Index.replace_pack", die)


def test_killed_between_the_new_packs_name_and_the_index(damaged, index_dies, monkeypatch):
    attempt = Healing(damaged, 1, from_copy=True)
    with pytest.raises(faults.Killed):
        attempt.go()
    monkeypatch.undo()
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 1000)
    attempt.check()


def test_killed_between_the_index_and_the_quarantine_the_damaged_pack_is_found_again(damaged, monkeypatch):
    attempt = Healing(damaged, 1, from_copy=False)
    with monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise faults.Killed

        patch.setattr("transporter.repository.healing._set_aside", die)
        with pytest.raises(faults.Killed):
            attempt.go()
    attempt.check()

"""Every step that touches the disk is made to fail, and is cut short by a crash, one after the other.

The harness replaces the functions of `transporter.repository.files`; everything above them is real, so are the files.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transporter.clock import ManualClock
from transporter.errors import DiskFull, TransporterError
from transporter.repository import ChunkRecord, PackWriter, PointExists, Repository, files
from transporter.repository.journal_file import BLOCK

DOMAIN, KEY = b"D" * 16, b"K" * 32
STEPS = (
    "create",
    "write",
    "write_at",
    "truncate",
    "sync_data",
    "sync",
    "sync_folder",
    "link",
    "replace",
    "make_folders",
    "unlink",
)

pytestmark = pytest.mark.usefixtures("small_packs")


class Killed(BaseException):
    """The process died here."""


class Harness:
    """Counts steps; from a chosen one on the process is dead, or that one step finds the disk full."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_at = self.die_at = -1
        self.names: list[str] = []
        self.synced: dict[int, int] = {}
        self.linked: dict[Path, set[Path]] = {}
        for name in STEPS:
            patch.setattr(files, name, self.wrap(name, getattr(files, name)))

    def wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            self.count += 1
            self.names.append(name)
            if 0 <= self.die_at < self.count:
                if self.count == self.die_at + 1:
                    self.half(name, args)
                raise Killed
            if self.count == self.fail_at:
                self.half(name, args)
                raise OSError(errno.ENOSPC, "no space")
            result = real(*args, **kwargs)
            self.note(name, args)
            return result

        return step

    def half(self, name: str, args: tuple[Any, ...]) -> None:
        """Write the first half of what was to be written."""
        if name == "write":
            whole = b"".join(args[1:])
            os.write(args[0], whole[: len(whole) // 2])
        elif name == "write_at":
            fd = os.open(f"/proc/self/fd/{args[0]}", os.O_WRONLY)  # without O_DIRECT: half a block, too
            os.pwrite(fd, bytes(args[1])[: len(args[1]) // 2], args[2])
            os.close(fd)

    def note(self, name: str, args: tuple[object, ...]) -> None:
        """Keep book of what a power cut would leave."""
        if name in ("sync", "sync_data"):
            stat = os.fstat(args[0])  # type: ignore[arg-type]
            self.synced[stat.st_ino] = stat.st_size
        elif name == "link":
            target = Path(args[1])  # type: ignore[arg-type]
            self.linked.setdefault(target.parent, set()).add(target)
        elif name == "sync_folder":
            self.linked.pop(Path(args[0]), None)  # type: ignore[arg-type]


class Run:
    """One scenario: two tenants' chunks, a slot, two points; remembers what it was promised."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.acknowledged: list[bytes] = []
        self.committed: dict[bytes, bytes] = {}

    def records(self, start: int) -> list[ChunkRecord]:
        return [
            ChunkRecord(n.to_bytes(32, "big"), KEY, 1, 1000, n.to_bytes(4, "big") * 25)
            for n in range(start, start + 12)
        ]

    def go(self) -> None:
        repository = Repository.open(self.place, ManualClock())
        try:
            for turn in range(2):
                self.turn(repository, turn)
        finally:
            abort(repository)

    def turn(self, repository: Repository, turn: int) -> None:
        writer = repository.writer(DOMAIN, "t")
        point_id = bytes([turn + 1]) * 16
        for number, item in enumerate(self.records(100 * turn)):
            writer.append(item)
            if number % 3 == 2:
                self.acknowledged += writer.sync()
        self.acknowledged += writer.seal()
        needs = b"".join(item.chunk_id for item in self.records(100 * turn))
        self.committed[point_id] = b""
        try:
            repository.commit_point("t", "j", point_id, b"head", needs, domain=DOMAIN, slots=[(point_id, b"slot")])
            self.committed[point_id] = needs
        except PointExists:
            self.committed[point_id] = needs
        self.acknowledged += writer.close()

    def check(self) -> None:
        """Every promise is kept, and nothing is half there."""
        with Repository.open(self.place, ManualClock()) as repository:
            for chunk_id in self.acknowledged:
                assert repository.read(DOMAIN, chunk_id, [KEY]).chunk_id == chunk_id
            listed = {ref.point_id for ref in repository.points("t", "j")}
            for point_id, needs in self.committed.items():
                if needs:
                    assert point_id in listed
            for point_id in listed:
                assert repository.read_head("t", "j", point_id) == b"head"
                for chunk_id in repository.read_needs("t", "j", point_id):
                    repository.read(DOMAIN, chunk_id, None)
                assert repository.slots_of("t", "j", point_id) == {point_id: b"slot"}
            report = repository.scrub()
            assert report.clean, report
            assert not report.notes, report.notes
            assert list((self.place / "journal").iterdir()) == []


def abort(repository: Repository) -> None:
    """Do what the kernel does for a dead process: close its descriptors, and nothing else."""
    repository._index.close()
    repository._chunks.close()
    for writer in repository._writers:
        close_descriptors(writer)
    assert repository._lease is not None
    repository._lease.release()


def close_descriptors(writer: PackWriter) -> None:
    for pack in writer._live():
        pack.close()


@pytest.fixture
def made(place: Path, clock: ManualClock) -> Path:
    Repository.create(place, clock=clock).close()
    return place


def fresh(made: Path, number: int) -> Path:
    return Path(shutil.copytree(made, made.parent / f"copy-{number}"))


def count_steps(made: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        harness = Harness(patch)
        Run(fresh(made, -1)).go()
        return harness.count


def test_the_scenario_itself_is_sound(made):
    run = Run(fresh(made, 0))
    run.go()
    run.check()
    assert len(run.acknowledged) == 24
    assert all(run.committed.values())


@pytest.mark.parametrize("part", range(4))
def test_a_crash_at_any_step_loses_nothing_that_was_acknowledged(made, part):
    for step in range(part, count_steps(made), 4):
        run = Run(fresh(made, step))
        with pytest.MonkeyPatch.context() as patch:
            Harness(patch).die_at = step
            with pytest.raises(Killed):
                run.go()
        run.check()
        Run(run.place).go()  # and the next run succeeds
        run.check()
        shutil.rmtree(run.place)


@pytest.mark.parametrize("part", range(4))
def test_a_power_cut_at_any_step_loses_nothing_that_was_acknowledged(made, part):
    """As above, and the disk forgets what was not synced: bytes of journals, names in folders."""
    for step in range(part, count_steps(made), 4):
        run = Run(fresh(made, step))
        with pytest.MonkeyPatch.context() as patch:
            harness = Harness(patch)
            harness.die_at = step
            with pytest.raises(Killed):
                run.go()
        for names in harness.linked.values():
            for name in names:
                name.unlink(missing_ok=True)
        for path in (run.place / "journal").iterdir():
            stat = path.stat()
            synced = harness.synced.get(stat.st_ino, 0)
            os.truncate(path, min(synced, stat.st_size))  # (the padding that was synced may have been cut since)
        run.check()
        shutil.rmtree(run.place)


@pytest.mark.parametrize("part", range(4))
def test_a_full_disk_at_any_step_is_told_and_leaves_nothing_half_done(made, part):
    for step in range(part + 1, count_steps(made) + 1, 4):
        run = Run(fresh(made, step))
        with pytest.MonkeyPatch.context() as patch:
            harness = Harness(patch)
            harness.fail_at = step
            try:
                run.go()
            except DiskFull:
                pass
            except TransporterError as error:
                raise AssertionError(f"step {step} ({harness.names[step - 1]}) was told as {error!r}") from error
        run.check()
        shutil.rmtree(run.place)


def test_a_writer_goes_on_when_there_is_room_again(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    with pytest.MonkeyPatch.context() as patch:
        Harness(patch).fail_at = 1
        with pytest.raises(DiskFull):
            writer.sync()
    assert writer.sync() == [record(1).chunk_id]
    writer.append(record(3))
    with pytest.MonkeyPatch.context() as patch:
        harness = Harness(patch)
        harness.fail_at = 1  # the footer
        with pytest.raises(DiskFull):
            writer.seal()
    assert writer.close() == [record(3).chunk_id]
    assert repository.have(DOMAIN, [record(n).chunk_id for n in (1, 2, 3)]) == [(KEY,), (), (KEY,)]
    assert repository.scrub().clean


def test_a_record_that_finds_the_disk_full_is_not_there_and_those_before_it_are(repository, record, monkeypatch):
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 64 << 20)
    writer = repository.writer(DOMAIN, "t")
    sizes = {1: 3 << 20, 2: 3 << 20, 3: 1 << 20}
    writer.append(record(1, size=sizes[1]))
    with pytest.MonkeyPatch.context() as patch:
        Harness(patch).fail_at = 1
        with pytest.raises(DiskFull):
            writer.append(record(2, size=sizes[2]))
    writer.append(record(3, size=sizes[3]))
    assert writer.close() == [record(1).chunk_id, record(3).chunk_id]
    assert repository.have(DOMAIN, [record(n).chunk_id for n in (1, 2, 3)]) == [(KEY,), (), (KEY,)]
    for number in (1, 3):
        assert repository.read(DOMAIN, record(number).chunk_id).stored == record(number, size=sizes[number]).stored
    assert repository.scrub().clean


def test_a_footer_that_the_disk_takes_only_in_part_is_written_later(repository, record, monkeypatch):
    """A long footer would be written eagerly, as records are; but then its first part could not be taken back."""
    monkeypatch.setattr("transporter.repository.journal_file.EAGER", 2 * BLOCK)
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 64 << 20)
    writer = repository.writer(DOMAIN, "t")
    for number in range(100):
        writer.append(record(number))
    writer.sync()
    room = [2 * BLOCK]
    really_write_at = files.write_at

    def write_at(fd: int, data: memoryview, offset: int) -> None:
        if len(data) > room[0]:
            raise OSError(errno.ENOSPC, "full")
        room[0] -= len(data)
        really_write_at(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_at", write_at)
        for _ in range(2):
            with pytest.raises(DiskFull):
                writer.seal()
    writer.close()
    ids = [record(number).chunk_id for number in range(100)]
    assert repository.have(DOMAIN, ids) == [(KEY,)] * 100
    assert repository.scrub().clean


def test_after_a_failed_fsync_nothing_more_is_acknowledged(repository, record):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    assert writer.sync() == [record(1).chunk_id]
    writer.append(record(2))
    with pytest.MonkeyPatch.context() as patch:
        Harness(patch).fail_at = 2  # 1 is the write
        with pytest.raises(DiskFull):
            writer.sync()
    for use in (writer.sync, writer.seal, writer.close, lambda: writer.append(record(3))):
        with pytest.raises((DiskFull, TransporterError)):
            use()
    repository.salvage()
    assert repository.have(DOMAIN, [record(1).chunk_id, record(2).chunk_id]) == [(KEY,), ()]


def test_sync_lets_append_go_on_while_the_disk_is_waited_for(repository, record, monkeypatch):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    real = files.sync_data

    def slow(fd: int) -> None:
        writer.append(record(2))  # would deadlock if the lock of append were held here
        real(fd)

    monkeypatch.setattr(files, "sync_data", slow)
    assert writer.sync() == [record(1).chunk_id]
    monkeypatch.setattr(files, "sync_data", real)
    assert writer.sync() == [record(2).chunk_id]
    writer.close()


def test_what_sync_returns_was_synced_and_its_name_too(repository, record, monkeypatch):
    order: list[str] = []
    for name in ("write_at", "sync_data", "sync_folder"):
        real = getattr(files, name)
        monkeypatch.setattr(files, name, lambda *a, n=name, r=real: (order.append(n), r(*a))[1])
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.sync()
    assert order == ["write_at", "sync_data", "sync_folder"]
    del order[:]
    writer.append(record(2))
    writer.sync()
    assert order == ["write_at", "sync_data"]
    writer.abandon()


def test_a_full_disk_at_open_does_not_stop_restores(made, record):
    repository = Repository.open(made, ManualClock())
    writer = repository.writer(DOMAIN, "t")
    for number in (1, 2):
        writer.append(record(number))
        if number == 1:
            writer.seal()
    writer.sync()
    repository.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", full)
        patch.setattr(files, "write_at", full)
        with Repository.open(made, ManualClock()) as again:
            assert "no room" in again.opened.unfinished
            assert again.read(DOMAIN, record(1).chunk_id).chunk_id == record(1).chunk_id
    with Repository.open(made, ManualClock()) as again:
        assert again.opened.salvaged.records == 1
        assert again.read(DOMAIN, record(2).chunk_id).chunk_id == record(2).chunk_id


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space")


def test_short_writes_are_completed(repository, record, monkeypatch):
    real, real_at = os.writev, os.pwrite
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [b"".join(parts)[:7]]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_at(fd, bytes(data)[:1000], at))
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.close()
    repository.put_slot(bytes(16), bytes(16), b"slot")
    monkeypatch.undo()
    assert repository.scrub().clean
    assert bytes(repository.read(DOMAIN, record(1).chunk_id).stored) == record(1).stored

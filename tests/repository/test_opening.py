from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

import pytest

from transporter.clock import ManualClock
from transporter.errors import DamagedData, TransporterError, UnsupportedFormat
from transporter.repository import Repository, RepositoryBusy, RepositoryExists, RepositoryMissing, format_file
from transporter.repository.format_file import Format

DOMAIN, KEY = b"D" * 16, b"K" * 32

OPEN = """
import sys
from transporter.clock import SystemClock
from transporter.repository import Repository, RepositoryBusy
try:
    Repository.open(sys.argv[1], SystemClock()).close()
except RepositoryBusy as error:
    print("busy:", error.code)
with Repository.open(sys.argv[1], SystemClock(), writable=False) as reading:
    print("clean:", reading.scrub().clean)
"""


def fill(repository, record, *numbers: int) -> None:
    for number in numbers:
        writer = repository.writer(DOMAIN, "t")
        writer.append(record(number))
        writer.close()


def known(repository, record, *numbers: int) -> list[bool]:
    return [bool(keys) for keys in repository.have(DOMAIN, [record(n).chunk_id for n in numbers])]


# -- one writer at a time -------------------------------------------------------------------------------------------


def test_a_second_process_may_read_but_not_write(repository, record, place):
    fill(repository, record, 1)
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(2))
    command = [sys.executable, "-c", OPEN, str(place)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.split("\n")[:2] == ["busy: repository-busy", "clean: True"]
    writer.close()


def test_the_same_process_may_not_open_twice_for_writing(repository, place):
    with pytest.raises(RepositoryBusy):
        Repository.open(place, ManualClock())
    repository.close()
    Repository.open(place, ManualClock()).close()


def test_a_refused_open_holds_nothing(repository, place):
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(RepositoryBusy):
            Repository.open(place, ManualClock())
    assert set(os.listdir("/proc/self/fd")) == before


# -- creation -------------------------------------------------------------------------------------------------------


def test_a_repository_is_not_made_over_something(repository, place, clock, tmp_path):
    with pytest.raises(RepositoryExists):
        Repository.create(place, clock=clock)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RepositoryExists):
        Repository.create(tmp_path / "other", clock=clock)
    with pytest.raises(RepositoryMissing):
        Repository.open(tmp_path / "other", clock)
    with pytest.raises(RepositoryMissing):
        Repository.open(tmp_path / "nothing", clock)


def test_a_creation_that_was_cut_short_can_be_repeated(tmp_path, clock):
    (tmp_path / "r" / "packs").mkdir(parents=True)
    (tmp_path / "r" / "journal").mkdir()
    (tmp_path / "r" / "journal" / "format.tmp").touch()
    Repository.create(tmp_path / "r", clock=clock).close()


def test_what_was_set_at_creation_is_kept(place, clock):
    with Repository.create(place, clock=clock, quota=1000, encrypted=True) as made:
        identity = made.repository_id
        assert (made.quota, made.encrypted, len(identity)) == (1000, True, 16)
    with Repository.open(place, clock) as opened:
        assert (opened.quota, opened.encrypted, opened.repository_id) == (1000, True, identity)


# -- the format file ------------------------------------------------------------------------------------------------


def test_a_future_version_or_feature_is_refused(repository, place):
    repository.close()
    raw = (place / "format").read_bytes()
    (place / "format").write_bytes(raw[:8] + b"\0\0\0\2" + raw[12:])
    with pytest.raises(UnsupportedFormat, match="version 2"):
        Repository.open(place, ManualClock())
    (place / "format").write_bytes(format_file.encode(Format(id=bytes(16), created_ns=0, features=["erasure-code"])))
    for writable in (True, False):
        with pytest.raises(UnsupportedFormat, match="erasure-code"):
            Repository.open(place, ManualClock(), writable=writable)


def test_every_flipped_bit_and_every_cut_of_the_format_file_is_refused(repository, place):
    raw = (place / "format").read_bytes()
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            format_file.decode(bytes(flipped))
    for length in range(len(raw)):
        with pytest.raises(DamagedData):
            format_file.decode(raw[:length])
    with pytest.raises(DamagedData):
        format_file.decode(raw + b"\0")


# -- the index ------------------------------------------------------------------------------------------------------


def test_a_lost_index_is_made_anew(repository, record, place):
    fill(repository, record, 1, 2)
    repository.close()
    for path in (place / "index").iterdir():
        path.unlink()
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.index_rebuilt == "there was no index"
        assert known(opened, record, 1, 2) == [True, True]
        assert opened.scrub().clean


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 1000, None])
def test_a_damaged_index_is_made_anew(repository, record, place, damage):
    fill(repository, record, 1, 2)
    repository.close()
    path = place / "index" / "chunks.db"
    if damage is None:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
    else:
        path.write_bytes(damage)
    with Repository.open(place, ManualClock(), writable=False) as reading:
        report = reading.scrub()
        assert report.repairable
        assert not report.damage
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.index_rebuilt
        assert known(opened, record, 1, 2) == [True, True]
        assert opened.scrub().clean


def test_the_index_of_another_repository_is_not_taken(repository, record, place, clock, tmp_path):
    with Repository.create(tmp_path / "other", clock=clock) as other:
        fill(other, record, 9)
    fill(repository, record, 1)
    repository.close()
    for name in ("chunks.db", "seal"):
        (place / "index" / name).write_bytes((tmp_path / "other" / "index" / name).read_bytes())
    with Repository.open(place, ManualClock()) as opened:
        assert known(opened, record, 1, 9) == [True, False]


def test_a_pack_that_the_index_lacks_is_entered_at_open(repository, record, place):
    fill(repository, record, 1)
    repository.close()
    saved = {path.name: path.read_bytes() for path in (place / "index").iterdir()}
    with Repository.open(place, ManualClock()) as opened:
        fill(opened, record, 2)
    for name, raw in saved.items():
        (place / "index" / name).write_bytes(raw)
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.reconciled.added == 1
        assert known(opened, record, 1, 2) == [True, True]


@pytest.mark.parametrize(("at", "known"), [(20, False), (500, True), (-20, True)])
def test_a_pack_that_the_disk_cannot_read_keeps_nobody_out(repository, record, place, bad_sector, at, known):
    """Without its footer a pack is entered by its records; without its header it is not, and nothing else is lost."""
    names = []
    for number in range(2):
        writer = repository.writer(DOMAIN, "t")
        writer.append(record(number, size=1000))
        writer.close()
        names += [path for path in (place / "packs").glob("*/*") if path not in names]
    repository.close()
    (place / "index" / "chunks.db").unlink()
    bad_sector(names[0], at % names[0].stat().st_size)
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.reconciled.damaged == (not known)
        assert opened.have(DOMAIN, [record(n).chunk_id for n in range(2)]) == [(KEY,) if known else (), (KEY,)]


def test_a_pack_that_is_gone_is_dropped_at_open(repository, record, place):
    fill(repository, record, 1, 2)
    repository.close()
    next((place / "packs").glob("*/*")).unlink()
    with Repository.open(place, ManualClock(), writable=False) as reading:
        assert reading.scrub().damage_count == 1
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.reconciled.dropped == 1
        assert sorted(known(opened, record, 1, 2)) == [False, True]
        assert opened.scrub().clean


def test_an_ordinary_open_lists_no_folder_of_packs(repository, record, place, clock, monkeypatch):
    fill(repository, record, *range(20))
    clock.wall_ns = time.time_ns() + 10**9
    repository.close()
    listed: list[object] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": (listed.append(str(path)), real(path))[1])
    Repository.open(place, clock).close()
    assert not [path for path in listed if "packs" in str(path)]


def test_the_index_is_rebuilt_while_readers_read(repository, record):
    fill(repository, record, *range(5))
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            try:
                if known(repository, record, *range(5)) != [True] * 5:
                    wrong.append("unknown")
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert repository.rebuild_index().added == 5
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    fill(repository, record, 7)
    assert known(repository, record, 7) == [True]
    assert repository.scrub().clean


@pytest.mark.parametrize("writable", [False, True])
def test_a_damaged_index_without_a_seal_yields_documented_errors_and_never_a_wrong_chunk(
    repository, record, place, writable
):
    """As after a crash: no seal says that the index is not what it was. Open for writing, it can be made anew."""
    fill(repository, record, *range(12))
    repository.close()
    (place / "index" / "seal").unlink()
    path = place / "index" / "chunks.db"
    whole = path.read_bytes()
    dice = random.Random(5)
    used = [at for at in range(len(whole)) if whole[at]]
    for _ in range(60 if writable else 250):
        raw = bytearray(whole)
        raw[dice.choice(used)] ^= 1 << dice.randrange(8)
        for leftover in (place / "index").iterdir():
            leftover.unlink()
        path.write_bytes(raw)
        try:
            with Repository.open(place, ManualClock(), writable=writable) as opened:
                opened.scrub()
                for number in range(12):
                    try:
                        assert opened.read(DOMAIN, record(number).chunk_id).stored == record(number).stored
                    except TransporterError:
                        pass
                if writable:
                    opened.rebuild_index()
                    assert known(opened, record, *range(12)) == [True] * 12
                    assert opened.scrub().clean
        except TransporterError:
            assert not writable

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path
from types import ModuleType

import pytest

from transporter.clock import ManualClock
from transporter.errors import DamagedData
from transporter.repository import ChunkMissing, Repository, files

DOMAIN, KEY = b"D" * 16, b"K" * 32


def load_campaign() -> ModuleType:
    path = Path(__file__).parents[1] / "crash" / "campaign_bitflip.py"
    spec = importlib.util.spec_from_file_location("campaign_bitflip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def filled(repository, record, monkeypatch):
    """Three packs of several records, one point that needs them all, two slots."""
    monkeypatch.setattr("transporter.repository.limits.PACK_TARGET", 1000)
    writer = repository.writer(DOMAIN, "t")
    for number in range(12):
        writer.append(record(number))
    writer.close()
    needs = b"".join(record(number).chunk_id for number in range(12))
    for slot in (b"1", b"2"):
        repository.put_slot(b"p" * 16, slot * 16, b"slot" + slot)
    repository.commit_point("t", "j", b"p" * 16, b"head", needs, domain=DOMAIN)
    return repository


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0x10
    path.write_bytes(raw)


def packs(repository) -> list[Path]:
    return sorted((repository.path / "packs").glob("*/*"))


def test_a_sound_repository_is_clean_and_everything_is_counted(filled):
    seen: list[object] = []
    report = filled.scrub(seen.append)
    assert report.clean
    assert (report.packs, report.records, report.points, report.slots) == (len(packs(filled)), 12, 1, 2)
    assert report.bytes >= sum(path.stat().st_size for path in packs(filled))
    assert len(seen) == report.packs
    assert (seen[-1].packs_done, seen[-1].packs_total) == (report.packs, report.packs)


def test_flipped_bits_anywhere_are_found(tmp_path):
    """The campaign in small: sampled evenly over all files; what it must not find is a flip that nobody notices."""
    campaign = load_campaign()
    campaign.build(tmp_path / "repository")
    assert campaign.run(tmp_path / "repository", count=400, seed=7) == []


def test_the_campaign_would_notice_a_flip_that_is_not_found(tmp_path, monkeypatch):
    campaign = load_campaign()
    campaign.build(tmp_path / "repository")
    monkeypatch.setattr("transporter.repository.points.prove", lambda *_: None)
    missed = campaign.run(tmp_path / "repository", count=300, seed=7)
    assert missed
    assert all("points" in where or "slots" in where for where, _bit in missed)


def test_the_damaged_chunks_and_the_points_that_need_them_are_named(filled, record):
    victim = record(3)
    for path in packs(filled):
        at = path.read_bytes().find(bytes(victim.stored))
        if at >= 0:
            flip(path, at + 50)
            name = path.name
    report = filled.scrub()
    assert [pack.hex() for pack in report.damaged_packs] == [name]
    assert report.damaged_chunks == [(DOMAIN, victim.chunk_id)]
    assert any("points/t/j" in finding.where and "1 chunks" in finding.what for finding in report.damage)
    assert not report.repairable


def test_a_damaged_footer_hits_no_chunk(filled):
    flip(packs(filled)[0], -10)
    report = filled.scrub()
    assert len(report.damaged_packs) == 1
    assert not report.damaged_chunks


def test_a_pack_that_is_cut_is_found(filled):
    path = packs(filled)[0]
    path.write_bytes(path.read_bytes()[:-600])
    report = filled.scrub()
    assert len(report.damaged_packs) == 1
    assert report.damaged_chunks


def test_a_pack_that_is_gone_is_found_and_so_are_its_points(filled):
    packs(filled)[0].unlink()
    assert filled.scrub().damage_count >= 1
    filled.close()
    with Repository.open(filled.path, ManualClock()) as opened:
        (finding,) = opened.scrub().damage
        assert finding.where.startswith("points/t/j")


def test_what_the_index_does_not_know_or_knows_wrongly_is_repairable(filled, record):
    for change in (
        "DELETE FROM chunks WHERE rowid_is = 1",
        "UPDATE chunks SET offset = offset + 1 WHERE chunk = ?",
        "UPDATE chunks SET stored = 5 WHERE chunk = ?",
        "DELETE FROM chunks WHERE chunk = ?",
        "DELETE FROM packs WHERE no = 1",
        "UPDATE chunks SET chunk = x'00' WHERE chunk = ?",
        "INSERT INTO chunks SELECT domain, x'01', key, pack, offset, stored, plain, codec, doomed FROM chunks"
        " WHERE chunk = ?",
    ):
        if "rowid_is" in change:
            continue
        values = (record(2).chunk_id,) if "?" in change else ()
        with filled._index.transaction() as connection:
            connection.execute(change, values)
        report = filled.scrub()
        assert report.repairable, change
        assert not report.damaged_packs, change
        filled.rebuild_index()
        assert filled.scrub().clean, change


def test_strangers_are_noted_and_do_no_harm(filled):
    (filled.path / "readme.txt").write_text("hello")
    (packs(filled)[0].parent / "thumbs.db").write_text("x")
    (filled.path / "points" / "t" / "j" / "note").write_text("x")
    report = filled.scrub()
    assert report.clean
    assert len(report.notes) == 3


def test_a_scrub_beside_a_live_writer_is_clean(filled, record):
    writer = filled.writer(DOMAIN, "t")
    writer.append(record(50))
    with Repository.open(filled.path, ManualClock(), writable=False) as reading:
        report = reading.scrub()
        assert report.clean
        assert len(report.notes) == 1
    writer.close()


def test_damage_inside_a_journal_is_found_and_a_torn_end_is_not_damage(filled, record):
    writer = filled.writer(DOMAIN, "t")
    writer.append(record(50))
    writer.append(record(51))
    (path,) = (filled.path / "journal").glob("*.pack")
    writer.sync()
    raw = path.read_bytes()[: writer._current.length]
    path.write_bytes(raw[:-20])
    assert filled.scrub().clean
    path.write_bytes(raw)
    flip(path, raw.find(bytes(record(50).stored)) + 3)
    assert filled.scrub().damaged_chunks == [(DOMAIN, record(50).chunk_id)]
    writer.abandon()


def test_a_sample_looks_at_a_share_of_the_packs(filled, record):
    class Dice(ManualClock):
        def random_bytes(self, count: int) -> bytes:
            return random.Random(self._drawn).randbytes(count) if self.tick() else b""

        def tick(self) -> bool:
            self._drawn += 1
            return True

    filled.close()
    with Repository.open(filled.path, Dice(), writable=False) as reading:
        total = len(packs(filled))
        assert reading.scrub(sample=0.0).packs == 0
        assert reading.scrub(sample=1.0).packs == total
        seen = [reading.scrub(sample=0.5).packs for _ in range(30)]
        assert 0 < sum(seen) < 30 * total


def test_reports_are_bounded(filled, monkeypatch):
    monkeypatch.setattr("transporter.repository.limits.REPORTED", 1)
    for path in packs(filled):
        flip(path, 200)
    report = filled.scrub()
    assert len(report.damage) == len(report.damaged_packs) == 1
    assert report.damage_count >= 2


# -- healing --------------------------------------------------------------------------------------------------------


def test_healing_keeps_the_sound_records_and_forgets_the_others(filled, record):
    path = next(path for path in packs(filled) if path.read_bytes().find(bytes(record(3).stored)) > 0)
    flip(path, path.read_bytes().find(bytes(record(3).stored)) + 9)
    report = filled.scrub()
    healed = filled.heal(report.damaged_packs)
    assert healed.lost == 1
    assert healed.saved >= 1
    assert filled.have(DOMAIN, [record(3).chunk_id]) == [()]
    with pytest.raises(ChunkMissing):
        filled.read(DOMAIN, record(3).chunk_id)
    for number in (*range(3), *range(4, 12)):
        assert filled.read(DOMAIN, record(number).chunk_id).key_id == KEY
    assert (filled.path / "quarantine" / path.name).exists()
    after = filled.scrub()
    assert not after.damaged_packs
    assert [finding.where.split("/")[0] for finding in after.damage] == ["points"]
    writer = filled.writer(DOMAIN, "t")
    writer.append(record(3))
    writer.close()
    assert filled.scrub().clean
    filled.rebuild_index()
    assert filled.scrub().clean


@pytest.mark.parametrize("offset", [5, 30, -5, -100])
def test_a_pack_whose_header_or_footer_alone_is_hit_heals_without_loss(filled, record, offset):
    flip(packs(filled)[0], offset)
    assert filled.heal(filled.scrub().damaged_packs).lost == 0
    assert filled.scrub().clean


def test_a_pack_that_says_nothing_any_more_is_set_aside_and_the_index_tells_what_was_in_it(filled):
    path = packs(filled)[0]
    name = bytes.fromhex(path.name)
    entries = filled._index.entries_of_pack(name)
    path.write_bytes(os.urandom(path.stat().st_size))
    assert filled.heal(filled.scrub().damaged_packs).lost == len(entries) > 0
    assert not path.exists() and (filled.path / "quarantine" / path.name).exists()
    assert {chunk.chunk_id for _tenant, chunk in filled.lost_chunks()} == {entry.chunk_id for entry in entries}


def test_a_pack_of_which_nobody_knows_whose_it_is_is_left_alone(filled):
    path = packs(filled)[0]
    path.write_bytes(os.urandom(path.stat().st_size))
    filled.rebuild_index()
    report = filled.scrub()
    with pytest.raises(DamagedData, match="whose it is"):
        filled.heal(report.damaged_packs)
    assert path.exists()
    assert list((filled.path / "journal").iterdir()) == []


@pytest.fixture
def twice(repository, record):
    """Two packs that hold record 1, and each one more; returns the repository and the pack that is its place."""
    first, second = repository.writer(DOMAIN, "t"), repository.writer(DOMAIN, "t")
    for number, writer in ((2, first), (3, second)):
        writer.append(record(number))
        writer.append(record(1))
    first.close()
    second.close()
    (place,) = repository._index.locate(DOMAIN, [record(1).chunk_id])
    return repository, repository.path / "packs" / place.pack.hex()[:2] / place.pack.hex()


@pytest.mark.parametrize("how", ["heal", "heal what is gone", "gone at open"])
def test_a_chunk_that_lies_in_another_pack_too_stays_known(twice, record, clock, how):
    repository, path = twice
    if how == "heal":
        flip(path, path.read_bytes().find(bytes(record(1).stored)) + 9)
    else:
        path.unlink()
    if how == "gone at open":
        repository.close()
        os.utime(path.parent, ns=(1, 1))
        with Repository.open(repository.path, clock) as opened:
            assert opened.opened.reconciled.dropped == 1
            assert opened.read(DOMAIN, record(1).chunk_id).stored == record(1).stored
            assert opened.scrub().clean
        return
    repository.heal([bytes.fromhex(path.name)])
    assert repository.read(DOMAIN, record(1).chunk_id).stored == record(1).stored
    assert repository.scrub().clean


def test_a_pack_that_is_gone_does_not_keep_the_others_from_being_healed(filled, record):
    gone, hit, _sound = packs(filled)
    gone.unlink()
    flip(hit, hit.stat().st_size // 2)
    report = filled.scrub()
    known = sum(bool(keys) for keys in filled.have(DOMAIN, [record(n).chunk_id for n in range(12)]))
    assert known == 12
    healed = filled.heal([bytes.fromhex(gone.name), *report.damaged_packs])
    assert healed.lost > healed.saved > 0
    assert sum(bool(keys) for keys in filled.have(DOMAIN, [record(n).chunk_id for n in range(12)])) == 12 - healed.lost
    assert not filled.scrub().damaged_packs


def test_a_disk_that_fails_while_it_is_healed_is_told(filled, record, monkeypatch):
    path = packs(filled)[0]
    flip(path, path.stat().st_size // 2)
    damaged = filled.scrub().damaged_packs
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_data", lambda _fd: (_ for _ in ()).throw(OSError(5, "broken")))
        with pytest.raises(DamagedData, match="the disk of the repository fails"):
            filled.heal(damaged)
    assert path.exists()
    filled.heal(damaged)
    assert not filled.scrub().damaged_packs


def test_a_record_that_the_disk_cannot_read_is_lost_alone(filled, record, bad_sector, monkeypatch):
    path = packs(filled)[0]
    bad_sector(path, path.stat().st_size - 800)  # in the last records, before the footer
    healed = filled.heal([bytes.fromhex(path.name)])
    monkeypatch.undo()
    assert (healed.lost, healed.saved > 0) == (1, True)
    assert not filled.scrub().damaged_packs

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.repository import Repository, files
from transporter.repository.errors import DamagedIndex
from transporter.repository.index import Index
from transporter.repository.salvage import Salvaged

DOMAIN, KEY = b"D" * 16, b"K" * 32


def journal_of(repository, record, count: int) -> bytes:
    """Return the bytes of a journal with ``count`` records, and leave the repository closed."""
    writer = repository.writer(DOMAIN, "t")
    for number in range(count):
        writer.append(record(number))
    writer.sync()
    length = writer._current.length  # the padding behind it is another test
    (path,) = (repository.path / "journal").glob("*.pack")
    repository.close()
    raw = path.read_bytes()[:length]
    path.unlink()
    return raw


def test_a_journal_cut_anywhere_gives_its_whole_records(repository, record, place, tmp_path):
    raw = journal_of(repository, record, 3)
    size = 128 + len(record(0).stored)
    start = len(raw) - 3 * size
    with Repository.open(place, ManualClock()) as opened:
        for length in sorted({*range(0, len(raw) + 1, 13), start, start + size, start + size - 1, len(raw)}):
            (place / "journal" / "left.pack").write_bytes(raw[:length])
            whole = max(0, (length - start) // size)
            assert opened.salvage().records == whole
            expected = [(KEY,)] * whole + [()] * (3 - whole)
            assert opened.have(DOMAIN, [record(n).chunk_id for n in range(3)]) == expected
            assert list((place / "journal").iterdir()) == []
            assert opened.scrub().clean
            for pack in (place / "packs").glob("*/*"):
                pack.unlink()
                opened._index.drop_pack(bytes.fromhex(pack.name))


def test_zeros_or_rubbish_behind_the_last_record_go(repository, record, place):
    raw = journal_of(repository, record, 2)
    for tail in (bytes(5000), b"REC1" + os.urandom(3000), raw[-200:]):
        (place / "journal" / "left.pack").write_bytes(raw + tail)
        with Repository.open(place, ManualClock()) as opened:
            assert opened.opened.salvaged == Salvaged(1, 2, len(tail), 0)
            assert opened.scrub().clean


def test_a_journal_with_its_footer_is_published_as_it_is(repository, record, place, monkeypatch):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    monkeypatch.setattr(files, "link", lambda *_: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(Exception, match="publish"):
        writer.seal()
    monkeypatch.undo()
    repository.close()
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.salvaged == Salvaged(1, 1, 0, 0)
        assert opened.have(DOMAIN, [record(1).chunk_id]) == [(KEY,)]


def test_what_is_torn_before_its_first_record_goes(repository, place):
    repository.close()
    (place / "journal" / "a.pack").write_bytes(b"")
    (place / "journal" / "b.pack").write_bytes(b"TPPACK01" + bytes(100))
    (place / "journal" / "c.tmp").write_bytes(b"half a point")
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.salvaged.bytes_dropped == 108
        assert list((place / "journal").iterdir()) == []


def test_a_journal_that_cannot_be_ours_is_set_aside_not_deleted(repository, record, place):
    raw = bytearray(journal_of(repository, record, 5))
    raw[10] ^= 1
    (place / "journal" / "left.pack").write_bytes(raw)
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.salvaged.set_aside == 1
        assert (place / "quarantine" / "left.pack").read_bytes() == raw


def test_a_published_pack_that_still_has_its_journal_name_is_never_changed(repository, record, place):
    """A crash between link and unlink, and then a flipped bit: salvage must not cut what is a pack by now."""
    writer = repository.writer(DOMAIN, "t")
    for number in range(3):
        writer.append(record(number))
    writer.close()
    repository.close()
    pack = next((place / "packs").glob("*/*"))
    os.link(pack, place / "journal" / "left.pack")
    raw = bytearray(pack.read_bytes())
    raw[raw.find(bytes(record(2).stored)) + 5] ^= 1
    pack.write_bytes(raw)
    with Repository.open(place, ManualClock()) as opened:
        assert pack.read_bytes() == raw
        assert list((place / "journal").iterdir()) == []
        assert [name.hex() for name in opened.scrub().damaged_packs] == [pack.name]
        assert opened.have(DOMAIN, [record(2).chunk_id]) == [(KEY,)]


def test_a_copied_repository_with_a_leftover_journal_is_fine(repository, record, place, tmp_path):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    writer.sync()
    writer.append(record(2))
    copy = Path(shutil.copytree(place, tmp_path / "copy"))  # taken while the writer is at work
    writer.close()
    with Repository.open(copy, ManualClock()) as opened:
        assert opened.have(DOMAIN, [record(1).chunk_id]) == [(KEY,)]
        assert opened.scrub().clean


def test_tenants_survive_salvage_and_rebuild(repository, record, place):
    for tenant in ("alpha", "b/e/t/a"):
        writer = repository.writer(DOMAIN, tenant)
        writer.append(record(len(tenant)))
        writer.sync()
    repository.close()
    with Repository.open(place, ManualClock()) as opened:
        before = opened.statistics().tenants
        assert [usage.tenant for usage in before] == ["alpha", "b/e/t/a"]
        opened.rebuild_index()
        assert opened.statistics().tenants == before


def test_the_journal_name_goes_after_the_index_knows_the_pack(repository, record, place, monkeypatch):
    writer = repository.writer(DOMAIN, "t")
    writer.append(record(1))
    monkeypatch.setattr(repository._index, "add_pack", lambda *_: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(Exception, match="publish"):
        writer.seal()
    assert len(list((place / "packs").glob("*/*"))) == 1
    assert len(list((place / "journal").iterdir())) == 1
    monkeypatch.undo()
    assert writer.close() == [record(1).chunk_id]
    assert repository.scrub().clean


@pytest.mark.parametrize("at", [20, 400])
def test_a_journal_that_the_disk_cannot_read_keeps_nobody_out(repository, record, place, bad_sector, monkeypatch, at):
    raw = journal_of(repository, record, 3)
    for name in ("a.pack", "b.pack"):
        (place / "journal" / name).write_bytes(raw)
    bad_sector(place / "journal" / "a.pack", at)
    with Repository.open(place, ManualClock()) as opened:
        assert opened.opened.salvaged.records == 3, "the other journal was salvaged"
        assert "a.pack" in opened.opened.unfinished
        opened.writer(DOMAIN, "t").close()
        opened.writer(DOMAIN, "t").close()
        assert [path.name for path in (place / "journal").glob("*.pack")] == ["a.pack"]
        monkeypatch.undo()
        assert opened.salvage().records == 3, "the disk can read it again"
        assert opened.scrub().clean


def test_a_damaged_index_is_not_taken_for_a_damaged_journal(repository, record, place, monkeypatch):
    raw = journal_of(repository, record, 3)

    def broken(*_: object) -> None:
        raise DamagedIndex("the index is damaged", "make it anew")

    with Repository.open(place, ManualClock()) as opened:
        (place / "journal" / "left.pack").write_bytes(raw)
        monkeypatch.setattr(Index, "add_pack", broken)
        with pytest.raises(DamagedIndex):
            opened.salvage()


def test_what_lies_behind_a_damaged_record_is_kept(repository, record, place):
    raw = journal_of(repository, record, 5)
    size = 128 + len(record(0).stored)
    for hit in range(5):
        damaged = bytearray(raw)
        damaged[len(raw) - (5 - hit) * size + 128] ^= 1
        (place / "journal" / "left.pack").write_bytes(damaged + bytes(3000))
        with Repository.open(place, ManualClock()) as opened:
            assert opened.opened.salvaged.records == 4
            known = [bool(keys) for keys in opened.have(DOMAIN, [record(n).chunk_id for n in range(5)])]
            assert known == [number != hit for number in range(5)]
            assert list((place / "journal").iterdir()) == []
            assert opened.scrub().clean
            for pack in (place / "packs").glob("*/*"):
                pack.unlink()
                opened._index.drop_pack(bytes.fromhex(pack.name))


@pytest.mark.parametrize("step", ["sync", "link", "unlink"])
def test_a_copy_of_a_damaged_journal_that_was_cut_off_is_made_again(repository, record, place, monkeypatch, step):
    raw = bytearray(journal_of(repository, record, 3))
    raw[-400] ^= 1
    (place / "journal" / "left.pack").write_bytes(raw)
    really = getattr(files, step)

    def cut_off(*args: object) -> None:
        if step != "unlink" or str(args[0]).endswith("left.pack"):
            raise KeyboardInterrupt
        really(*args)

    with monkeypatch.context() as patched:
        patched.setattr(files, step, cut_off)
        with pytest.raises(KeyboardInterrupt):
            Repository.open(place, ManualClock())
    with Repository.open(place, ManualClock()) as opened:
        assert [bool(k) for k in opened.have(DOMAIN, [record(n).chunk_id for n in range(3)])] == [True, False, True]
        assert list((place / "journal").iterdir()) == []
        assert len(list((place / "packs").glob("*/*"))) == 1
        assert opened.scrub().clean


def test_a_damaged_journal_that_is_published_already_is_never_changed(repository, record, place):
    raw = bytearray(journal_of(repository, record, 3))
    raw[-400] ^= 1
    pack = place / "packs" / "ab" / ("ab" * 32)
    pack.parent.mkdir(exist_ok=True)
    pack.write_bytes(raw)
    os.link(pack, place / "journal" / "left.pack")
    with Repository.open(place, ManualClock()):
        assert list((place / "journal").iterdir()) == []
        assert pack.read_bytes() == raw
        assert list((place / "packs").glob("*/*")) == [pack]

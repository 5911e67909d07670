from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from transporter.catalog import SCHEMA_VERSION, Catalog, Invitation, LastPoint, Peer
from transporter.errors import ConfigError, DamagedData, DiskFull, IdentityRefused, JobFailed, UnsupportedFormat

PIN = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "catalog.db"


@pytest.fixture
def catalog(path):
    with Catalog(path) as catalog:
        yield catalog


def test_it_is_private_and_kept(path):
    with Catalog(path) as catalog:
        catalog.put_peer(Peer("offsite", PIN, "host:1"))
    assert path.stat().st_mode & 0o777 == 0o600
    with Catalog(path) as catalog:
        assert catalog.peer("offsite") == Peer("offsite", PIN, "host:1")


def test_what_a_peer_may_do_adds_up(catalog):
    catalog.put_peer(Peer("p", PIN, "host:1", offers=("a",), added_ns=5))
    catalog.put_peer(Peer("p", PIN, tenant="t", offers=("b",), rights=("mine",), added_ns=9))
    expected = Peer("p", PIN, "host:1", "t", ("a", "b"), ("mine",), 5)
    assert catalog.peers() == [expected]
    assert catalog.peer_by_pin(PIN) == expected
    assert catalog.peer_by_pin(bytes(32)) is None


def test_a_name_or_a_key_cannot_be_taken_over(catalog):
    catalog.put_peer(Peer("p", PIN))
    with pytest.raises(IdentityRefused, match="another identity"):
        catalog.put_peer(Peer("p", bytes(32), rights=("mine",)))
    with pytest.raises(IdentityRefused, match="known already, as 'p'"):
        catalog.put_peer(Peer("q", PIN))
    assert catalog.peers() == [Peer("p", PIN)]


def test_a_removed_peer_has_no_rights_left(catalog):
    catalog.put_peer(Peer("p", PIN, rights=("mine",)))
    assert catalog.remove_peer("p")
    assert not catalog.remove_peer("p")
    catalog.put_peer(Peer("p", PIN))
    assert catalog.peer("p") == Peer("p", PIN)


def test_an_invitation_works_once_and_in_time(catalog):
    for number in (1, 2):
        catalog.add_invitation(Invitation(bytes([number]) * 32, "main", 100))
    assert catalog.use_invitation(b"\1" * 32, 99).repository == "main"
    with pytest.raises(IdentityRefused, match="used already"):
        catalog.use_invitation(b"\1" * 32, 99)
    with pytest.raises(IdentityRefused, match="expired"):
        catalog.use_invitation(b"\2" * 32, 100)
    with pytest.raises(IdentityRefused, match="does not know this invitation"):
        catalog.use_invitation(b"\3" * 32, 1)
    assert [one.used_ns for one in catalog.invitations()] == [99, None]
    assert "\\x01" not in repr(catalog.invitations())


def test_an_invitation_works_once_for_many_at_the_same_time(path, catalog):
    catalog.add_invitation(Invitation(PIN, "main", 100))
    outcomes = []

    def take():
        with Catalog(path) as mine:
            try:
                mine.use_invitation(PIN, 1)
                outcomes.append("taken")
            except IdentityRefused:
                outcomes.append("refused")

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 5 + ["taken"]


def test_the_history_of_jobs(catalog):
    first = catalog.run_started("docs", "backup", 1)
    second = catalog.run_started("docs", "restore", 2)
    other = catalog.run_started("logs", "backup", 3)
    catalog.run_finished(first, finished_ns=4, exit_status=0, point=b"p" * 16, statistics={"files": 3})
    catalog.run_finished(other, finished_ns=5, exit_status=4, code="cannot-connect", what="no answer")
    assert [run.run_id for run in catalog.runs()] == [other, second, first]
    restore, backup = catalog.runs("docs")
    assert (restore.exit_status, restore.finished_ns) == (None, None)
    assert (backup.point, backup.statistics) == (b"p" * 16, {"files": 3})
    assert catalog.runs(limit=1)[0].code == "cannot-connect"


def test_the_last_point(catalog):
    assert catalog.last_point("docs") is None
    old = LastPoint("docs", "a/b", b"p" * 16, b"h" * 32, b"d" * 16, Path("/m"), 3)
    new = LastPoint("docs", "a/b", b"q" * 16, b"i" * 32, b"d" * 16, Path("/m"), 4)
    catalog.put_last_point(old)
    catalog.put_last_point(new)
    assert catalog.last_point("docs") == new


def test_a_catalog_of_a_newer_version_is_refused_untouched(path):
    Catalog(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(UnsupportedFormat, match="newer version"):
        Catalog(path)


def test_a_file_that_is_no_database_is_named(path):
    path.write_bytes(b"no database, " * 100)
    with pytest.raises(ConfigError, match=r"catalog\.db cannot be used") as caught:
        Catalog(path)
    assert "put back a copy" in caught.value.remedy


@pytest.mark.parametrize("cache", [-2000, 1], ids=["at the commit", "before it"])
def test_a_full_disk_is_told_as_such_and_leaves_the_catalog_usable(catalog, cache):
    (pages,) = catalog._database.execute("PRAGMA page_count").fetchone()
    catalog._database.execute(f"PRAGMA cache_size = {cache}")
    catalog._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFull, match="no room left for the catalog"):
        catalog.run_started("docs" * 50_000, "backup", 1)
    catalog._database.execute("PRAGMA max_page_count = 1000000")
    number = catalog.run_started("docs", "backup", 2)
    assert [run.run_id for run in catalog.runs()] == [number]


def test_damage_is_told_as_such(path):
    with Catalog(path) as catalog:
        for number in range(2000):
            catalog.run_started(f"a job of some length {number}", "backup", number)
    content = path.read_bytes()
    path.write_bytes(content[:40_960] + b"\xa5" * (len(content) - 40_960))
    with Catalog(path) as catalog:
        with pytest.raises(DamagedData, match=r"the catalog .* is damaged"):
            catalog.runs(limit=5000)
        with pytest.raises(DamagedData, match=r"the catalog .* is damaged"):
            catalog.run_finished(1999, finished_ns=1, exit_status=0)


def test_another_process_that_does_not_let_go_is_told_as_such(path, monkeypatch):
    monkeypatch.setattr("transporter.catalog.BUSY_TIMEOUT", 0.05)
    words = pytest.raises(JobFailed, match="does not let go")
    with Catalog(path) as mine, Catalog(path) as other, other._transaction(), words:
        mine.run_started("docs", "backup", 1)


def test_two_writers_wait_for_each_other(path):
    def write(name):
        with Catalog(path) as catalog:
            for number in range(20):
                catalog.run_started(name, "backup", number)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Catalog(path) as catalog:
        assert len(catalog.runs()) == 40

"""Files of the home that several processes open at once, new ones among them, or that this user may not open."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from transporter.catalog import Catalog
from transporter.database_errors import use_write_ahead_log
from transporter.errors import ConfigError, JobFailed
from transporter.keys.database import KeyDatabase


def hold(path, statement="BEGIN IMMEDIATE"):
    """Another process in the midst of writing to a new file."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(statement)
    return other


@pytest.fixture
def told(monkeypatch):
    """Have each new connection call ``told[0]()`` when it meets a lock, before anybody hears of it."""
    calls = []

    class Telling(sqlite3.Connection):
        def execute(self, *arguments):
            try:
                return super().execute(*arguments)
            except sqlite3.OperationalError:
                calls[0]()
                raise

    really_connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **how: really_connect(*args, factory=Telling, **how))
    return calls


@pytest.mark.parametrize("kind", [Catalog, KeyDatabase])
def test_a_new_file_that_another_process_is_just_making_is_waited_for(tmp_path, told, kind):
    """SQLite refuses at once the second of two that switch a file to a write-ahead log."""
    path = tmp_path / "new.db"
    path.touch(0o600)
    with closing(hold(path)) as other:
        told.append(lambda: other.in_transaction and other.execute("COMMIT"))
        kind(path).close()
        assert not other.in_transaction, "it met the lock"


def refused(path):
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    with closing(connection), pytest.raises(sqlite3.OperationalError, match="locked"):
        use_write_ahead_log(connection)


def test_a_file_that_stays_locked_is_told_and_not_asked_for_for_ever(tmp_path):
    path = tmp_path / "new.db"
    with closing(hold(path)):
        refused(path)
    with closing(hold(path, "CREATE TABLE t (x)")) as reader:
        reader.execute("INSERT INTO t VALUES (1), (2)")
        rows = reader.execute("SELECT x FROM t")
        next(rows)  # it never reads to the end
        refused(path)


def test_what_is_no_lock_is_raised_as_it_is(tmp_path):
    path = tmp_path / "new.db"
    path.write_bytes(b"rubbish" * 1000)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        use_write_ahead_log(connection)


@pytest.mark.parametrize("kind", [Catalog, KeyDatabase])
@pytest.mark.parametrize("how", ["read-only", "not to be opened"])
def test_a_database_that_this_user_may_not_use_is_no_bug_and_nothing_to_move_away(tmp_path, monkeypatch, kind, how):
    path = tmp_path / "catalog.db"
    path.touch(0o600)
    really_connect = sqlite3.connect

    def connect(file, **options):
        if how == "read-only":
            return really_connect(f"file:{file}?mode=ro", uri=True, **options)
        return really_connect(tmp_path, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises((ConfigError, JobFailed), match=r"catalog\.db cannot be used") as caught:
        kind(path)
    assert "another user's" in caught.value.remedy and "move" not in caught.value.remedy

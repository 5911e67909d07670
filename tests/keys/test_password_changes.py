from __future__ import annotations

import sqlite3

import pytest

from transporter.errors import DamagedData, UnknownPassword, UsageError
from transporter.keys import database_schema, password_changes
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase, PasswordUse
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey

CHEAP = KdfParameters(8, 1, 1)
OLD, NEW = b"hunter2-the-password", b"a new and better one"
POINT, RUN = b"p" * 16, b"r" * 16


def events(database):
    return [entry["event"] for entry in database.audit.entries()]


@pytest.fixture
def office(database):
    return database.add_password("office", OLD, "the usual")


@pytest.fixture
def full(database, office):
    """Everything that can hang on a password."""
    keys = StorageKey.generate(), SessionKey.generate(), MetaKey.generate(), ChunkIdKey.generate()
    database.put_storage_key(POINT, keys[0], office)
    database.remember_run("docs", RUN, keys[1], keys[2], office)
    database.put_domain_key("docs", keys[3], office)
    return keys


@pytest.fixture
def many(database, office):
    """Six more storage keys, by point."""
    found = {bytes([number]) * 16: StorageKey.generate() for number in range(1, 7)}
    for point, key in found.items():
        database.put_storage_key(point, key, office)
    return found


def opens_everything(database, keys):
    (run,) = database.runs("docs")
    return (database.storage_key(POINT), run.session_key, run.metakey, database.domain_key("docs")) == keys


class TestChange:
    def test_the_new_password_takes_the_old_ones_place(self, tmp_path, database, office):
        new = database.change_password("office", NEW, "a riddle")
        assert new.hash == hash_password(NEW, new.salt, CHEAP) and new.salt != office.salt
        with KeyDatabase(tmp_path / "keys.db") as other:
            assert other.user_key("office") == new
            (info,) = other.list()
        assert info.hint == "a riddle" and info.changed_ns >= info.created_ns > 0

    def test_what_hangs_on_it_is_wrapped_anew(self, tmp_path, database, office, full):
        before = raw_rows(tmp_path)
        database.change_password("office", NEW)
        assert opens_everything(database, full)
        assert not before & raw_rows(tmp_path)

    def test_what_hangs_on_another_stays_as_it_is(self, database, office, full):
        other = database.add_password("other", b"another")
        key = StorageKey.generate()
        database.put_storage_key(b"q" * 16, key, other)
        database.change_password("office", NEW)
        assert database.storage_key(b"q" * 16) == key and database.user_key("other") == other

    def test_the_old_hash_is_at_hand_until_the_change_is_finished(self, database, office):
        new = database.change_password("office", NEW)
        assert database.find_by_salt(office.salt) == office
        assert database.find_by_salt(new.salt) == new
        (change,) = database.unfinished_changes()
        assert (change.name, change.old) == ("office", office.hash)
        assert database.unfinished_changes("other") == []
        database.finish_change(office.salt, replaced=3)
        assert database.find_by_salt(office.salt) is None and database.unfinished_changes() == []
        assert database.user_key("office") == new

    def test_finishing_twice_is_finishing_once(self, database, office):
        database.change_password("office", NEW)
        for _ in range(2):
            database.finish_change(office.salt, replaced=3)
        assert events(database) == ["password.add", "password.change", "password.changed"]

    def test_an_old_hash_is_nowhere_in_the_files_afterwards(self, tmp_path, database, office):
        database.change_password("office", NEW)
        sealed = rows_of(tmp_path, "SELECT sealed FROM password_changes")
        database.finish_change(office.salt, replaced=0)
        database.close()
        for path in tmp_path.iterdir():
            content = path.read_bytes()
            assert office.hash.raw not in content and OLD not in content and NEW not in content
            if path.name == "keys.db":
                assert not any(blob in content for (blob,) in sealed)

    def test_a_run_that_began_before_keeps_its_keys_under_the_new_password(self, database, office):
        database.change_password("office", NEW)
        session_key, metakey, storage_key = SessionKey.generate(), MetaKey.generate(), StorageKey.generate()
        database.remember_run("docs", RUN, session_key, metakey, office)  # its user key is the old one
        database.put_storage_key(POINT, storage_key, office)
        domain = database.ensure_domain_key("docs", office)
        database.finish_change(office.salt, replaced=0)
        assert opens_everything(database, (storage_key, session_key, metakey, domain))

    def test_an_unknown_name_an_empty_password_a_hint_that_tells(self, database, office):
        with pytest.raises(UnknownPassword):
            database.change_password("vault", NEW)
        with pytest.raises(UsageError, match="empty"):
            database.change_password("office", b"")
        with pytest.raises(UsageError, match="gives the password away"):
            database.change_password("office", NEW, f"it is {NEW.decode()}")
        assert database.user_key("office") == office and database.unfinished_changes() == []
        assert events(database) == ["password.add"]

    @pytest.mark.parametrize("step", ["_set_aside", "_replace"])
    def test_it_happens_whole_or_not_at_all(self, tmp_path, database, office, full, monkeypatch, step):
        real = getattr(password_changes.PasswordChanges, step)

        def dies_after(self, *arguments):
            real(self, *arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(password_changes.PasswordChanges, step, dies_after)
        with pytest.raises(KeyboardInterrupt):
            database.change_password("office", NEW)
        monkeypatch.undo()
        with KeyDatabase(tmp_path / "keys.db") as other:
            assert other.user_key("office") == office and other.unfinished_changes() == []
            assert opens_everything(other, full)

    @pytest.mark.parametrize("batches", range(6))
    def test_killed_between_batches_everything_opens_and_is_gone_on_with(
        self, tmp_path, database, office, full, many, monkeypatch, batches
    ):
        """2 rows of 7 storage keys at a time, a run and a domain: six transactions behind the first."""
        monkeypatch.setattr(password_changes, "BATCH", 2)
        left, real = [batches], password_changes.PasswordChanges._put_back

        def dies(self, *arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(self, *arguments)

        monkeypatch.setattr(password_changes.PasswordChanges, "_put_back", dies)
        with pytest.raises(KeyboardInterrupt):
            database.change_password("office", NEW)
        monkeypatch.setattr(password_changes.PasswordChanges, "_put_back", real)
        with KeyDatabase(tmp_path / "keys.db") as other:
            (change,) = other.unfinished_changes()
            assert opens_everything(other, full) and {point: other.storage_key(point) for point in many} == many
            other.finish_change(change.old.salt, replaced=0)
            assert other.unfinished_changes() == [] and other.find_by_salt(office.salt) is None
            # By the new one alone: there is no other any more.
            assert opens_everything(other, full) and {point: other.storage_key(point) for point in many} == many

    def test_others_use_the_database_meanwhile(self, tmp_path, database, office, full, many, monkeypatch):
        """Between any two batches; and what they store then is not undone."""
        monkeypatch.setattr(password_changes, "BATCH", 2)
        real, turns = password_changes.PasswordChanges._put_back, []

        with KeyDatabase(tmp_path / "keys.db") as other:

            def beside(self, *arguments):
                turns.append(None)
                point = sorted(many)[len(turns) % len(many)]
                many[point] = StorageKey.generate()
                other.put_storage_key(point, many[point], office)  # a run that began before the change
                assert other.storage_key(point) == many[point]
                real(self, *arguments)

            monkeypatch.setattr(password_changes.PasswordChanges, "_put_back", beside)
            database.change_password("office", NEW)
            monkeypatch.setattr(password_changes.PasswordChanges, "_put_back", real)
            assert len(turns) == 6
            database.finish_change(office.salt, replaced=0)
            assert {point: other.storage_key(point) for point in many} == many

    def test_an_altered_old_hash_is_damage(self, tmp_path, database, office):
        database.change_password("office", NEW)
        connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
        connection.execute("UPDATE password_changes SET sealed = (SELECT sealed FROM passwords)")
        connection.close()
        with pytest.raises(DamagedData):
            database.find_by_salt(office.salt)

    def test_not_again_before_it_is_finished(self, database, office, full):
        second = database.change_password("office", NEW)
        with pytest.raises(UsageError, match="not finished"):
            database.change_password("office", b"third")
        assert database.user_key("office") == second and opens_everything(database, full)
        database.finish_change(office.salt, replaced=0)
        database.change_password("office", b"third")

    def test_a_rotten_row_does_not_keep_a_password_from_being_changed(self, tmp_path, database, office, full):
        connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
        connection.execute("UPDATE storage_keys SET sealed = zeroblob(97)")
        connection.close()
        database.change_password("office", NEW)
        assert len(database.runs("docs")) == 1 and database.domain_key("docs") == full[3]

    def test_an_old_hash_is_gone_from_the_log_while_a_daemon_has_the_file_open(self, tmp_path, database, office):
        with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP) as daemon:
            assert daemon.user_key("office") == office
            database.change_password("office", NEW)
            sealed = rows_of(tmp_path, "SELECT sealed FROM password_changes")[0][0]
            database.finish_change(office.salt, replaced=0)
            assert not any(sealed[1:60] in path.read_bytes() for path in tmp_path.iterdir())

    def test_what_neither_opens_stays_as_it_is_and_ends_nothing(self, tmp_path, database, office, many):
        connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
        first = min(many)
        connection.execute("UPDATE storage_keys SET sealed = zeroblob(129) WHERE point = ?", (first,))
        connection.close()
        database.change_password("office", NEW)
        database.finish_change(office.salt, replaced=0)
        assert all(database.storage_key(point) == key for point, key in many.items() if point != first)


class TestRemove:
    def test_everything_below_it_goes_and_others_stay(self, database, office, full):
        other = database.add_password("other", b"another")
        assert database.use_of("office") == PasswordUse(1, 1, 1)
        assert database.use_of("other") == PasswordUse(0, 0, 0)
        assert database.remove_password("office") == PasswordUse(1, 1, 1)
        assert database.storage_key(POINT) is None and database.runs("docs") == ()
        assert database.find_by_salt(office.salt) is None
        assert database.user_key("other") == other
        assert events(database)[-1] == "password.remove"

    def test_an_unknown_one(self, database):
        for ask in (database.use_of, database.remove_password):
            with pytest.raises(UnknownPassword):
                ask("office")

    def test_not_while_its_change_is_unfinished(self, database, office):
        database.change_password("office", NEW)
        with pytest.raises(UsageError, match="not finished"):
            database.remove_password("office")
        database.finish_change(office.salt, replaced=0)
        database.remove_password("office")


class TestAudit:
    def test_no_deed_without_an_entry(self, database, office, monkeypatch):
        def fails(*_arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("transporter.keys.audit_trail.os.fsync", fails)
        with pytest.raises(Exception, match="audit trail"):
            database.change_password("office", NEW)
        with pytest.raises(Exception, match="audit trail"):
            database.remove_password("office")
        monkeypatch.undo()
        assert database.user_key("office") == office

    def test_the_database_remembers_how_far_it_goes(self, tmp_path, database, office):
        database.change_password("office", NEW)
        database.record("slots.replace", points=2)
        assert database.audit_head().number == 3
        assert database.audit.verify(database.audit_head()) == 3
        (tmp_path / "audit.log").write_bytes(b"".join((tmp_path / "audit.log").read_bytes().splitlines(True)[:2]))
        with pytest.raises(DamagedData, match="cut off"):
            database.audit.verify(database.audit_head())

    def test_what_it_remembers_cannot_be_forged(self, tmp_path, database, office):
        database.record("slots.replace", points=2)
        connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
        connection.execute("UPDATE meta SET value = (SELECT sealed FROM passwords) WHERE name = 'audit'")
        connection.close()
        with pytest.raises(DamagedData):
            database.audit_head()


def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path, database, office, full):
    database.close()
    connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
    first = ("meta", "passwords", "storage_keys", "runs", "domains", "plain_domains")
    for (later,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        if later not in first:
            connection.execute(f"DROP TABLE {later}")
    for column in ("changed_ns", "kms", "kms_wrapped"):
        connection.execute(f"ALTER TABLE passwords DROP COLUMN {column}")
    connection.execute("DELETE FROM meta WHERE name IN ('lock', 'home')")
    connection.execute("PRAGMA user_version = 1")
    tables = {row[0]: row[1] for row in connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")}
    connection.close()
    assert "changed_ns" not in tables["passwords"]
    with KeyDatabase(tmp_path / "keys.db", parameters=CHEAP) as again:
        assert again.user_key("office") == office and opens_everything(again, full)
        assert again.list()[0].changed_ns == 0
        again.change_password("office", NEW)
        assert opens_everything(again, full)
    assert rows_of(tmp_path, "PRAGMA user_version") == [(database_schema.SCHEMA_VERSION,)]


def rows_of(tmp_path, query):
    connection = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
    rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def raw_rows(tmp_path):
    tables = ("passwords", "storage_keys", "runs", "domains")
    return {row[0] for table in tables for row in rows_of(tmp_path, f"SELECT sealed FROM {table}")}

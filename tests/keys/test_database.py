from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transporter.clock import ManualClock
from transporter.errors import (
    ConfigError,
    DamagedData,
    JobFailed,
    NoKey,
    UnknownPassword,
    UnsupportedFormat,
    UsageError,
)
from transporter.keys import database_schema
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.password import KdfParameters, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey

CHEAP = KdfParameters(8, 1, 1)
PASSWORD = b"hunter2-the-password"
POINT, RUN = b"p" * 16, b"r" * 16
ROOT = Path(__file__).parents[2]


def reopen(path):
    return KeyDatabase(path / "keys.db", parameters=CHEAP)


def raw(path):
    return sqlite3.connect(path / "keys.db", isolation_level=None)


def execute(path, statement, *values):
    connection = raw(path)
    connection.execute(statement, values)
    connection.close()


@pytest.fixture
def office(database):
    return database.add_password("office", PASSWORD, "the usual")


class TestPasswords:
    def test_a_password_is_kept_as_its_hash(self, tmp_path, database, office):
        assert office.hash == hash_password(PASSWORD, office.salt, CHEAP)
        with reopen(tmp_path) as other:
            assert other.user_key("office") == other.find_by_salt(office.salt) == office
            (row,) = other.list()
        assert (row.name, row.hint, row.params) == ("office", "the usual", CHEAP)

    def test_equal_passwords_have_salts_of_their_own(self, database, office):
        other = database.add_password("copy", PASSWORD)
        assert other.salt != office.salt and other.hash.raw != office.hash.raw
        assert [row.name for row in database.list()] == ["copy", "office"]

    def test_an_unknown_name_and_an_unknown_salt(self, database, office):
        with pytest.raises(UnknownPassword, match="vault"):
            database.user_key("vault")
        assert database.find_by_salt(bytes(16)) is None

    def test_a_name_is_taken_once_and_nothing_changes(self, database, office):
        with pytest.raises(UsageError, match="already"):
            database.add_password("office", b"another")
        assert database.user_key("office") == office

    @pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x1b[1m", "x" * 65])
    def test_unfit_names(self, database, name):
        with pytest.raises(UsageError, match="name"):
            database.add_password(name, PASSWORD)

    @pytest.mark.parametrize(
        ("password", "hint"), [(b"", ""), (b"a" * 4097, ""), (b"x", "two\nlines"), (b"x", "y" * 201)]
    )
    def test_unfit_passwords_and_hints(self, database, password, hint):
        with pytest.raises(UsageError):
            database.add_password("name", password, hint)
        assert database.list() == []

    def test_a_hint_that_holds_the_password(self, database):
        with pytest.raises(UsageError, match="gives the password away") as caught:
            database.add_password("office", PASSWORD, "it is hunter2-the-password")
        assert "hunter2" not in str(caught.value)

    def test_the_default_price_is_rfc_9106(self, tmp_path):
        with KeyDatabase(tmp_path / "keys.db") as opened:
            assert opened.add_password("office", PASSWORD).params == KdfParameters(64 * 1024, 3, 4)

    def test_a_hash_from_a_point_is_kept_under_a_name(self, database, office):
        typed = hash_password(b"typed", bytes(16), CHEAP)
        assert database.remember_hash("found", typed).hash == typed
        assert database.find_by_salt(bytes(16)).name == "found"
        with pytest.raises(UsageError, match="'found'"):
            database.remember_hash("again", typed)


class TestKeysBelowAPassword:
    def test_storage_keys(self, database, office):
        key = StorageKey.generate()
        assert database.storage_key(POINT) is None
        database.put_storage_key(POINT, key, office)
        assert database.storage_key(POINT) == key
        newer = StorageKey.generate()
        database.put_storage_key(POINT, newer, office)
        assert database.storage_key(POINT) == newer
        database.drop_storage_key(POINT)
        assert database.storage_key(POINT) is None

    def test_runs_are_remembered_until_they_are_forgotten(self, tmp_path, office):
        clock = ManualClock()
        made = [(bytes((n,)) * 16, SessionKey.generate(), MetaKey.generate()) for n in (9, 1, 5)]
        with KeyDatabase(tmp_path / "keys.db", clock=clock, parameters=CHEAP) as database:
            for run_id, session_key, metakey in made:
                clock.advance(1)
                database.remember_run("docs", run_id, session_key, metakey, office)
            database.remember_run("logs", RUN, SessionKey.generate(), MetaKey.generate(), office)
            found = [(run.run_id, run.session_key, run.metakey) for run in database.runs("docs")]
            assert found == made
            for run in database.runs("docs"):
                assert not run.session_key.may_seal and not run.metakey.may_seal
            database.forget_runs("docs")
            assert database.runs("docs") == ()
            assert len(database.runs("logs")) == 1

    def test_of_runs_that_never_commit_the_newest_are_remembered(self, tmp_path, office, monkeypatch):
        """A tenant makes one with each session; every start of the job reads them all."""
        monkeypatch.setattr("transporter.keys.database.MOST_RUNS", 3)
        clock = ManualClock()
        with KeyDatabase(tmp_path / "keys.db", clock=clock, parameters=CHEAP) as database:
            database.remember_run("logs", RUN, SessionKey.generate(), MetaKey.generate(), office)
            for number in (9, 1, 5, 7, 3):
                clock.advance(1)
                run_id = bytes((number,)) * 16
                database.remember_run("docs", run_id, SessionKey.generate(), MetaKey.generate(), office)
            assert [run.run_id[0] for run in database.runs("docs")] == [5, 7, 3]
            assert len(database.runs("logs")) == 1

    def test_domains_are_counted_by_what_their_names_begin_with(self, database, office):
        for label in ("ann/docs", "ann/logs", "anna/docs", "/copied/ann/docs"):
            database.ensure_domain_key(label, office)
        database.ensure_plain_domain_key("ann/plain")
        assert database.domains_below("ann/") == 3
        assert database.domains_below("/copied/ann/") == 1
        assert database.domains_below("bob/") == 0
        known = ("ann/logs", "ann/plain", "ann/new", "ann/")
        assert [database.has_domain(label) for label in known] == [True, True, False, False]

    def test_domains(self, tmp_path, database, office):
        key = database.ensure_domain_key("docs", office)
        assert database.ensure_domain_key("docs", office) == key == database.domain_key("docs")
        assert database.ensure_domain_key("logs", office) != key
        assert database.domain_key("none") is None
        given_key = ChunkIdKey.generate()
        database.put_domain_key("docs", given_key, office)
        assert database.domain_key("docs") == given_key

    def test_a_domain_whose_password_was_replaced_gets_one_new_key_and_keeps_it(self, tmp_path, database, office):
        before = database.ensure_domain_key("docs", office)
        execute(tmp_path, "DELETE FROM passwords")
        again = database.add_password("office", b"another")
        key = database.ensure_domain_key("docs", again)
        assert key != before
        assert database.ensure_domain_key("docs", again) == key == database.domain_key("docs")

    def test_a_domain_that_nobody_seals_needs_no_password(self, tmp_path, database):
        key = database.ensure_plain_domain_key("docs")
        assert database.ensure_plain_domain_key("docs") == key != database.ensure_plain_domain_key("logs")
        assert database.domain_key("docs") is None
        assert key.secret not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        execute(tmp_path, "UPDATE plain_domains SET job = 'moved' WHERE job = 'docs'")
        with pytest.raises(DamagedData):
            database.ensure_plain_domain_key("moved")

    def test_a_domain_follows_its_job_to_another_password(self, tmp_path, database, office):
        key = database.ensure_domain_key("docs", office)
        other = database.add_password("new", b"another")
        assert database.ensure_domain_key("docs", other) == key
        execute(tmp_path, "DELETE FROM passwords WHERE name = 'office'")
        assert database.domain_key("docs") == key

    def test_all_below_a_password_goes_with_it(self, tmp_path, database, office):
        database.put_storage_key(POINT, StorageKey.generate(), office)
        database.remember_run("docs", RUN, SessionKey.generate(), MetaKey.generate(), office)
        database.ensure_domain_key("docs", office)
        execute(tmp_path, "DELETE FROM passwords")
        assert database.storage_key(POINT) is None
        assert database.runs("docs") == ()
        assert database.domain_key("docs") is None
        database.add_password("office", b"quite another")  # the name again, another password
        assert database.storage_key(POINT) is None and database.runs("docs") == ()


class TestAtRest:
    def test_no_secret_is_in_any_file_but_the_master_key(self, tmp_path, database, office):
        keys = [StorageKey.generate(), SessionKey.generate(), MetaKey.generate(), ChunkIdKey.generate()]
        database.put_storage_key(POINT, keys[0], office)
        database.remember_run("docs", RUN, keys[1], keys[2], office)
        database.put_domain_key("docs", keys[3], office)
        master = bytes.fromhex((tmp_path / "master.key").read_text().split()[1])
        secrets = [PASSWORD, office.hash.raw, office.hash.kek, office.hash.verifier, master]
        secrets += [key.secret for key in keys]
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["audit.log", "keys.db", "keys.db-shm", "keys.db-wal", "master.key"]
        content = b"".join((tmp_path / name).read_bytes() for name in names[:4])
        assert b"office" in content, "the search itself must be able to find something"
        for secret in secrets:
            assert secret not in content and secret.hex().encode() not in content

    def test_a_dropped_key_leaves_no_cryptogram(self, tmp_path, database, office):
        for number in range(9):
            database.put_storage_key(bytes((number,)) * 16, StorageKey.generate(), office)
        connection = raw(tmp_path)
        (sealed,) = connection.execute("SELECT sealed FROM storage_keys WHERE point = ?", (b"\4" * 16,)).fetchone()
        connection.close()
        database.close()  # the last one out folds the write-ahead log in
        assert sealed in (tmp_path / "keys.db").read_bytes()
        with reopen(tmp_path) as again:
            again.drop_storage_key(b"\4" * 16)
        assert sealed[8:40] not in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    def test_files_are_made_for_their_owner_alone_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            with reopen(tmp_path) as database:
                database.add_password("office", PASSWORD)
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        finally:
            os.umask(before)
        assert len(modes) == 5 and set(modes.values()) == {0o600}

    @pytest.mark.parametrize("name", ["keys.db", "keys.db-wal", "master.key"])
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
    def test_files_open_to_others_are_refused(self, tmp_path, database, office, name, mode):
        (tmp_path / name).chmod(mode)
        with pytest.raises(ConfigError, match=f"{name}.*{mode:04o}.*chmod 600"):
            reopen(tmp_path)
        (tmp_path / name).chmod(0o600)
        reopen(tmp_path).close()

    @pytest.mark.parametrize("name", ["keys.db", "master.key"])
    def test_a_link_in_the_place_of_a_file_is_refused(self, tmp_path, name):
        reopen(tmp_path).close()
        (tmp_path / name).rename(tmp_path / "elsewhere")
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match="plain file"):
            reopen(tmp_path)

    def test_a_lost_master_key_is_said_and_not_replaced(self, tmp_path, database, office):
        (tmp_path / "master.key").rename(tmp_path / "kept")
        with pytest.raises(NoKey, match="missing"):
            reopen(tmp_path)
        assert not (tmp_path / "master.key").exists()
        (tmp_path / "kept").rename(tmp_path / "master.key")
        with reopen(tmp_path) as again:
            assert again.user_key("office") == office

    def test_the_master_key_of_another_home(self, tmp_path, database, office):
        (tmp_path / "other").mkdir()
        reopen(tmp_path / "other").close()
        (tmp_path / "other" / "master.key").replace(tmp_path / "master.key")
        with pytest.raises(NoKey, match="not the master key"):
            reopen(tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"transporter-master-key-1 \n", b"transporter-master-key-1 " + b"g" * 64]
    )
    def test_a_damaged_master_key(self, tmp_path, content):
        reopen(tmp_path).close()
        (tmp_path / "master.key").write_bytes(content)
        with pytest.raises(DamagedData, match="no master key"):
            reopen(tmp_path)

    def test_a_master_key_from_before_the_first_password_is_used(self, tmp_path):
        reopen(tmp_path).close()
        before = (tmp_path / "master.key").read_bytes()
        (tmp_path / "keys.db").unlink()
        reopen(tmp_path).close()
        assert (tmp_path / "master.key").read_bytes() == before

    def test_rows_exchanged_within_the_file_are_damage(self, tmp_path, database, office):
        database.add_password("other", b"another")
        execute(tmp_path, "UPDATE passwords SET sealed = (SELECT sealed FROM passwords WHERE name = 'other')")
        with pytest.raises(DamagedData):
            database.user_key("office")

    @pytest.mark.parametrize(
        "change",
        ["salt = zeroblob(16)", "memory_kib = 16", "iterations = 2", "iterations = 99", "sealed = zeroblob(113)"],
    )
    def test_an_altered_row_is_damage(self, tmp_path, database, office, change):
        execute(tmp_path, f"UPDATE passwords SET {change}")
        with pytest.raises(DamagedData):
            database.user_key("office")

    def test_keys_moved_to_another_point_or_job_are_damage(self, tmp_path, database, office):
        database.put_storage_key(POINT, StorageKey.generate(), office)
        database.ensure_domain_key("docs", office)
        execute(tmp_path, "UPDATE storage_keys SET point = zeroblob(16)")
        execute(tmp_path, "UPDATE domains SET job = 'logs'")
        with pytest.raises(DamagedData):
            database.storage_key(bytes(16))
        with pytest.raises(DamagedData):
            database.domain_key("logs")

    def test_a_newer_database(self, tmp_path):
        reopen(tmp_path).close()
        execute(tmp_path, "PRAGMA user_version = 99")
        with pytest.raises(UnsupportedFormat, match="newer"):
            reopen(tmp_path)

    def test_a_file_that_is_no_database(self, tmp_path):
        reopen(tmp_path).close()
        (tmp_path / "keys.db").write_bytes(b"rubbish" * 1000)
        with pytest.raises(DamagedData, match="damaged"):
            reopen(tmp_path)


class TestSeveralAtOnce:
    def test_two_connections_see_each_other(self, tmp_path, database, office):
        with reopen(tmp_path) as daemon:
            database.add_password("new", b"another")
            assert [row.name for row in daemon.list()] == ["new", "office"]
            daemon.put_storage_key(POINT, StorageKey.generate(), office)
            assert database.storage_key(POINT) == daemon.storage_key(POINT)

    def test_a_lock_that_is_never_let_go_is_an_error(self, tmp_path, office, monkeypatch):
        monkeypatch.setattr(database_schema, "BUSY_SECONDS", 0.05)
        with reopen(tmp_path) as database:
            holder = raw(tmp_path)
            holder.execute("BEGIN IMMEDIATE")
            try:
                with pytest.raises(JobFailed, match="in use"):
                    database.add_password("new", b"another")
                assert database.user_key("office") == office  # reading goes on
            finally:
                holder.close()
            database.add_password("new", b"another")

    def test_many_threads_of_one_object(self, database, office):
        failures = []

        def work(index):
            try:
                for turn in range(10):
                    database.remember_run(
                        f"job{index}", bytes((turn,)) * 16, SessionKey.generate(), MetaKey.generate(), office
                    )
                    assert len(database.runs(f"job{index}")) == turn + 1
                    database.ensure_domain_key("shared", office)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_processes_that_start_together_in_a_new_home_agree(self, tmp_path):
        """All make the files at once; one master key wins, one domain key wins, no password is lost."""
        script = (
            "import sys; from pathlib import Path; from transporter.keys.database import KeyDatabase\n"
            "from transporter.keys.password import KdfParameters\n"
            "sys.stdin.readline()\n"
            "with KeyDatabase(Path(sys.argv[1]), parameters=KdfParameters(8, 1, 1)) as database:\n"
            "    for turn in range(5):\n"
            "        key = database.add_password(f'{sys.argv[2]}-{turn}', b'x')\n"
            "    print(database.ensure_domain_key('docs', key).secret.hex())\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "keys.db")]
        pipe = subprocess.PIPE
        running = [
            subprocess.Popen([*command, str(n)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
            for n in range(4)
        ]
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=60) for process in running]
        assert [(process.returncode, errors) for process, (_, errors) in zip(running, results, strict=True)] == [
            (0, "")
        ] * 4
        assert len({output for output, _ in results}) == 1
        with reopen(tmp_path) as database:
            names = [row.name for row in database.list()]
            assert len(names) == 20
            assert all(database.user_key(name).hash for name in names)

    def test_a_remembered_run_survives_kill_9(self, tmp_path, database, office):
        script = (
            "import os, signal, sys; from pathlib import Path; from transporter.keys.database import KeyDatabase\n"
            "from transporter.keys.session_key import MetaKey, SessionKey\n"
            "database = KeyDatabase(Path(sys.argv[1]))\n"
            "session, meta = SessionKey.generate(), MetaKey.generate()\n"
            "database.remember_run('docs', b'r' * 16, session, meta, database.user_key('office'))\n"
            "print(session.secret.hex(), flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "keys.db")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (run,) = database.runs("docs")
        assert run.session_key.secret.hex() == done.stdout.strip()

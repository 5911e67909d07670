"""What locks a key database: each place, moving from one to another, and what a thief of the home has without it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import threading

import pytest

from transporter.errors import (
    ConfigError,
    DamagedData,
    JobBusy,
    JobFailed,
    KmsKeyDisabled,
    KmsUnreachable,
    NoKey,
    TransporterError,
    UsageError,
    WrongPassword,
)
from transporter.keys import database_schema, master_move, open_database
from transporter.keys.database import KeyDatabase
from transporter.keys.master_key import MasterKey, master_key_line
from transporter.keys.master_lock import decode_lock
from transporter.keys.pass_phrase import PASS_PHRASES, TRIES, VARIABLE
from transporter.keys.password import KdfParameters
from transporter.keys.settings import KeySettings
from transporter.keys.storage_key import StorageKey
from transporter.kms_config import KmsConfig

CHEAP = KdfParameters(8, 1, 1)
POINT = b"p" * 16
KINDS = ["file", "credential", "keyring", "passphrase", "kms:main"]


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    """Nothing is remembered from before, and nobody sits at the terminal."""
    monkeypatch.setattr(PASS_PHRASES, "file", None)
    monkeypatch.setattr(PASS_PHRASES, "ask", None)
    monkeypatch.delenv(VARIABLE, raising=False)
    open_database._opened.clear()
    yield
    open_database._opened.clear()


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


class Places:
    """Everything outside the home that opens it: a credential, a keyring, a file with a pass phrase, a service."""

    def __init__(self, outside, monkeypatch, openbao):
        self.outside, self.monkeypatch = outside, monkeypatch
        self.service = openbao.config(openbao.new_key("master"))
        self.settings = KeySettings("file", {"main": self.service})
        (outside / "credentials").mkdir()
        (outside / "credentials" / "transporter-master-key").write_text(master_key_line(MasterKey.generate()))
        (outside / "passphrase").write_bytes(b"correct horse\n")
        self.keyring = outside / "keyring.cfg"
        self.there()

    def there(self):
        self.monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(self.outside / "credentials"))
        self.monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
        self.monkeypatch.setattr(PASS_PHRASES, "file", self.outside / "passphrase")
        import keyring
        from keyrings.alt.file import PlaintextKeyring

        backend = PlaintextKeyring()
        backend.file_path = str(self.keyring)
        keyring.set_keyring(backend)

    def away(self):
        """As for a thief, or on another machine."""
        self.monkeypatch.delenv("CREDENTIALS_DIRECTORY")
        self.monkeypatch.setattr(PASS_PHRASES, "file", None)
        import keyring
        from keyring.backends.fail import Keyring

        keyring.set_keyring(Keyring())
        self.settings = KeySettings(
            "file", {"main": KmsConfig(kind="transit", key="master", endpoint="http://127.0.0.1:9", token_file="/none")}
        )


@pytest.fixture
def places(tmp_path, monkeypatch, openbao):
    import keyring

    before = keyring.get_keyring()
    outside = tmp_path / "outside"
    outside.mkdir()
    yield Places(outside, monkeypatch, openbao)
    keyring.set_keyring(before)


@pytest.fixture
def open_keys(home, places):
    def opened(master=""):
        settings = places.settings if not master else KeySettings(master, places.settings.kms)
        return KeyDatabase(home / "keys.db", parameters=CHEAP, settings=lambda: settings)

    return opened


def fill(keys):
    office = keys.add_password("office", b"hunter2-the-password")
    storage_key = StorageKey.generate()
    keys.put_storage_key(POINT, storage_key, office)
    domain = keys.ensure_plain_domain_key("plain")
    keys.change_password("office", b"another-password")
    return keys.user_key("office"), storage_key, domain, office.salt


def holds(keys, kept):
    office, storage_key, domain, old_salt = kept
    assert keys.user_key("office") == office
    assert keys.storage_key(POINT) == storage_key
    assert keys.ensure_plain_domain_key("plain") == domain
    assert keys.find_by_salt(old_salt) is not None  # the change of a password that is under way
    keys.audit.verify(keys.audit_head())
    return True


def secrets_in(kept, keys):
    office, storage_key, domain, _salt = kept
    return [office.hash.raw, office.hash.kek, storage_key.secret, domain.secret, keys._kek, b"another-password"]


def all_bytes(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_database_is_locked_as_it_was_asked_for(open_keys, kind):
    with open_keys(kind) as keys:
        assert keys.lock().text() == kind
        kept = fill(keys)
    open_database._opened.clear()
    with open_keys() as again:
        assert holds(again, kept)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_stolen_home_yields_no_key(home, open_keys, places, kind):
    with open_keys(kind) as keys:
        kept = fill(keys)
        secrets = secrets_in(kept, keys)
    open_database._opened.clear()
    stolen = all_bytes(home)
    for secret in secrets:
        assert secret not in stolen and secret.hex().encode() not in stolen
    assert not list(home.glob("*.key"))
    places.away()
    with pytest.raises(TransporterError) as caught:
        open_keys()
    assert caught.value.exit_status in {3, 4, 6} and "\n" not in str(caught.value)
    assert isinstance(caught.value, NoKey | ConfigError | KmsUnreachable)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_it_moves_from_each_place_to_each(home, open_keys, first, to):
    if first == to == "credential":
        pytest.skip("a credential is replaced outside of this program")
    with open_keys(first) as keys:
        kept = fill(keys)
        old = keys._kek
        assert keys.move_master(to).text() == to
        assert holds(keys, kept) and keys.pending() is None
        assert keys._kek != old
        keys.record("after", the="move")
    open_database._opened.clear()
    with open_keys() as again:
        assert holds(again, kept) and again.lock().text() == to
        events = [entry["event"] for entry in again.audit.entries()]
    assert "master-key.set" in events and events.count("after") == 1
    assert len(list(home.glob("*.key"))) == (to == "file")


def test_every_sealed_column_is_known_to_the_move(home, open_keys):
    """A table that it did not know would be lost by it."""
    open_keys().close()
    connection = sqlite3.connect(home / "keys.db")
    sealed = {
        table
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        if any(row[1] == "sealed" for row in connection.execute(f"PRAGMA table_info({table})"))
    }
    connection.close()
    assert sealed == master_move.UNDER_MASTER | master_move.NOT_UNDER_MASTER
    assert database_schema.SCHEMA_VERSION == 5, "does the move know the new schema?"


def test_operators_policy_and_zones_move_along(open_keys):
    from transporter.keys.operator_key import PublicOperator
    from transporter.keys.operator_table import Policy

    operator = PublicOperator("anna", b"o" * 32)
    with open_keys() as keys:
        keys.add_operator(operator, b"p" * 32)
        with keys._write() as db:
            keys._put_policy(db, Policy(b"p" * 32, ["keyset"]))
        keys.note_zones({"docs": "source"})
        keys.move_master("passphrase")
        assert [info.public for info in keys.operators()] == [operator]
        assert keys.policy() == Policy(b"p" * 32, ["keyset"])
        assert keys._zone_of("docs") == ("source", True)


def test_recovered_keys_and_recoveries_move_along(open_keys):
    from transporter.keys.places import recovered_place, recovery_place
    from transporter.keys.wrap import unwrap, wrap

    with open_keys() as keys:
        with keys._write() as db:
            sealed = wrap(keys._kek, b"o" * 32, recovery_place(b"r" * 32))
            db.execute("INSERT INTO recoveries VALUES (?, ?, 0, 0, x'', ?)", (b"r" * 32, POINT, sealed))
            # One whose one-time key was used.
            db.execute("INSERT INTO recoveries VALUES (?, ?, 1, 1, x'', x'')", (b"u" * 32, POINT))
            sealed = wrap(keys._kek, b"s" * 32, recovered_place(POINT))
            db.execute("INSERT INTO recovered_keys VALUES (?, 0, ?)", (POINT, sealed))
        keys.move_master("passphrase")
        assert keys.recovered_key(POINT) == StorageKey(b"s" * 32)
        with keys._read() as db:
            (sealed,) = db.execute("SELECT sealed FROM recoveries WHERE applied_ns = 0").fetchone()
        assert unwrap(keys._kek, sealed, recovery_place(b"r" * 32)) == b"o" * 32


def test_an_old_copy_of_the_key_opens_nothing_new(home, open_keys):
    with open_keys() as keys:
        fill(keys)
        copy = (home / "master.key").read_bytes()
        keys.move_master("passphrase")
        keys.move_master("file")
    (home / "master.key").write_bytes(copy)
    with pytest.raises(NoKey, match="not the master key"):
        open_keys()


def test_a_process_that_has_it_open_writes_nothing_under_the_old_key(open_keys):
    with open_keys() as keys, open_keys() as other:
        kept = fill(keys)
        keys.move_master("passphrase")
        for use in (lambda: other.add_password("new", b"x"), lambda: other.user_key("office")):
            with pytest.raises(JobFailed, match="replaced meanwhile"):
                use()
        assert holds(keys, kept)


def test_a_target_that_does_not_work_changes_nothing(home, open_keys, places):
    with open_keys() as keys:
        kept = fill(keys)
        places.away()
    with open_keys() as keys:
        for target in KINDS[1:]:
            with pytest.raises(TransporterError):
                keys.move_master(target)
            assert holds(keys, kept) and keys.lock().text() == "file" and keys.pending() is None
        with pytest.raises(UsageError):
            keys.move_master("pocket")


def test_a_failure_behind_the_commit_does_not_destroy_the_only_key(open_keys, monkeypatch):
    with open_keys("passphrase") as keys:
        kept = fill(keys)
        replace = KeyDatabase._replace_master

        def replaced_and_interrupted(self, *arguments):
            replace(self, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(KeyDatabase, "_replace_master", replaced_and_interrupted)
            keys.move_master("file")
    open_database._opened.clear()
    with open_keys() as again:
        assert again.lock().kind == "file" and holds(again, kept)


def test_two_moves_at_once(home, open_keys, monkeypatch):
    with open_keys() as keys, open_keys() as other:
        going, go = threading.Event(), threading.Event()
        replace = KeyDatabase._replace_master

        def held(self, *arguments):
            going.set()
            go.wait(30)
            return replace(self, *arguments)

        monkeypatch.setattr(KeyDatabase, "_replace_master", held)
        thread = threading.Thread(target=keys.move_master, args=("passphrase",))
        thread.start()
        going.wait(30)
        with pytest.raises(JobBusy):
            other.move_master("keyring")
        go.set()
        thread.join(30)
        assert keys.lock().kind == "passphrase"


KILLED = """
import os, signal, sys
from pathlib import Path
from transporter.keys.database import KeyDatabase
from transporter.keys.pass_phrase import PASS_PHRASES
from transporter.keys.password import KdfParameters
target, PASS_PHRASES.file = sys.argv[1], Path(sys.argv[2])
count = step = 0
def reached():
    global count
    if count == step:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
for name in ("fsync", "unlink", "link"):
    def hooked(*a, real=getattr(os, name), **k):
        reached()
        return real(*a, **k)
    setattr(os, name, hooked)
for line in sys.stdin:
    home, step = line.split()
    step = int(step)
    child = os.fork()
    if child == 0:
        keys = KeyDatabase(Path(home) / "keys.db", parameters=KdfParameters(8, 1, 1))
        count = 0
        keys._connection.set_trace_callback(lambda statement: reached())
        keys.move_master(target)
        keys._connection.set_trace_callback(None)
        print(count, flush=True)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
        print("killed", flush=True)
"""
NEVER = 10**6


@pytest.mark.parametrize(("first", "to"), [("file", "passphrase"), ("passphrase", "file")])
def test_killed_at_any_step_it_opens_the_old_way_or_the_new(tmp_path, home, open_keys, places, first, to):
    """A step is every statement and every sync: each of them, up to the last."""
    with open_keys(first) as keys:
        kept = fill(keys)

    def opened(folder):
        return KeyDatabase(folder / "keys.db", parameters=CHEAP, settings=lambda: places.settings)

    command = [sys.executable, "-c", KILLED, to, str(places.outside / "passphrase")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def moved(folder, step):
            shutil.copytree(home, folder)
            process.stdin.write(f"{folder} {step}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        steps = int(moved(tmp_path / "whole", NEVER))
        assert steps > 20
        seen = set()
        for step in range(steps):
            copy = tmp_path / str(step)
            assert moved(copy, step) == "killed"
            open_database._opened.clear()
            with opened(copy) as keys:
                assert holds(keys, kept)
                seen.add(keys.lock().kind)
                keys.clean_master()
                assert keys.pending() is None
                assert len(list(copy.glob("*.key"))) == (keys.lock().kind == "file")
                assert holds(keys, kept)
        process.stdin.close()
    assert seen == {first, to}


class TestPassPhrase:
    def test_a_wrong_one(self, open_keys, places):
        open_keys("passphrase").close()
        open_database._opened.clear()
        (places.outside / "passphrase").write_bytes(b"wrong")
        with pytest.raises(WrongPassword, match="pass phrase") as caught:
            open_keys()
        assert caught.value.exit_status == 6

    def test_a_person_has_three_tries(self, open_keys, monkeypatch):
        open_keys("passphrase").close()
        open_database._opened.clear()
        monkeypatch.setattr(PASS_PHRASES, "file", None)
        typed = []

        def ask(_what, twice):
            typed.append(twice)
            return b"correct horse" if len(typed) == TRIES else b"wrong"

        monkeypatch.setattr(PASS_PHRASES, "ask", ask)
        open_keys().close()
        assert typed == [False] * TRIES
        open_keys().close()  # and is not asked again by the same process
        assert len(typed) == TRIES
        open_database._opened.clear()
        typed[:] = [None] * TRIES
        with pytest.raises(WrongPassword):
            open_keys()
        assert len(typed) == 2 * TRIES

    def test_it_comes_by_a_variable_or_a_credential(self, open_keys, places, monkeypatch):
        open_keys("passphrase").close()
        open_database._opened.clear()
        monkeypatch.setattr(PASS_PHRASES, "file", None)
        with pytest.raises(NoKey, match="nobody to ask"):
            open_keys()
        monkeypatch.setenv(VARIABLE, str(places.outside / "passphrase"))
        open_keys().close()
        open_database._opened.clear()
        monkeypatch.delenv(VARIABLE)
        (places.outside / "credentials" / "transporter-passphrase").write_bytes(b"correct horse\n")
        open_keys().close()

    def test_a_price_out_of_bounds_is_refused_before_it_is_paid(self, home, open_keys):
        open_keys("passphrase").close()
        open_database._opened.clear()
        connection = sqlite3.connect(home / "keys.db")
        ((row,),) = connection.execute("SELECT value FROM meta WHERE name = 'lock'").fetchall()
        dear = re.sub(rb'"memory_kib":8\b', b'"memory_kib":4000000000', row)
        assert dear != row
        connection.execute("UPDATE meta SET value = ? WHERE name = 'lock'", (dear,))
        connection.commit()
        connection.close()
        with pytest.raises(DamagedData, match="outside what this version accepts"):
            open_keys()


class TestLockRow:
    @pytest.mark.parametrize(
        "row",
        [
            b"",
            b"{}",
            b'{"kind":"pocket"}',
            b'{"kind":"file","name":"../../etc/shadow"}',
            b'{"kind":"file","name":""}',
            b'{"kind":"file","name":"x","more":1}',
            b"[" * 5000,
            b'{"kind":"kms","name":"' + b"x" * 5000 + b'"}',
        ],
        ids=lambda row: row[:30].decode(),
    )
    def test_any_other_row_is_damage(self, row):
        with pytest.raises(DamagedData):
            decode_lock(row)

    def test_a_database_of_before_has_a_file(self):
        assert decode_lock(None).name == "master.key"


class TestKeyring:
    def test_one_that_protects_nothing_is_not_taken_unasked(self, open_keys, monkeypatch):
        with open_keys() as keys:
            monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
            with pytest.raises(ConfigError, match=r"no keyring that protects"):
                keys.move_master("keyring")

    def test_one_that_forgets(self, open_keys, monkeypatch):
        from keyrings.alt.file import PlaintextKeyring

        monkeypatch.setattr(PlaintextKeyring, "set_password", lambda *_arguments: None)
        with open_keys() as keys, pytest.raises(ConfigError, match="did not keep"):
            keys.move_master("keyring")

    def test_without_the_library(self, open_keys, monkeypatch):
        monkeypatch.setitem(sys.modules, "keyring", None)
        with open_keys() as keys, pytest.raises(ConfigError, match=r"transporter-pair\[keyring\]"):
            keys.move_master("keyring")


class TestService:
    def test_a_key_that_was_switched_off(self, open_keys, places, openbao):
        openbao.new_key("soon-off")
        places.settings = KeySettings("file", {"main": openbao.config("soon-off")})
        open_keys("kms:main").close()
        open_database._opened.clear()
        from transporter.keys.kms_access import CACHE

        CACHE.clear()
        openbao.ask("DELETE", "transit/keys/soon-off/soft-delete")
        with pytest.raises(KmsKeyDisabled):
            open_keys()

    def test_its_use_is_in_the_audit_trail(self, open_keys):
        with open_keys() as keys:
            keys.move_master("kms:main")
        open_database._opened.clear()
        from transporter.keys.kms_access import CACHE

        CACHE.clear()
        with open_keys() as keys:
            entries = [(e["event"], e.get("kms"), e.get("purpose")) for e in keys.audit.entries()]
        assert ("kms.wrap", "main", "master key") in entries and entries[-1] == ("kms.unwrap", "main", "master key")

    def test_a_process_that_opened_it_once_needs_it_no_more(self, open_keys, places):
        open_keys("kms:main").close()
        places.away()
        open_keys().close()

"""The commands, as they are typed, against a real service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transporter.cli.main import run_command
from transporter.config import parse_config
from transporter.errors import ConfigError
from transporter.keys import kms_access, open_database
from transporter.keys.database import KeyDatabase
from transporter.keys.pass_phrase import PASS_PHRASES, VARIABLE
from transporter.keys.password import KdfParameters
from transporter.keys.password_table import PasswordTable


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setitem(PasswordTable.__init__.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))
    monkeypatch.setattr(PASS_PHRASES, "file", None)
    monkeypatch.setattr(PASS_PHRASES, "ask", None)
    monkeypatch.delenv(VARIABLE, raising=False)
    open_database._opened.clear()
    yield
    open_database._opened.clear()


@pytest.fixture
def home(tmp_path, capsys, openbao, moto):
    """A home with a service of each kind; call it as the program."""

    class Home:
        path = tmp_path / "home"
        config = path / "config.toml"

        def __call__(self, *arguments, json_too=True):
            open_database._opened.clear()
            kms_access.CACHE.clear()
            capsys.readouterr()
            status = run_command(["--home", str(self.path), *(["--json"] if json_too else []), *arguments])
            out, self.err = capsys.readouterr()
            self.objects = [json.loads(line) for line in out.splitlines()] if json_too else out
            return status

    made = Home()
    assert made("init", "--name", "office") == 0
    key = openbao.new_key(f"cli-{tmp_path.name}")
    with made.config.open("a") as file:
        file.write(
            f'[kms.main]\nkind = "transit"\nkey = "{key}"\nendpoint = "{openbao.endpoint}"\n'
            f'token_file = "{openbao.root}"\n'
            f'[kms.cloud]\nkind = "aws"\nkey = "{moto.new_key()}"\nregion = "eu-central-1"\n'
            f'endpoint = "{moto.endpoint}"\n'
            '[kms.away]\nkind = "aws"\nkey = "alias/x"\nregion = "eu-central-1"\nendpoint = "http://127.0.0.1:9"\n'
        )
    (tmp_path / "password").write_text("hunter2-the-password\n")
    (tmp_path / "phrase").write_text("correct horse\n")
    return made


def test_services_are_listed_and_checked(home, tmp_path):
    assert home("kms", "list") == 0
    assert [each["kms"] for each in home.objects] == ["away", "cloud", "main"]
    for name in ("main", "cloud"):
        assert home("kms", "check", name) == 0 and home.objects[0]["kms"] == name
    assert home("kms", "check", "away") == 4
    assert home.objects[-1]["code"] == "kms-unreachable" and home.err.count("\n") == 1
    assert home("kms", "check", "nobody") == 3


def test_a_password_that_a_service_locks(home, tmp_path):
    file = str(tmp_path / "password")
    assert home("password", "add", "office", "--from-file", file, "--kms", "cloud") == 0
    assert home("kms", "list") == 0 and home.objects[1]["used_by"] == ["password office"]
    assert home("password", "show", "office") == 0 and home.objects[0]["kms"] == "cloud"
    assert home("password", "kms", "office", "main") == 0
    assert home("password", "list") == 0 and home.objects[0]["kms"] == "main"
    assert home("password", "kms", "office", "none") == 0
    assert home("password", "add", "vault", "--from-file", file, "--kms", "away") == 4
    assert home("password", "kms", "nobody", "main") == 6


def test_a_keyset_that_a_service_keeps(home, tmp_path):
    assert home("keyset", "create", "2026", "--kms", "main") == 0
    assert home("keyset", "list") == 0 and home.objects[0]["kms"] == "main"
    assert home("keyset", "create", "2027", "--kms", "main", "--passphrase-file", str(tmp_path / "phrase")) == 2
    assert home("keyset", "create", "2027", "--kms", "away") == 4


def test_the_master_key_goes_through_all_its_places(home, tmp_path, monkeypatch):
    assert home("password", "add", "office", "--from-file", str(tmp_path / "password")) == 0
    monkeypatch.setenv(VARIABLE, str(tmp_path / "phrase"))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    assert home("keys", "master-key", "make", json_too=False) == 0
    (credentials / "transporter-master-key").write_text(home.objects)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    for where in ("passphrase", "kms:main", "credential", "kms:cloud", "file"):
        assert home("keys", "master-key", "set", where) == 0, home.err
        assert f'master = "{where}"' in home.config.read_text()
        assert home("keys", "master-key", "show") == 0
        assert home.objects == [{"master": where, "left_behind": None}]
        assert home("password", "show", "office") == 0
    assert home("keys", "master-key", "set", "pocket") == 2
    assert home("keys", "master-key", "set", "kms:nobody") == 2
    assert home("keys", "master-key", "set", "kms:away") == 4
    assert home("keys", "master-key", "clean") == 0 and home.objects == [{"removed": None}]
    assert home("audit", "verify") == 0


def test_the_pass_phrase_is_not_taken_from_the_old_file_for_the_new_one(home, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "phrase"))
    assert home("keys", "master-key", "set", "passphrase") == 0
    assert home("keys", "master-key", "set", "passphrase") == 2
    monkeypatch.delenv(VARIABLE)
    assert home("password", "list") == 6 and "nobody to ask" in home.err


def test_not_beside_a_daemon(home):
    import fcntl

    with (home.path / "locks" / "daemon.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert home("keys", "master-key", "set", "kms:main") == 1
    with KeyDatabase(home.path / "keys.db") as keys:
        assert keys.lock().kind == "file"


def test_a_new_home_is_locked_as_its_configuration_says(home, tmp_path):
    with home.config.open("a") as file:
        file.write('[keys]\nmaster = "kms:main"\n')
    assert home("password", "add", "office", "--from-file", str(tmp_path / "password")) == 0
    assert home("keys", "master-key", "show") == 0 and home.objects[0]["master"] == "kms:main"
    assert not list(home.path.glob("*.key")) or [each.name for each in home.path.glob("*.key")] == ["identity.key"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[keys]\nmaster = "pocket"', "no place for the master key"),
        ('[keys]\nmaster = "kms:nobody"', "no service [kms.nobody]"),
        ('[keys]\nmaster = "file:x"', "no place"),
        ('[keys]\nmaster = "credential:../x"', "no name of a credential"),
        ("[keys]\nother = 1", "unknown key"),
        ('[kms.x]\nkind = "azure"\nkey = "k"', "aws"),
        ('[kms.x]\nkind = "aws"\nkey = ""', "empty"),
        ('[kms.x]\nkind = "aws"\nkey = "k"\naccount = "12"', "no AWS account"),
        ('[kms.x]\nkind = "aws"\nkey = "k"\nendpoint = "http://kms.example.org"', "this machine alone"),
        ('[kms.x]\nkind = "aws"\nkey = "k"\nendpoint = "https://u:p@kms.example.org"', "password in it"),
        ('[kms.x]\nkind = "aws"\nkey = "k"\nendpoint = "ftp://kms.example.org"', "no URL"),
        ('[kms.x]\nkind = "aws"\nkey = "k"\ntoken_file = "/x"', "transit"),
        ('[kms.x]\nkind = "transit"\nkey = "k"\ntoken_file = "/x"', "address of the server is missing"),
        ('[kms.x]\nkind = "transit"\nkey = "k"\nendpoint = "https://h"', "token"),
        (
            '[kms.x]\nkind = "transit"\nkey = "../k"\nendpoint = "https://h"\ntoken_file = "/x"',
            "no name of a transit key",
        ),
        (
            '[kms.x]\nkind = "transit"\nkey = "k"\nmount = "a/../b"\nendpoint = "https://h"\ntoken_file = "/x"',
            "no path of an engine",
        ),
        ('[kms.x]\nkind = "transit"\nkey = "k"\nsecret = "s"', "unknown key"),
    ],
)
def test_a_configuration_that_cannot_work_is_told_with_its_line(text, says):
    with pytest.raises(ConfigError, match=r"config\.toml:\d+:\d+: ") as caught:
        parse_config(f'[node]\nname = "office"\n{text}\n', Path("config.toml"))
    assert says in str(caught.value)


def test_a_configuration_that_lacks_what_is_needed(home, tmp_path):
    assert home("check-config") == 0
    assert home("password", "add", "office", "--from-file", str(tmp_path / "password"), "--kms", "main") == 0
    home.config.write_text(home.config.read_text().replace("[kms.main]", "[kms.other]"))
    assert home("check-config") == 3
    assert home.objects[0]["finding"].startswith("there is no [kms.main], which password office cannot")
    assert home("kms", "list") == 0 and "needs [kms.main]" in home.err

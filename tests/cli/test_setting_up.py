from __future__ import annotations

import os

import pytest

from transporter.catalog import Catalog, Peer
from transporter.cli.job import show_time
from transporter.clock import SystemClock
from transporter.repository import Repository


def test_init_prints_the_fingerprint_and_keeps_the_home_private(bare):
    done = bare.json("init", "--name", "office", "--listen", "127.0.0.1:6180")
    (fields,) = done.objects()
    assert done.status == 0
    assert (fields["name"], fields["listen"]) == ("office", "127.0.0.1:6180")
    assert fields["fingerprint"].startswith("SHA256:")
    assert bare.path.stat().st_mode & 0o777 == 0o700
    assert (bare.path / "identity.key").stat().st_mode & 0o777 == 0o600


def test_quiet_init_prints_the_fingerprint_alone(bare):
    done = bare.quiet("init", "--name", "office")
    assert done.out.startswith("SHA256:")
    assert done.out.count("\n") == 1
    assert done.err == ""


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("--name", "a/b"), 2), (("--name", "office", "--listen", "host:99999"), 2), (("--listen", ":80"), 2)],
)
def test_a_wrong_init_leaves_nothing(bare, arguments, status):
    assert bare("init", *arguments).status == status
    assert not bare.path.exists()


def test_a_second_init_is_refused(node):
    before = node.config()
    done = node("init", "--name", "other")
    assert done.status == 3
    assert "is a home already" in done.err
    assert node.config() == before


def test_passwords_come_from_a_file_or_the_environment_never_from_an_argument(node, monkeypatch):
    file = node.path.parent / "password"
    file.write_bytes(b"with a line end\r\n")
    assert node("password", "add", "one", "--from-file", str(file), "--hint", "the old one").status == 0
    monkeypatch.setenv("THE_PASSWORD", "from here")
    assert node("password", "add", "two", "--from-env", "THE_PASSWORD").status == 0
    names = [(row["password_name"], row["hint"]) for row in node.json("password", "list").objects()]
    assert names == [("one", "the old one"), ("two", "")]
    assert node.quiet("password", "list").out == "one\ntwo\n"
    assert "password" in node("password", "add", "three").err
    assert node("password", "add", "three", "a secret").status == 2


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n"])
def test_a_file_that_holds_no_password(node, content):
    file = node.path.parent / "password"
    file.write_bytes(content)
    assert node("password", "add", "x", "--from-file", str(file)).status == 2
    assert node.json("password", "list").out == ""


def test_one_line_end_is_not_part_of_the_password(node, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "transporter.keys.database.KeyDatabase.add_password",
        lambda self, name, password, hint, kms: seen.append(password),
    )
    file = node.path.parent / "password"
    for content in (b"secret", b"secret\n", b"secret\r\n", b" secret \n"):
        file.write_bytes(content)
        assert node("password", "add", "x", "--from-file", str(file)).status == 0
    assert seen == [b"secret", b"secret", b"secret", b" secret "]


def test_a_repository_is_made_once_and_listed(node):
    assert node("repository", "add", "main", "--quota", "2TiB").status == 0
    (row,) = node.json("repository", "list").objects()
    assert (row["repository"], row["quota"]) == ("main", 2 << 40)
    assert os.path.isfile(os.path.join(row["path"], "format"))
    assert node("repository", "add", "main").status == 3
    assert node("repository", "add", "a/b").status == 2
    assert node("repository", "add", "more", "--quota", "much").status == 2
    assert node("repository", "add", "more", "--quota", "99999999999999TiB").status == 2
    assert node("repository", "add", "more", "--immutable", "100000000d").status == 2
    assert node("repository", "add", "more", "--encrypt-at-rest", "nothing").status == 6
    assert not (node.path / "repositories" / "more").exists()
    assert [row["repository"] for row in node.json("repository", "list").objects()] == ["main"]


def test_a_repository_survives_the_loss_of_its_home(node, tmp_path):
    place = tmp_path / "store"
    assert node("repository", "add", "main", "--path", str(place)).status == 0
    identity = (place / "format").read_bytes()
    (node.path / "config.toml").write_text('[node]\nname = "office"\n')
    done = node("repository", "add", "again", "--path", str(place))
    assert done.status == 0
    assert "took up" in done.out
    assert (place / "format").read_bytes() == identity


def test_a_repository_in_a_place_where_none_can_be(node, tmp_path):
    (tmp_path / "file").touch()
    done = node("repository", "add", "main", "--path", str(tmp_path / "file" / "main"))
    assert done.status == 2 and "Not a directory" in done.err, done
    assert "\n[repositories" not in node.config()


def test_a_folder_with_other_things_is_no_repository(node, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "letter").write_text("keep me")
    done = node("repository", "add", "main", "--path", str(tmp_path / "store"))
    assert done.status == 2
    assert "[repositories.main]\n" not in node.config()


def test_scrub_of_a_sound_and_of_a_damaged_repository(node):
    node("repository", "add", "main")
    assert node("scrub", "main").status == 0
    (row,) = node.json("scrub", "main").objects()
    assert (row["event"], row["repository"], row["packs"]) == ("scrub_finished", "main", 0)
    assert node("scrub", "main", "--sample", "0%").status == 2
    assert node("scrub", "other").status == 3
    (node.path / "repositories" / "main" / "packs" / "intruder").write_bytes(b"?")
    packs = node.path / "repositories" / "main" / "packs" / "00"
    packs.mkdir()
    (packs / ("00" * 32)).write_bytes(b"not a pack")
    done = node("scrub", "main")
    assert done.status == 7
    assert "damaged" in done.err


def test_rebuild_index(node):
    node("repository", "add", "main")
    done = node.json("repository", "rebuild-index", "main")
    assert done.status == 0
    assert done.objects() == [{"repository": "main", "packs": 0, "damaged": 0}]


def test_an_index_in_use_is_left_alone(node):
    node("repository", "add", "main")
    with Repository.open(node.path / "repositories" / "main", SystemClock()):
        done = node("repository", "rebuild-index", "main")
        assert node("scrub", "main").status == 0
    assert done.status == 1
    assert "stop the daemon first" in done.err


def test_an_invitation_is_one_line_and_needs_an_address(node):
    assert node("invite", "--repository", "main").status == 3
    node("repository", "add", "main")
    assert "listen" in node("invite", "--repository", "main").err
    for line in ('listen = "0.0.0.0:6180"', 'listen = "127.0.0.1:6180"'):
        text = node.config().replace('listen = "0.0.0.0:6180"', line).replace('listen = ""', line)
        (node.path / "config.toml").write_text(text)
        done = node.quiet("invite", "--repository", "main")
        assert done.status == (3 if "0.0.0.0" in line else 0)
    assert done.out.count("\n") == 1
    assert done.err == ""


@pytest.mark.parametrize("text", ["", "nonsense", "transporter1:AAAA"])
def test_what_is_no_invitation_is_refused(node, text):
    done = node("join", text)
    assert done.status in {2, 5}
    assert done.err.startswith("transporter: ")
    assert done.err.count("\n") == 1


def test_peers_are_listed_and_removed(paired):
    (row,) = paired.json("peer", "list").objects()
    assert (row["peer"], row["offers"]) == ("offsite", ["main"])
    assert "offsite" in paired("peer", "list").out
    assert paired("peer", "remove", "offsite").status == 0
    assert paired("peer", "remove", "offsite").status == 3
    assert paired.json("peer", "list").out == ""


def test_check_config_finds_what_does_not_exist(paired, tmp_path):
    assert paired("check-config").status == 0
    paired.add_to_config(
        f'[jobs.good]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["{tmp_path}"]\n'
        '[jobs.bad]\nto = "offsite/other"\nencrypt = "source"\npassword = "no"\npaths = ["/does/not/exist"]\n'
        '[jobs.worse]\nto = "nobody/main"\nencrypt = "none"\npaths = ["/"]\n[repositories.gone]\n'
    )
    done = paired.json("check-config")
    findings = "\n".join(row["finding"] for row in done.objects()[:-1])
    assert done.status == 3
    for words in ("'gone'", "has not offered", "no password 'no'", "/does/not/exist", "no peer 'nobody'"):
        assert words in findings
    assert "'good'" not in findings


@pytest.mark.parametrize("where", ["in the URL", "in a file"])
def test_check_config_warns_of_a_proxys_password_that_others_can_read(node, tmp_path, where):
    file = tmp_path / "proxy-password"
    config = node.path / "config.toml"
    user = "ann:s3cr3t" if where == "in the URL" else "ann"
    node.add_to_config(f'\n[link]\noutbound_proxy = "socks5://{user}@proxy:1080"\n')
    if where == "in a file":
        node.add_to_config(f'outbound_proxy_password_file = "{file}"\n')
        assert "cannot read the password of the proxy" in node.json("check-config").out
        file.write_text("s3cr3t\n")
    readable = config if where == "in the URL" else file
    for mode, warned in ((0o600, False), (0o644, True)):
        readable.chmod(mode)
        done = node("check-config")
        assert done.status == 0
        assert ("other users can read" in done.err) is warned
        assert "s3cr3t" not in done.out + done.err


def test_an_unknown_key_shows_line_and_column(node):
    node.add_to_config("\n[jobs.x]\ncolour = 1\n")
    done = node("check-config")
    assert done.status == 3
    line = node.config()[: node.config().index("colour")].count("\n") + 1
    assert f"config.toml:{line}:1: unknown key 'colour' in [jobs.x]" in done.err


def test_jobs_show_their_last_run(paired):
    paired.add_to_config('[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["/"]\n')
    assert "never" in paired("job", "list").out
    with Catalog(paired.path / "catalog.db") as catalog:
        run = catalog.run_started("docs", "backup", 10**18)
        assert "not finished" in paired("job", "list").out
        catalog.run_finished(run, finished_ns=10**18 + 1, exit_status=4, code="cannot-connect")
    assert "cannot-connect" in paired("job", "list").out
    assert paired.json("job", "list").objects()[0]["last_exit_status"] == 4


def test_the_last_backup_is_told_whatever_was_done_with_the_job_since(paired):
    paired.add_to_config('[jobs.docs]\nto = "offsite/main"\nencrypt = "none"\npaths = ["/"]\n')
    with Catalog(paired.path / "catalog.db") as catalog:

        def ended(operation: str, second: int, status: int, code: str = "") -> None:
            run = catalog.run_started("docs", operation, second * 10**9)
            catalog.run_finished(run, finished_ns=second * 10**9 + 1, exit_status=status, code=code)

        ended("backup", 1_700_000_000, 4, "cannot-connect")
        for command in (("job", "list"), ("status",)):
            assert "cannot-connect; no backup yet" in paired(*command).out
        assert paired.json("status").objects()[0]["jobs"][0]["last_backup"] is None
        ended("backup", 1_700_000_100, 0)
        assert "last backup" not in paired("status").out
        ended("restore", 1_700_000_200, 2, "usage")
        ended("backup", 1_700_000_300, 1, "disk-full")
        told = show_time(1_700_000_100 * 10**9)
        for command in (("job", "list"), ("status",)):
            assert f"disk-full; last backup {told}\n" in paired(*command).out
        row = paired.json("status").objects()[0]["jobs"][0]
        assert (row["last_exit_status"], row["last_backup"], row["last_backup_exit_status"]) == (1, told, 0)
        ended("backup", 1_700_000_400, 8, "finished-with-gaps")
        ended("verify", 1_700_000_500, 0)
        (row,) = paired.json("job", "list").objects()
        assert (row["last_operation"], row["last_backup_exit_status"]) == ("verify", 8)
        assert "; last backup" in paired("status").out and "finished-with-gaps" in paired("status").out


def test_a_peer_with_strange_signs_in_its_name_does_not_break_the_list(node):
    with Catalog(node.path / "catalog.db") as catalog:
        catalog.put_peer(Peer("überbüro", bytes(32)))
    assert "überbüro" in node("peer", "list").out

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from transporter.catalog import Catalog
from transporter.daemon.requests import JobOutcome
from transporter.keys.database import KeyDatabase
from transporter.keys.storage_key import StorageKey

SECRETS = (b"correct horse", b"a new and better one")
JOB = '[jobs.docs]\nto = "offsite/main"\nencrypt = "source"\npassword = "office"\npaths = ["/tmp"]\n'


@pytest.fixture
def new(node):
    file = node.path.parent / "new"
    file.write_bytes(SECRETS[1] + b"\n")
    return str(file)


@pytest.fixture
def alone(paired):
    """A node with a password, and no peer that would have to be reached."""
    with Catalog(paired.path / "catalog.db") as catalog:
        catalog.remove_peer("offsite")
    return paired


def keys_of(node):
    return KeyDatabase(node.path / "keys.db")


def test_show_tells_what_hangs_on_a_password(paired):
    paired.add_to_config(JOB)
    with keys_of(paired) as keys:
        keys.put_storage_key(b"p" * 16, StorageKey.generate(), keys.user_key("office"))
    (row,) = paired.json("password", "show", "office").objects()
    assert (row["jobs"], row["points"], row["changed"], row["unfinished_changes"]) == (["docs"], 1, None, 0)
    assert row["argon2id"] == {"memory_kib": 8, "iterations": 1, "lanes": 1}
    shown = paired("password", "show", "office")
    assert shown.status == 0 and "docs" in shown.out and "1 passes" in shown.out
    assert paired("password", "show", "vault").status == 6


def test_a_password_is_changed(alone, new):
    with keys_of(alone) as keys:
        before = keys.user_key("office")
    done = alone.json("password", "change", "office", "--from-file", new, "--hint", "a riddle")
    (row,) = [row for row in done.objects() if "slots_replaced" in row]
    assert done.status == 0 and (row["password_name"], row["slots_replaced"]) == ("office", 0)
    with keys_of(alone) as keys:
        assert keys.user_key("office").salt != before.salt and keys.unfinished_changes() == []
    (row,) = alone.json("password", "list").objects()
    assert row["changed"] and row["hint"] == "a riddle"


def test_a_place_that_is_not_reached_is_named_and_the_change_goes_on_later(paired, new):
    done = paired("password", "change", "office", "--from-file", new)
    assert done.status == 4
    assert "offsite/main" in done.err and "transporter password change office --resume;" in done.err
    again = paired("password", "change", "office", "--from-file", new)
    assert again.status == 2 and "not finished" in again.err
    assert paired("password", "remove", "office").status == 2
    assert "not finished" in paired("password", "show", "office").err
    assert paired("password", "change", "office", "--resume").status == 4
    with Catalog(paired.path / "catalog.db") as catalog:
        catalog.remove_peer("offsite")
    assert paired("password", "change", "office", "--resume").status == 0
    again = paired("password", "change", "office", "--resume")
    assert again.status == 2 and "no change" in again.err
    with keys_of(paired) as keys:
        assert keys.unfinished_changes() == []


def test_a_change_needs_a_name_that_is_there_and_one_source(alone, new):
    assert alone("password", "change", "vault", "--from-file", new).status == 6
    assert alone("password", "change", "office").status == 2
    assert alone("password", "change", "office", "--resume", "--from-file", new).status == 2
    with keys_of(alone) as keys:
        assert keys.unfinished_changes() == []


def test_rotating_keeps_the_password_and_takes_no_other(alone, new):
    with keys_of(alone) as keys:
        before = keys.user_key("office")
    wrong = alone("password", "rotate", "office", "--from-file", new)
    assert wrong.status == 6 and "not the password" in wrong.err
    right = str(alone.path.parent / "secret")
    assert alone("password", "rotate", "office", "--from-file", right).status == 0
    with keys_of(alone) as keys:
        after = keys.user_key("office")
    assert after.salt != before.salt and after.hash.raw != before.hash.raw
    assert alone("password", "rotate", "office", "--from-file", right).status == 0


def test_at_a_terminal_there_are_three_tries(alone, monkeypatch):
    tries = iter(["no", "nor this", "correct horse", "never asked"])
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(tries))
    monkeypatch.setattr("transporter.cli.asking.sys.stdin.isatty", lambda: True)
    assert alone("password", "rotate", "office").status == 0
    tries = iter(["no", "nor this", "nor that", "correct horse"])
    done = alone("password", "rotate", "office")
    assert done.status == 6 and next(tries) == "correct horse"


def test_a_password_in_use_is_not_removed_without_force(alone):
    alone.add_to_config(JOB)
    with keys_of(alone) as keys:
        keys.put_storage_key(b"p" * 16, StorageKey.generate(), keys.user_key("office"))
    refused = alone("password", "remove", "office")
    assert refused.status == 2
    assert "job docs" in refused.err and "1 restore points" in refused.err and "--force" in refused.err
    assert alone.quiet("password", "list").out == "office\n"
    done = alone.json("password", "remove", "office", "--force")
    assert done.status == 0 and len(done.objects()[-1]["lost"]) == 2
    assert alone.quiet("password", "list").out == ""
    assert alone("password", "remove", "office").status == 6


def test_one_that_nothing_hangs_on_is_just_removed(alone):
    assert alone("password", "remove", "office").status == 0


def test_the_audit_trail_is_shown_and_proved(alone, new):
    alone("password", "change", "office", "--from-file", new)
    rows = alone.json("audit", "log").objects()
    assert [row["event"] for row in rows] == ["password.add", "password.change", "password.changed"]
    assert [row["event"] for row in alone.json("audit", "log", "--last", "1").objects()] == ["password.changed"]
    assert "password.change" in alone("audit", "log").out
    assert alone.json("audit", "verify").objects() == [{"entries": 3, "approvals": 0}]
    trail = alone.path / "audit.log"
    trail.write_bytes(trail.read_bytes().replace(b"office", b"0ffice", 1))
    assert alone("audit", "verify").status == 7
    assert alone("audit", "log").status == 7


def test_nothing_is_done_that_cannot_be_entered_until_the_trail_begins_anew(alone):
    assert alone("audit", "begin-anew").status == 2
    trail = alone.path / "audit.log"
    trail.write_bytes(trail.read_bytes()[:-9])
    done = alone("password", "remove", "office")
    assert done.status == 7 and "begin-anew" in done.err
    assert alone.quiet("password", "list").out == "office\n"
    (row,) = alone.json("audit", "begin-anew").objects()
    assert Path(row["old"]).exists()
    assert alone("password", "remove", "office").status == 0
    events = [row["event"] for row in alone.json("audit", "log").objects()]
    assert events == ["audit.begun-anew", "password.remove"]
    assert alone("audit", "verify").status == 0


def test_a_place_that_is_gone_for_good_is_left_out_when_somebody_says_so(paired, new):
    assert paired("password", "change", "office", "--from-file", new).status == 4
    done = paired("password", "change", "office", "--resume", "--give-up")
    assert done.status == 0 and "left out: offsite/main" in done.err
    with keys_of(paired) as keys:
        assert keys.unfinished_changes() == []
        assert list(keys.audit.entries())[-1]["left_out"] == ["offsite/main"]


def test_at_the_end_that_seals_for_others_removing_says_what_that_means(alone):
    with keys_of(alone) as keys:
        keys.ensure_domain_key("tenant/docs", keys.user_key("office"))
    refused = alone("password", "remove", "office")
    assert refused.status == 2 and "for tenant/docs opens for nobody" in refused.err
    assert "tenant/docs" in alone("password", "list").out and "tenant/docs" in alone("password", "show", "office").out
    (row,) = alone.json("password", "list").objects()
    assert row["sealed_for"] == ["tenant/docs"]


def test_one_that_copies_are_sealed_with_is_in_use(alone):
    alone.add_to_config(
        '[copies.vault]\nfrom = "offsite/main"\nto = "offsite/second"\nseal = "all"\npassword = "office"\n'
    )
    refused = alone("password", "remove", "office")
    assert refused.status == 2 and "copy vault" in refused.err
    assert "copy vault" in alone("password", "list").out and "vault" in alone("password", "show", "office").out
    assert alone("password", "remove", "--force", "office").status == 0


def test_an_empty_trail(node):
    assert node("audit", "log").status == 0 and node.json("audit", "verify").objects() == [
        {"entries": 0, "approvals": 0}
    ]


def test_no_secret_is_printed_or_written(alone, new):
    outputs = [
        alone("password", "change", "office", "--from-file", new),
        alone("password", "show", "office"),
        alone.json("password", "list"),
        alone("audit", "log"),
        alone("password", "remove", "office"),
    ]
    files = [path.read_bytes() for path in alone.path.rglob("*") if path.is_file()]
    for secret in SECRETS:
        assert not any(secret.decode() in done.out + done.err for done in outputs)
        assert not any(secret in content for content in files)


def test_a_locked_database_is_a_clear_error(alone, monkeypatch):
    monkeypatch.setattr("transporter.keys.database_schema.BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(alone.path / "keys.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    done = alone("password", "remove", "office")
    holder.close()
    assert done.status == 1 and "in use" in done.err


def test_a_password_is_kept_again_after_a_home_was_lost(alone, monkeypatch):
    secret = str(alone.path.parent / "secret")
    with keys_of(alone) as keys:
        key = keys.user_key("office")
        keys.remove_password("office")
    price = key.params
    facts = {
        "salt": key.salt.hex(),
        "verifier": key.hash.verifier.hex(),
        "memory_kib": price.memory_kib,
        "iterations": price.iterations,
        "lanes": price.lanes,
        "points": 7,
    }
    hostile = facts | {"memory_kib": 2**31, "salt": "11" * 16}
    outcome = JobOutcome(exit_status=0, result={"salts": [hostile, facts]})
    monkeypatch.setattr("transporter.cli.password_recover.run_request", lambda *_: outcome)
    wrong = alone.path.parent / "wrong"
    wrong.write_bytes(b"something else")
    assert alone("password", "recover", "office", "--from-file", str(wrong)).status == 6
    (row,) = alone.json("password", "recover", "office", "--from-file", secret).objects()
    assert row == {"password_name": "office", "points": 7}
    with keys_of(alone) as keys:
        assert keys.user_key("office") == key
    # No storage key is here that hangs on it, and yet it opens them.
    refused = alone("password", "remove", "office")
    assert refused.status == 2 and "7 restore points" in refused.err
    (row,) = alone.json("password", "show", "office").objects()
    assert (row["points"], row["points_when_recovered"]) == (0, 7)
    assert alone("password", "remove", "--force", "office").status == 0
    with keys_of(alone) as keys:
        keys.add_password("office", b"correct horse")
    assert alone("password", "remove", "office").status == 0


def test_who_types_the_password_to_recover_has_three_tries(alone, monkeypatch):
    with keys_of(alone) as keys:
        key = keys.user_key("office")
        keys.remove_password("office")
    price = key.params
    facts = {"salt": key.salt.hex(), "verifier": key.hash.verifier.hex(), "points": 7}
    facts |= {"memory_kib": price.memory_kib, "iterations": price.iterations, "lanes": price.lanes}
    outcome = JobOutcome(exit_status=0, result={"salts": [facts]})
    monkeypatch.setattr("transporter.cli.password_recover.run_request", lambda *_: outcome)
    monkeypatch.setattr("transporter.cli.asking.sys.stdin.isatty", lambda: True)
    tries = iter(["no", "nor this", "nor that", "correct horse"])
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(tries))
    assert alone("password", "recover", "office").status == 6 and next(tries) == "correct horse"
    tries = iter(["no", "nor this", "correct horse"])
    assert alone("password", "recover", "office").status == 0


def test_where_nothing_is_unknown_there_is_nothing_to_recover(alone):
    done = alone("password", "recover", "spare", "--from-file", str(alone.path.parent / "secret"))
    assert done.status == 2 and "nothing to do" in done.err

"""``transporter config export | show | import`` as people type it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from transporter.bundle.export import export_bundle
from transporter.keys.password import KdfParameters

SECRET = "the password of the bundle"


@pytest.fixture(autouse=True)
def cheap_bundles(monkeypatch):
    monkeypatch.setitem(export_bundle.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "bundle-password"
    path.write_text(f"{SECRET}\n")
    return ("--password-file", str(path))


@pytest.fixture
def bundle(paired, tmp_path, secret):
    assert paired("config", "export", str(tmp_path / "b"), *secret).status == 0
    return str(tmp_path / "b")


@pytest.fixture
def elsewhere(paired, tmp_path):
    """The same program for a home that is not there yet."""
    paired.path = tmp_path / "new"
    return paired


@pytest.fixture
def typed(monkeypatch):
    """Have a person at the terminal type these, one after the other; returns what was asked."""

    def person(*answers):
        asked, left = [], list(answers)

        def getpass(prompt):
            asked.append(prompt)
            return left.pop(0)

        terminal = io.TextIOWrapper(io.BytesIO())
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr("getpass.getpass", getpass)
        return asked

    return person


def test_export_says_what_is_in_it(paired, tmp_path, secret):
    (row,) = paired.json("config", "export", str(tmp_path / "b"), *secret).objects()
    assert (row["node"], row["peers"], row["passwords"], row["private_keysets"]) == ("office", 1, 1, [])
    assert row["bytes"] == (tmp_path / "b").stat().st_size
    assert paired.quiet("config", "export", str(tmp_path / "c"), *secret).out == f"{tmp_path / 'c'}\n"


def test_show_needs_the_password_and_proves_the_bundle(paired, bundle, secret, tmp_path):
    done = paired("config", "show", bundle, *secret)
    assert done.status == 0
    assert "office" in done.out and "the bundle is whole" in done.out and "1 peers, 1 passwords" in done.out
    other = tmp_path / "other"
    other.write_text("another")
    assert paired("config", "show", bundle, "--password-file", str(other)).status == 6
    whole = bytearray(Path(bundle).read_bytes())
    whole[-1] ^= 1
    Path(bundle).write_bytes(whole)
    assert paired("config", "show", bundle, *secret).status == 7


def test_import_warns_of_two_nodes_with_one_identity(bundle, elsewhere, secret):
    done = elsewhere("config", "import", bundle, *secret)
    assert done.status == 0
    assert "must never run again beside it" in done.err
    assert "revoked since then" in done.err
    assert elsewhere("password", "list").status == elsewhere("audit", "verify").status == 0
    assert "offsite" in elsewhere.quiet("peer", "list").out


def test_exit_statuses_of_an_import(bundle, paired, elsewhere, secret, tmp_path, monkeypatch):
    monkeypatch.setenv("BUNDLE", "another")
    wrong = elsewhere.json("config", "import", bundle, "--password-env", "BUNDLE")
    assert (wrong.status, wrong.objects()[0]["code"]) == (6, "wrong-password")
    data = bytearray((tmp_path / "b").read_bytes())
    data[9] = 2
    (tmp_path / "newer").write_bytes(data)
    newer = elsewhere.json("config", "import", str(tmp_path / "newer"), *secret)
    assert (newer.status, newer.objects()[0]["code"]) == (7, "unsupported-format")
    (tmp_path / "cut").write_bytes(data[:1000])
    assert elsewhere("config", "import", str(tmp_path / "absent"), *secret).status == 2
    (tmp_path / "none").write_bytes(b"hello")
    assert elsewhere("config", "import", str(tmp_path / "none"), *secret).status == 7
    assert not elsewhere.path.exists()
    assert elsewhere("config", "import", bundle, *secret).status == 0
    again = elsewhere.json("config", "import", bundle, *secret)
    assert (again.status, again.objects()[0]["code"]) == (3, "config")
    assert "--replace" in again.err
    assert elsewhere("config", "import", bundle, *secret, "--replace").status == 0


@pytest.mark.parametrize("name", ["absent/b", "file/b"])
def test_export_to_a_place_that_is_not_there(paired, tmp_path, typed, name):
    (tmp_path / "file").touch()
    asked = typed()
    done = paired("config", "export", str(tmp_path / name))
    assert done.status == 2 and name in done.err, done
    assert not asked


def test_import_to_a_place_where_no_home_can_be(bundle, elsewhere, tmp_path, typed):
    (tmp_path / "file").touch()
    asked = typed()
    elsewhere.path = tmp_path / "file" / "home"
    done = elsewhere("config", "import", bundle)
    assert done.status == 3 and "Not a directory" in done.err, done
    assert not asked


def test_a_person_may_mistype_twice(bundle, elsewhere, typed):
    asked = typed("wrong", "still wrong", SECRET)
    done = elsewhere("config", "import", bundle)
    assert done.status == 0, done
    assert len(asked) == 3
    assert done.err.count("not the password of the bundle") == 2


def test_a_person_may_not_mistype_three_times(bundle, elsewhere, typed):
    asked = typed("wrong", "wrong", "wrong", SECRET)
    assert elsewhere("config", "import", bundle).status == 6
    assert len(asked) == 3
    assert not elsewhere.path.exists()


def test_a_file_is_not_asked_three_times(bundle, elsewhere, tmp_path, monkeypatch):
    from transporter.bundle.reading import Bundle

    tries, really = [], Bundle.unlock
    monkeypatch.setattr(Bundle, "unlock", lambda self, password: tries.append(1) or really(self, password))
    (tmp_path / "wrong").write_text("wrong")
    assert elsewhere("config", "import", bundle, "--password-file", str(tmp_path / "wrong")).status == 6
    assert tries == [1]


def test_nobody_types_a_password_for_a_place_that_is_taken(bundle, paired, typed):
    asked = typed()
    assert paired("config", "import", bundle).status == 3
    assert asked == []


def test_export_asks_twice(paired, tmp_path, typed):
    asked = typed(SECRET, "something else")
    assert paired("config", "export", str(tmp_path / "b")).status == 2
    assert len(asked) == 2
    assert not (tmp_path / "b").exists()
    typed(SECRET, SECRET)
    assert paired("config", "export", str(tmp_path / "b")).status == 0


def test_no_password_where_nobody_can_be_asked(paired, tmp_path, bundle):
    for words in (("export", str(tmp_path / "c")), ("show", bundle)):
        done = paired("config", *words)
        assert done.status == 2
        assert "--password-file" in done.err


def test_a_bundle_in_the_home_itself_is_warned_of(paired, secret):
    done = paired("config", "export", str(paired.path / "b"), *secret)
    assert done.status == 0
    assert "would be lost with it" in done.err


def test_no_output_shows_the_password_or_a_key(paired, bundle, elsewhere, secret):
    done = elsewhere("config", "import", bundle, *secret)
    shown = done.out + done.err + (elsewhere.path / "audit.log").read_text()
    key = (elsewhere.path / "master.key").read_text().split()[1]
    assert SECRET not in shown and key not in shown

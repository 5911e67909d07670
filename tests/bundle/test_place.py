"""Where an import puts a home: never over anything, atomically, and nobody at work there."""

from __future__ import annotations

import fcntl
import stat
from pathlib import Path

import pytest
from bundle_world import PASSWORD, POINT, imported, nothing_left, unsealed

from transporter.bundle import importing
from transporter.bundle.reading import open_bundle
from transporter.errors import (
    ConfigError,
    DamagedData,
    JobBusy,
    JobFailed,
)
from transporter.keys.database import KeyDatabase


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def test_into_an_empty_folder(bundle, elsewhere):
    (elsewhere / "A").mkdir(mode=0o755)
    imported(bundle, elsewhere / "A")
    assert mode(elsewhere / "A") == 0o700


def test_into_a_folder_that_a_link_leads_to(bundle, elsewhere):
    (elsewhere / "disk").mkdir()
    (elsewhere / "A").symlink_to(elsewhere / "disk" / "home")
    (elsewhere / "disk" / "home").mkdir()
    assert imported(bundle, elsewhere / "A").home == elsewhere / "disk" / "home"
    assert (elsewhere / "A").is_symlink()


def test_never_over_a_home_or_anything_else(node, bundle, elsewhere):
    (elsewhere / "file").write_text("mine")
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "mine").touch()
    for path in (node.home.path, elsewhere / "file", elsewhere / "full"):
        with pytest.raises(ConfigError):
            imported(bundle, path)
    for path in (elsewhere / "file", elsewhere / "full"):
        with pytest.raises(ConfigError):
            imported(bundle, path, replace=True)
    with node.keys() as keys:
        assert keys.storage_key(POINT) == node.storage_key
    assert nothing_left(elsewhere, "file", "full")


def test_replace_puts_the_old_home_aside(node, bundle, tmp_path):
    (node.home.repositories / "main").mkdir()
    (node.home.repositories / "main" / "data").write_text("packs")
    done = imported(bundle, node.home.path, replace=True)
    assert done.aside.parent == node.home.path.parent
    assert done.aside.name.startswith("A.2")
    assert (done.aside / "repositories" / "main" / "data").read_text() == "packs"
    assert nothing_left(node.home.path.parent, "A", done.aside.name)
    with KeyDatabase(node.home.keys_db) as keys:
        assert keys.audit.verify(keys.audit_head()) == 3
    again = imported(bundle, node.home.path, replace=True)
    assert again.aside != done.aside
    assert done.aside.exists()


def test_a_rename_that_fails_brings_the_old_home_back(node, bundle, monkeypatch):
    really = Path.rename

    def rename(path, target):
        if ".import-" in path.name:
            raise OSError(16, "Device or resource busy")
        return really(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ConfigError, match="busy"):
        imported(bundle, node.home.path, replace=True)
    monkeypatch.undo()
    assert nothing_left(node.home.path.parent, "A")
    with node.keys() as keys:
        assert keys.storage_key(POINT) == node.storage_key


@pytest.mark.parametrize("lock", ["daemon.lock", "job-docs.lock", "rewrap.lock"])
def test_not_while_somebody_works_there(node, bundle, lock):
    with (node.home.locks / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JobBusy):
            imported(bundle, node.home.path, replace=True)
        assert nothing_left(node.home.path.parent, "A")
    imported(bundle, node.home.path, replace=True)


def test_repositories_that_are_not_here_are_told(node, tmp_path, elsewhere):
    with node.home.config_path.open("a") as file:
        file.write(f'\n[repositories.inside]\n[repositories.there]\npath = "{tmp_path}"\n')
        file.write(f'[repositories.gone]\npath = "{tmp_path}/gone"\n')
    node.export(tmp_path / "b")
    done = imported(tmp_path / "b", elsewhere / "A")
    assert done.missing == {"inside": elsewhere / "A" / "repositories" / "inside", "gone": tmp_path / "gone"}


def test_what_a_killed_import_left_is_removed_by_the_next(bundle, elsewhere):
    left = elsewhere / ".A.import-0123456789abcdef"
    left.mkdir(mode=0o700)
    (left / "master.key").write_text("key")
    other = elsewhere / ".AB.import-0123456789abcdef"
    other.mkdir()
    mine = elsewhere / ".A.import-mine"
    mine.symlink_to(other)
    imported(bundle, elsewhere / "A")
    assert nothing_left(elsewhere, "A", other.name, mine.name)


def test_an_import_that_goes_on_is_left_alone(bundle, elsewhere, monkeypatch):
    really = importing._prove

    def meanwhile(opened, folder, clock):
        monkeypatch.setattr(importing, "_prove", really)
        imported(bundle, elsewhere / "A")
        return really(opened, folder, clock)

    monkeypatch.setattr(importing, "_prove", meanwhile)
    with pytest.raises(JobFailed):  # the other was first, and its home is not replaced
        imported(bundle, elsewhere / "A")
    assert nothing_left(elsewhere, "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        assert keys.audit.verify(keys.audit_head()) == 3


def test_a_place_that_is_not_ours_says_so(bundle, elsewhere, monkeypatch):
    def refuse(path, *_args, **_how):
        raise PermissionError(13, "Permission denied")

    (elsewhere / "A").mkdir()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match="folder beside it"):
        imported(bundle, elsewhere / "A")


def test_nothing_of_a_bundle_is_read_twice(bundle):
    """What was proved is what was taken: one pass, no second look at a file that may have changed."""
    with open_bundle(bundle) as file:
        opened = file.unlock(PASSWORD)
        opened.prove()
        with pytest.raises(DamagedData):
            opened.prove()
    assert unsealed(bundle.read_bytes()).read(4)

from __future__ import annotations

import os
import stat

import pytest

from transporter.errors import ConfigError, DiskFull
from transporter.keys import open_database, private_file
from transporter.keys.database import KeyDatabase
from transporter.keys.master_key import MasterKey
from transporter.keys.private_file import check_private, create_private


def test_never_readable_by_others_not_even_for_a_moment(tmp_path, monkeypatch):
    modes = []

    def look(handle, mode):
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))

    monkeypatch.setattr(private_file.os, "fchmod", look)
    before = os.umask(0)
    try:
        create_private(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_narrow_umask_does_not_lock_the_owner_out(tmp_path):
    before = os.umask(0o777)
    try:
        create_private(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert check_private(tmp_path / "file")


def test_an_existing_file_is_left_alone(tmp_path):
    create_private(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_private(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_file.os, "fsync", fail)
    with pytest.raises(DiskFull, match="no room"):
        create_private(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be made"):
        create_private(tmp_path / "missing" / "file", b"content")
    with pytest.raises(ConfigError):
        KeyDatabase(tmp_path / "missing" / "keys.db")


def test_check_private(tmp_path):
    assert not check_private(tmp_path / "missing")
    with pytest.raises(ConfigError, match="plain file"):
        check_private(tmp_path)
    create_private(tmp_path / "file", b"")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_private(tmp_path / "file" / "below")


def test_who_comes_second_uses_the_master_key_of_the_first(tmp_path, monkeypatch):
    def lose_the_race(where, content):
        create_private(where, b"transporter-master-key-1 " + b"ab" * 32 + b"\n")
        create_private(where, content)

    monkeypatch.setattr(open_database, "create_private", lose_the_race)
    with KeyDatabase(tmp_path / "keys.db") as keys:
        assert keys._key_id == MasterKey(b"\xab" * 32).key_id

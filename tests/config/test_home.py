from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import ConfigError
from transporter.home import Home, default_home, safe_name


def made(path):
    home = Home.create(path)
    home.config_path.write_text("")
    return home


def test_a_home_is_private(tmp_path):
    home = made(tmp_path / "deep" / "home")
    for folder in (home.path, home.cache, home.locks, home.repositories):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert Home.open(home.path).path == home.path


def test_a_home_is_not_made_twice_nor_among_other_things(tmp_path):
    made(tmp_path / "a")
    with pytest.raises(ConfigError, match="is a home already"):
        Home.create(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        Home.create(tmp_path / "b")
    with pytest.raises(ConfigError, match="cannot make"):
        Home.create(tmp_path / "b" / "file" / "home")


def test_a_home_that_others_can_look_into_is_refused(tmp_path):
    home = made(tmp_path / "a")
    home.path.chmod(0o750)
    with pytest.raises(ConfigError, match=r"mode 0750.*chmod 700"):
        Home.open(home.path)


def test_no_home(tmp_path):
    with pytest.raises(ConfigError, match="there is no home at"):
        Home.open(tmp_path)


def test_the_environment_names_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSPORTER_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("TRANSPORTER_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_home() == tmp_path / "xdg" / "transporter"


@given(st.text(min_size=1))
def test_no_name_leaves_its_folder(name):
    try:
        safe = safe_name(name)
    except UnicodeEncodeError:
        return
    assert "/" not in safe
    assert safe not in {"", ".", ".."}


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=5))
def test_names_stay_apart(names):
    assert len({safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("length", [1, 120])
def test_the_control_socket_can_be_reached_however_long_its_path(tmp_path, length):
    home = made(tmp_path / ("x" * length))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with home.socket_address() as address:
            server.bind(address)
        server.listen()
        assert home.control_socket.is_socket()
        descriptors = len(os.listdir("/proc/self/fd"))
        with home.socket_address() as address:
            client.connect(address)
        assert len(os.listdir("/proc/self/fd")) == descriptors

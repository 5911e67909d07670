"""`repository make-anew`: after a disk died, with the settings that the repository had; never over one that lives."""

from __future__ import annotations

import fcntl
import shutil

import pytest

from transporter.clock import SystemClock
from transporter.repository import Repository, RepositoryMissing


@pytest.fixture
def lost(node):
    assert node("repository", "add", "main", "--quota", "1GiB", "--recycle", "7d").status == 0
    place = node.path / "repositories" / "main"
    shutil.rmtree(place)
    return place


def test_an_empty_repository_takes_the_place_with_the_settings_it_had(node, lost):
    before = node.config()
    assert node("repository", "make-anew", "main").status == 0
    assert (lost / "format").exists() and node.config() == before
    shown = node.json("repository", "show", "main").objects()[0]
    assert shown["quota"] == 1 << 30
    assert "repository.make-anew" in node("audit", "log").out


def test_it_may_lie_elsewhere_from_then_on(node, lost, tmp_path):
    assert node("repository", "make-anew", "main", "--path", str(tmp_path / "new")).status == 0
    assert (tmp_path / "new" / "format").exists() and not lost.exists()
    assert f'path = "{tmp_path / "new"}"' in node.config() and 'recycle = "7d"' in node.config()
    assert node("repository", "show", "main").status == 0


def test_one_that_lives_is_never_made_anew(node, tmp_path):
    assert node("repository", "add", "main").status == 0
    format_file = node.path / "repositories" / "main" / "format"
    before = format_file.read_bytes()
    for more in ((), ("--path", str(tmp_path / "new"))):
        done = node("repository", "make-anew", "main", *more)
        assert done.status == 2 and "there is a repository" in done.err
    assert format_file.read_bytes() == before and not (tmp_path / "new").exists()


def test_a_folder_with_something_in_it_is_not_used(node, lost):
    lost.mkdir()
    (lost / "somebody's").write_text("x")
    assert node("repository", "make-anew", "main").status == 2
    assert not (lost / "format").exists()


def test_a_daemon_that_has_the_old_one_open_must_be_stopped_first(node, lost):
    with (node.path / "locks" / "daemon.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = node("repository", "make-anew", "main")
    assert done.status != 0 and "stop it first" in done.err and not lost.exists()


def test_whoever_meets_the_loss_is_told_of_it(node, lost):
    for words in (("repository", "add", "main"), ("check-config",), ("repository", "show", "main")):
        done = node(*words)
        assert done.status != 0 and "make-anew" in done.out + done.err
    with pytest.raises(RepositoryMissing) as caught:
        Repository.open(lost, SystemClock())
    assert "mounted" in caught.value.remedy

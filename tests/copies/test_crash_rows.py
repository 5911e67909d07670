"""The rows of the crash table that are about copies: one test for each. Every step: tests/crash/test_copy_kill.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from world import PASSWORD, contents, small_tree

from transporter.clock import SystemClock
from transporter.errors import DiskFull
from transporter.home import Home
from transporter.repository import Repository

SCRIPT = Path(__file__).parents[1] / "crash" / "copy_kill.py"
WAY = ("offsite/main", "second/main")


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def kill(tmp_path):
    """The scene of tests/crash/copy_kill.py: a home with two repositories, of which one has two points."""
    spec = importlib.util.spec_from_file_location("copy_kill", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(tmp_path)
    return module


def commits(monkeypatch, *, dies_before=0, dies_after=0, dying=Killed):
    """Have the process die before, or after, the commit of that number."""
    really = Repository.commit_point
    seen = []

    def commit(self, *arguments, **how):
        seen.append(1)
        if len(seen) == dies_before:
            raise dying
        result = really(self, *arguments, **how)
        if len(seen) == dies_after:
            raise Killed
        return result

    monkeypatch.setattr(Repository, "commit_point", commit)


def die(kill, folder, monkeypatch, **when):
    with monkeypatch.context() as patch:
        commits(patch, **when)
        with pytest.raises(BaseException) as caught:
            kill.copy(folder)
        assert caught.group_contains(Killed) if isinstance(caught.value, BaseExceptionGroup) else True
    return kill.seen(Home(folder / "home"))


def test_copying_before_the_commit_of_a_point(kill, tmp_path, monkeypatch):
    assert die(kill, tmp_path, monkeypatch, dies_before=1) == 0
    home = Home(tmp_path / "home")
    with Repository.open(home.repository_path("two"), SystemClock()) as two:
        assert sum(usage.records for usage in two._index.usage()) == kill.CHUNKS
    assert kill.copy(tmp_path) == kill.POINTS
    with Repository.open(home.repository_path("two"), SystemClock()) as two:
        again = sum(usage.records for usage in two._index.usage())
    assert again == kill.CHUNKS * 3 // 2  # of both points: none was stored twice
    kill.check(tmp_path)


def test_copying_between_two_points(kill, tmp_path, monkeypatch):
    assert die(kill, tmp_path, monkeypatch, dies_before=2) == 1
    assert kill.copy(tmp_path) == 1
    kill.check(tmp_path)


def test_copying_after_a_commit_before_its_answer(kill, tmp_path, monkeypatch):
    assert die(kill, tmp_path, monkeypatch, dies_after=1) == 1
    assert kill.copy(tmp_path) == 1
    kill.check(tmp_path)


async def test_sealing_anew_before_the_commit(world, monkeypatch):
    """What was sealed is used by the next copy: its point opens, under the new password alone."""
    world.source.keys.add_password("later", PASSWORD)
    small_tree(world.source.tree / "more", size=3_000_000)
    await world.source.backup()
    how = {"jobs": ("docs",), "seal": "all", "password": "later"}
    with monkeypatch.context() as patch:
        # The world's target lives on: only the copy ends there.
        commits(patch, dies_before=1, dying=DiskFull("no room left: the test", "make some"))
        with pytest.raises(DiskFull):
            await world.copy(world.source, *WAY, **how)
    assert world.there().points(world.tenant(world.source), "docs") == []
    done = await world.copy(world.source, *WAY, **how)
    assert done.points == 1 and done.chunks_new < done.chunks
    place = await world.source.restore("docs", source="second/main", output="back")
    assert contents(place) == contents(world.source.tree)

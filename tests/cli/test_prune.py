from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.repository.prune_world import backup, known, remove_point
from transporter.clock import ManualClock, SystemClock
from transporter.repository import Repository


@pytest.fixture
def place(node) -> Path:
    assert node("repository", "add", "main").status == 0
    path = node.path / "repositories" / "main"
    with Repository.open(path, SystemClock()) as repository:
        backup(repository, 1, range(30))
        backup(repository, 2, range(100, 110))
    remove_point(path, 1)
    return path


def test_a_dry_run_says_what_would_be_freed(node, place):
    (row,) = finished(node.json("prune", "main", "--dry-run", "--grace", "0s"))
    assert row["dry_run"]
    assert (row["packs_removed"], row["live_chunks"], row["doomed_chunks"]) == (1, 10, 30)
    assert row["freed_bytes"] > 30 * 100
    done = node("prune", "main", "--dry-run", "--grace", "0s")
    assert "would free" in done.out
    with Repository.open(place, SystemClock()) as repository:
        assert known(repository, range(30)) == set(range(30))


def test_the_grace_is_told_and_kept(node, place):
    done = node("prune", "main")
    assert done.status == 0
    assert "30 chunks" in done.err
    assert "24 hours" in done.err
    (row,) = finished(node.json("prune", "main", "--grace", "0s"))
    assert (row["deleted_chunks"], row["packs_removed"]) == (30, 1)
    with Repository.open(place, SystemClock()) as repository:
        assert known(repository, [*range(30), *range(100, 110)]) == set(range(100, 110))


def test_beside_a_daemon_that_has_the_repository_open(node, place):
    with Repository.open(place, SystemClock()) as repository:
        assert node("prune", "main", "--grace", "0s").status == 0
        assert known(repository, [*range(30), *range(100, 110)]) == set(range(100, 110))


def test_a_clock_in_doubt_deletes_nothing_until_it_is_confirmed(node, place):
    two_days_ago = ManualClock(wall_ns=SystemClock().now_ns() - 2 * 86_400 * 10**9)
    with Repository.open(place, two_days_ago, writable=False) as repository:
        repository.keeping.clock.accept()
    text = node.config()
    (node.path / "config.toml").write_text(
        text.replace("\n[repositories.main]\n", '\n[repositories.main]\nclock_jump = "1d"\n')
    )
    done = node("prune", "main", "--grace", "0s")
    assert done.status == 5 and "accept-clock" in done.err
    assert node("repository", "accept-clock", "main").status == 0
    assert node("prune", "main", "--grace", "0s").status == 0


@pytest.mark.parametrize(
    ("arguments", "status"), [(("main", "--grace", "soon"), 2), (("main", "--compact", "120%"), 2), (("other",), 3)]
)
def test_what_cannot_be_meant_is_refused(node, place, arguments, status):
    assert node("prune", *arguments).status == status


def finished(done) -> list[dict]:
    rows = [json.loads(line) for line in done.out.splitlines()]
    return [row for row in rows if row["event"] == "prune_finished"]

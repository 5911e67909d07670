"""Retention, points, pins and locks as a provider types them; a tenant's side is in tests/service/test_keeping.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from transporter.catalog import Catalog, Peer
from transporter.catalog_chain import MISSING, ChainPoint
from transporter.clock import SystemClock
from transporter.keys.operator_key import seal_operator
from transporter.keys.password import KdfParameters
from transporter.repository import ChunkRecord, Repository

sys.path.insert(0, str(Path(__file__).parent))

from operators import Office

DOMAIN, KEY = b"D" * 16, b"K" * 32
DAY_NS = 86_400 * 10**9
IDS = [bytes([number]) * 16 for number in range(1, 6)]


class Days(SystemClock):
    """The real clock, some days ago."""

    def __init__(self, ago: float) -> None:
        self.ago = ago

    def now_ns(self) -> int:
        return time.time_ns() - int(self.ago * DAY_NS)


def fill(place: Path, tenant="office-1", points=IDS, job="docs"):
    """A point a day, the newest of today."""
    for number, point in enumerate(points):
        clock = Days(len(points) - 1 - number)
        with Repository.open(place, clock) as repository:
            if not repository.have(DOMAIN, [b"c" * 32])[0]:
                writer = repository.writer(DOMAIN, tenant)
                writer.append(ChunkRecord(b"c" * 32, KEY, 1, 1000, b"x" * 100))
                writer.close()
            slots = [(b"a" * 16, b"slot")]
            repository.commit_point(tenant, job, point, b"head", b"c" * 32, domain=DOMAIN, slots=slots)
            repository.keeping.clock.accept()


def place_of(node):
    return node.path / "repositories" / "main"


@pytest.fixture
def provider(node):
    assert node("repository", "add", "main", "--recycle", "7d").status == 0
    fill(place_of(node))
    return node


def there(node, tenant="office-1"):
    with Repository.open(place_of(node), SystemClock(), writable=False) as repository:
        return [ref.point_id for ref in repository.points(tenant, "docs")]


def test_a_dry_run_says_of_each_point_why_and_removes_nothing(provider):
    done = provider("retention", "docs", "--repository", "main", "--keep-last", "2", "--dry-run")
    assert done.status == 0
    assert "last 1 of 2" in done.out and "last: 2 newer ones" in done.out
    assert "3 would go; nothing was removed" in done.out
    (report,) = provider.json("retention", "docs", "--repository", "main", "--keep-last", "2", "--dry-run").objects()
    assert [row["keep"] for row in report["points"]] == [False] * 3 + [True] * 2
    assert there(provider) == IDS


def test_retention_removes_and_what_it_removed_comes_back(provider):
    done = provider.quiet("retention", "docs", "--repository", "main", "--keep-daily", "2")
    assert done.out.split() == [point.hex() for point in IDS[:3]]
    assert there(provider) == IDS[3:]
    recycled = provider.json("points", "--repository", "main", "--recycled").objects()
    assert [row["removed_by"] for row in recycled] == ["the provider"] * 3
    assert provider("point", "undelete", "docs", "0101", "0303", "--repository", "main").status == 0
    assert there(provider) == [IDS[0], IDS[2], *IDS[3:]]


def test_what_is_not_in_the_recycle_bin_is_looked_for_there(provider):
    done = provider("point", "undelete", "docs", "0101", "--repository", "main")
    assert done.status == 2 and "no restore point in the recycle bin begins with '0101'" in done.err
    listing = "points --repository main --job docs"
    assert f"`transporter {listing} --recycled` lists them" in done.err
    done = provider("point", "remove", "docs", "ff", "--repository", "main")
    assert f"`transporter {listing}` lists them" in done.err
    assert provider(*listing.split(), "--recycled").status == provider(*listing.split()).status == 0


@pytest.mark.parametrize("options", [(), ("--keep-last", "0")])
def test_without_a_policy_nothing_is_removed(provider, options):
    done = provider("retention", "docs", "--repository", "main", *options)
    assert done.status == 2 and "no policy" in done.err
    assert there(provider) == IDS


def test_bad_words_are_told(provider):
    for command in (
        ("retention", "docs", "--repository", "none", "--keep-last", "1"),
        ("retention", "other", "--repository", "main", "--keep-last", "1"),
        ("retention", "docs", "--repository", "main", "--keep-within", "soon"),
        ("retention", "docs", "--repository", "main", "--tenant", "nobody", "--keep-last", "1"),
        ("point", "remove", "docs", "ff", "--repository", "main"),
        ("point", "pin", "docs", "0101", "--repository", "main", "--reason", " "),
        ("point", "lock", "docs", "0101", "--repository", "main", "--for", "ever"),
    ):
        assert provider(*command).status in {2, 3}, command
    assert there(provider) == IDS


def test_pins_and_locks_are_shown_and_keep(provider):
    assert provider("point", "pin", "docs", "0101", "--repository", "main", "--reason", "a court").status == 0
    assert provider("point", "lock", "docs", "0202", "--repository", "main", "--for", "30d").status == 0
    shown = provider("points", "--repository", "main").out
    assert "pinned: a court" in shown and "locked until" in shown
    done = provider("point", "remove", "docs", "0101", "0202", "0303", "--repository", "main")
    assert done.status == 5
    assert "pinned: a court" in done.err and "locked until" in done.err and "1 were removed" in done.err
    assert there(provider) == [*IDS[:2], *IDS[3:]]
    assert provider("point", "unpin", "docs", "0101", "--repository", "main").status == 0
    assert provider("point", "remove", "docs", "0101", "--repository", "main").status == 0
    assert there(provider) == [IDS[1], *IDS[3:]]


def test_the_minimum_holds_for_retention_and_force_goes_past_it_but_not_past_a_lock(node):
    made = ("--immutable", "1d", "--keep-at-least", "3d", "--recycle", "7d")
    assert node("repository", "add", "main", *made).status == 0
    fill(place_of(node))
    # (the points were committed without the rules: the configuration holds for them by their age)
    (report,) = node.json("retention", "docs", "--repository", "main", "--keep-last", "1").objects()
    assert report["kept_by_provider"] == 2
    assert there(node) == IDS[2:]
    done = node("point", "remove", "docs", "0505", "--repository", "main", "--force")
    assert done.status == 5 and "locked" in done.err
    assert node("point", "remove", "docs", "0303", "--repository", "main").status == 5
    assert node("point", "remove", "docs", "0303", "--repository", "main", "--force").status == 0
    assert node.json("points", "--repository", "main", "--recycled").objects()[-1]["point"] != IDS[2].hex()
    assert there(node) == IDS[3:]


def test_force_needs_two_operators_where_force_does(paired, tmp_path, monkeypatch):
    monkeypatch.setitem(seal_operator.__kwdefaults__, "parameters", KdfParameters(8, 1, 1))
    assert paired("repository", "add", "main").status == 0
    fill(place_of(paired))
    office = Office(paired, tmp_path)
    office.require("force")
    command = ("point", "remove", "docs", "0101", "--repository", "main", "--force")
    done = paired(*command)
    assert done.status == 5 and f"point.remove-force {IDS[0].hex()}" in done.err
    assert there(paired) == IDS
    approval = office.approve("point.remove-force", IDS[0].hex())
    assert paired(*command, "--approval", approval).status == 0
    assert there(paired) == IDS[1:]
    assert paired("point", "remove", "docs", "0202", "--repository", "main").status == 0


def test_two_tenants_with_a_job_of_one_name_are_told_apart(provider):
    fill(place_of(provider), tenant="other-2", points=[b"o" * 16])
    done = provider("retention", "docs", "--repository", "main", "--keep-last", "1")
    assert done.status == 2 and "--tenant office-1 | other-2" in done.err
    command = ("retention", "docs", "--repository", "main", "--keep-last", "1", "--tenant", "office-1")
    assert provider(*command).status == 0
    assert there(provider) == IDS[4:]
    assert there(provider, "other-2") == [b"o" * 16]


def test_a_clock_in_doubt_is_told_and_confirmed(provider):
    with Repository.open(place_of(provider), Days(400), writable=False) as repository:
        repository.keeping.clock.accept()
    done = provider("retention", "docs", "--repository", "main", "--keep-last", "1")
    assert done.status == 5 and "accept-clock" in done.err
    assert there(provider) == IDS
    assert provider("repository", "accept-clock", "main").status == 0
    assert provider("retention", "docs", "--repository", "main", "--keep-last", "1").status == 0
    assert there(provider) == IDS[4:]


def test_rights_to_remove_are_given_shown_and_taken(provider):
    with Catalog(provider.path / "catalog.db") as catalog:
        catalog.put_peer(Peer("office", bytes(32), tenant="office-1", rights=("main",)))
    assert provider("peer", "allow-remove", "office", "main").status == 0
    assert provider.json("peer", "list").objects()[0]["removes"] == ["main"]
    assert "and remove" in provider("peer", "list").out
    assert provider("peer", "allow-remove", "office", "main", "--no").status == 0
    assert provider.json("peer", "list").objects()[0]["removes"] == []
    assert provider("peer", "allow-remove", "nobody", "main").status == 3
    assert provider("invite", "--proxy", "--allow-remove").status == 2


def test_status_shows_findings_of_the_chain(paired):
    with Catalog(paired.path / "catalog.db") as catalog:
        catalog.put_chain("offsite/main", "docs", [ChainPoint(IDS[0], b"h" * 32, 1, MISSING)])
    assert "1 restore points of job docs are missing at offsite/main" in paired("status").out
    (status,) = paired.json("status").objects()
    assert status["findings"] == [{"destination": "offsite/main", "job": "docs", "state": "missing", "count": 1}]


def test_a_locked_repository_is_written_into_the_configuration(node):
    node("repository", "add", "main", "--immutable", "14d", "--recycle", "7d", "--keep-at-least", "30d")
    for line in ('immutable = "14d"', 'recycle = "7d"', 'keep_at_least = "30d"'):
        assert line in node.config()
    assert node("repository", "add", "more", "--immutable", "soon").status == 2

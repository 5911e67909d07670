"""Every trust zone, the whole way: full, incremental, restore, verify, scrub."""

from __future__ import annotations

import os

import pytest
from e2e_trees import age, assert_same, noise, small_tree

ZONES = {
    "source": ("--to", "offsite/main", "--encrypt", "source", "--password", "office"),
    "target": ("--to", "offsite/main", "--encrypt", "target", "--password", "vault"),
    "none": ("--to", "offsite/main", "--encrypt", "none"),
    "none, sealed at rest": ("--to", "offsite/rest", "--encrypt", "none"),
}


@pytest.fixture
def tmp_path(on_disk):
    """The trees of these tests lie on a disk: what its file system keeps, and how, is what they are about."""
    return on_disk


@pytest.fixture(params=ZONES)
def zone(request):
    return request.param


def test_a_tree_is_copied_changed_copied_again_and_comes_back(pair, zone, tmp_path):
    source, target = pair.nodes
    tree = small_tree(tmp_path / "tree")
    age(tree)
    job = zone.partition(",")[0] + ("-rest" if "rest" in zone else "")
    where = ZONES[zone][1]

    first = source.job("backup", "--job", job, *ZONES[zone], tree)
    assert (first["kind"], first["zone"], first["files"]) == ("full", job.partition("-")[0], 41)
    assert first["bytes_read"] == first["bytes_total"] == sum(p.stat().st_size for p in tree.rglob("*") if p.is_file())
    assert first["files_unchanged"] == first["files_skipped"] == first["redials"] == 0
    assert first["seconds"] > 0 and first["streams"] >= 1
    one = tmp_path / "one"
    source.job("restore", job, "latest", "--output", one)
    assert_same(tree, one)

    again = source.job("run", job)
    assert again["files_unchanged"] == again["files"] == 41
    assert again["bytes_read"] == again["bytes_new"] == 0
    assert again["bytes_sent"] < 20_000

    os.utime(tree / "folder-0" / "file-00.txt")  # touched: read again, but its chunks are known
    with (tree / "big.bin").open("r+b") as file:
        file.seek(350_000)
        file.write(b"changed")
    (tree / "new").write_bytes(noise(50_000, 77))
    (tree / "folder-1" / "file-01.txt").unlink()
    third = source.job("run", job)
    assert third["kind"] == "incremental"
    assert third["files_unchanged"] == 41 - 3
    assert third["files"] == 41
    two = tmp_path / "two"
    source.job("restore", job, "latest", "--output", two)
    assert_same(tree, two)

    rows = source.points(job)
    assert [row["point"] for row in rows] == [first["point"], again["point"], third["point"]]
    assert [row["parent"] for row in rows] == ["", first["point"], again["point"]]
    assert [row["kind"] for row in rows] == ["full", "incremental", "incremental"]
    assert {row["encrypted"] for row in rows} == {zone != "none"}
    assert {row["repository"] for row in rows} == {where}
    assert rows[0]["bytes"] == first["bytes_total"]

    old = tmp_path / "old"
    source.job("restore", job, first["point"][:8], "--output", old)
    assert_same(one, old)
    for point in rows:
        assert source.job("verify", job, point["point"])["operation"] == "verify"
    assert source.job("verify", job, "--sample", "10%")["files"] == 41
    (scrubbed,) = target.ok("scrub", where.partition("/")[2]).events("scrub_finished")
    assert scrubbed["points"] >= 3


def test_what_a_changed_file_sends_is_its_changed_part(pair, zone, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(noise(12_000_000, 5))
    age(tree)
    job = f"change-{list(ZONES).index(zone)}"
    full = pair.source.job("backup", "--job", job, *ZONES[zone], tree)
    with (tree / "large").open("r+b") as file:
        file.seek(6_000_000)
        file.write(b"X")
    changed = pair.source.job("run", job)
    assert changed["bytes_read"] == 12_000_000
    assert changed["bytes_new"] < full["bytes_new"] / 2
    assert changed["bytes_sent"] < full["bytes_sent"] / 2

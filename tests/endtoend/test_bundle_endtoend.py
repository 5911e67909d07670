"""The node burns down, and comes back out of its bundle; with real daemons, jobs and restore points."""

from __future__ import annotations

import shutil
from collections import defaultdict

import pytest
from blake3 import blake3
from e2e_node import Node, ended, sealed, wait_until
from e2e_relay import Fault
from e2e_trees import MIB, age, assert_same, large_tree, noise, small_tree

from transporter.repository.record import HEADER_LENGTH, is_whole, parse_header


@pytest.fixture
def password(tmp_path):
    path = tmp_path / "bundle-password"
    path.write_text("the password of the bundle\n")
    return ("--password-file", path)


def test_a_node_that_burnt_down_works_on_after_one_import(new_pair, password, tmp_path):
    pair = new_pair()
    source, tree = pair.source, large_tree(tmp_path / "tree", 16)
    age(tree)
    source.serve()
    first = source.job("backup", "--job", "docs", *sealed(), tree)
    shutil.copytree(tree, tmp_path / "first", symlinks=True)
    (tree / "part-000.note").write_bytes(b"changed")
    source.job("run", "docs")
    (made,) = source.ok("config", "export", tmp_path / "bundle", *password).objects
    assert made["jobs"] == made["peers"] == made["passwords"] == 1
    busy = source("config", "import", tmp_path / "bundle", *password, "--replace")
    assert (busy.status, busy.failed["code"]) == (1, "job-busy")
    source.kill_daemon()
    shutil.rmtree(source.home)

    (done,) = source.ok("config", "import", tmp_path / "bundle", *password).objects
    assert done["node"] == "office" and done["missing_repositories"] == {}
    (tree / "zz-new.bin").write_bytes(noise(200_000, 9))
    again = source.job("run", "docs")
    assert again["kind"] == "incremental"
    # Every file is read, in another grouping than before: around what changed some chunks are cut anew.
    assert again["files_unchanged"] == 0
    assert 200_000 <= again["bytes_new"] < 8 * MIB < again["bytes_read"], "what was there is not sent a second time"
    last = source.job("run", "docs")
    assert last["files_unchanged"] >= 30 and last["bytes_new"] < MIB
    points = source.points("docs")
    assert len(points) == 4 and points[0]["point"] == first["point"]
    source.job("restore", "docs", first["point"], "--output", tmp_path / "old")
    assert_same(tmp_path / "first", tmp_path / "old")
    source.job("restore", "docs", "latest", "--output", tmp_path / "new")
    assert_same(tree, tmp_path / "new")
    source.job("verify", "docs")
    assert "docs" in source.ok("password", "list").out
    assert source.ok("audit", "verify").objects[0]["entries"] >= 3
    source.ok("drill")
    source.ok("check-config")
    with source.catalog as catalog:
        assert [run.operation for run in catalog.runs("docs")].count("backup") == 4, "with what was before the fire"
    source.serve()
    source.job("run", "docs")


def test_a_target_that_burnt_down_serves_its_repository_again(new_pair, password, tmp_path):
    pair = new_pair()
    tree = small_tree(tmp_path / "tree")
    pair.source.job("backup", "--job", "docs", *sealed(), tree)
    vault = ("--to", "offsite/main", "--encrypt", "target", "--password", "vault")
    pair.source.job("backup", "--job", "vaulted", *vault, tree)
    target = pair.target
    target.ok("config", "export", tmp_path / "bundle", *password)
    target.stop()
    for name in ("keys.db", "master.key", "identity.key"):
        (target.home / name).write_bytes(b"burnt")
    done = target.ok("config", "import", tmp_path / "bundle", *password, "--replace")
    (facts,) = done.objects
    assert set(facts["missing_repositories"]) == {"main", "rest"}
    assert "repository 'main' is not here" in done.err
    for name in ("main", "rest"):
        (tmp_path / "pair-0" / "B" / "repositories").mkdir(exist_ok=True)
        shutil.move(f"{facts['aside']}/repositories/{name}", target.home / "repositories" / name)
    pair.serve()
    for job in ("docs", "vaulted"):
        assert pair.source.job("run", job)["kind"] == "incremental"
        pair.source.job("restore", job, "latest", "--output", tmp_path / job)
        assert_same(tree, tmp_path / job)


def sealed_chunks(*repositories):
    """(key id, counter) → hashes of what was sealed so, of every whole record in packs and journals."""
    found = defaultdict(set)
    for repository in repositories:
        for path in (*repository.glob("packs/*/*"), *repository.glob("journal/*.pack")):
            data, at = path.read_bytes(), 0
            while (at := data.find(b"REC1", at)) >= 0:
                entry = parse_header(data[at : at + HEADER_LENGTH], at)
                if entry is not None and is_whole(raw := data[at : at + HEADER_LENGTH + entry.stored_length]):
                    stored = raw[HEADER_LENGTH:]
                    assert stored[0] == 1 and stored[1:33] == entry.key_id
                    found[stored[1:33], stored[33:41]].add(blake3(stored).digest())
                at += 4
    return found


@pytest.mark.parametrize("zone", ["source", "target"])
def test_no_key_seals_two_chunks_under_one_counter(new_pair, relay, password, tmp_path, zone):
    """The bundle is from after a kill, so it holds keys of a run that goes on nowhere; then the old node runs on, and
    a home made from its bundle, each with other data. (tests/bundle/test_rollback.py: of several homes.)"""
    pair = new_pair()
    line = relay(pair)
    how = sealed() if zone == "source" else ("--to", "offsite/main", "--encrypt", "target", "--password", "vault")
    tree = large_tree(tmp_path / "tree", 12)
    stall = line.plan(Fault("stall", after=10 * MIB))
    process = pair.source.spawn("backup", "--job", "docs", *how, tree)
    wait_until(lambda: pair.target.stored > 4 * MIB, "some chunks to be written")
    process.kill()
    ended(process)
    line.cut()
    stall.released.set()
    # The target has what the killed one sent before it died, and goes on to store it until it reads the end.
    wait_until(lambda: pair.target.ok("status").objects[0]["sessions"] == [], "the session of the killed run to end")
    owner = pair.source if zone == "source" else pair.target
    owner.ok("config", "export", tmp_path / "bundle", *password)
    before = set(sealed_chunks(pair.target.repository))
    assert before, "there are chunks of the run that was killed"

    repositories, totals = [pair.target.repository], []
    for turn in range(2):
        (tree / f"turn-{turn}").write_bytes(noise(3 * MIB, 100 + turn))
        if turn:
            again = Node(tmp_path / f"again-{turn}" / owner.home.name)
            again.ok("config", "import", tmp_path / "bundle", *password)
            owner_now = pair.source if zone == "target" else again
            if zone == "target":
                pair.target.stop()
                shutil.copytree(pair.target.home / "repositories", again.home / "repositories", dirs_exist_ok=True)
                pair.target = again
                pair.serve()
                repositories.append(again.repository)
            else:
                again.dials("offsite", pair.target.port)
        else:
            pair.source.dials("offsite", pair.target.port)
            owner_now = pair.source
        done = owner_now.job("run", "docs")
        assert done["bytes_new"] >= 3 * MIB
        totals.append(len(sealed_chunks(*repositories)))
    found = sealed_chunks(*repositories)
    assert totals == sorted(set(totals)), "each of them sealed something"
    assert {len(each) for each in found.values()} == {1}
    new_keys = {key for key, _counter in set(found) - before}
    assert not new_keys & {key for key, _counter in before}, "no key of the bundle has sealed again"

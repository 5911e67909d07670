"""Export and import of a home: the same node comes out, and nobody else gets anything."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing

import pytest
from bundle_world import CHEAP, PASSWORD, POINT, imported, nothing_left, whole

from transporter.bundle import export, snapshot
from transporter.bundle.export import export_bundle
from transporter.catalog import Catalog
from transporter.clock import SystemClock
from transporter.config import load_config
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.keyset import generate_keyset, seal_private
from transporter.link.identity import load_identity


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_same_node_comes_out(node, bundle, elsewhere):
    done = imported(bundle, elsewhere / "A")
    home = Home.open(elsewhere / "A")
    assert done.home == home.path
    assert home.config_path.read_bytes() == node.home.config_path.read_bytes()
    assert load_identity(home.path, "office", node.clock).pin == node.identity.pin
    config = load_config(home.config_path)
    assert config.jobs["docs"].to == "offsite/main"
    with KeyDatabase(home.keys_db) as keys, node.keys() as before, Catalog(home.catalog_db) as catalog:
        assert keys.user_key("office").hash.raw == before.user_key("office").hash.raw
        assert keys.storage_key(POINT) == node.storage_key
        assert keys.domain_key("docs") == node.domain
        (run,) = keys.runs("docs")
        assert (run.session_key, run.metakey) == (node.session_key, node.metakey)
        assert keys.audit.verify(keys.audit_head()) == 3
        *_, exported, last = keys.audit.entries()
        (peer,) = catalog.peers()
        (history,) = catalog.runs()
        point = catalog.last_point("docs")
    assert (exported["event"], last["event"]) == ("config.export", "config.import")
    assert exported["bundle"] == last["bundle"]
    assert (peer.name, peer.address, peer.offers) == ("offsite", "192.0.2.1:6180", ("main",))
    assert (history.job, history.exit_status, history.point) == ("docs", 0, POINT)
    assert point.point == POINT
    assert point.manifest == home.manifest_path("docs"), "of the new home"


def test_everything_is_its_owners_alone(bundle, elsewhere):
    imported(bundle, elsewhere / "A")
    assert mode(bundle) == 0o600
    assert mode(elsewhere / "A") == 0o700
    for path in (elsewhere / "A").iterdir():
        assert mode(path) == 0o600, path
    assert nothing_left(elsewhere, "A")
    assert not [path for path in (elsewhere / "A").iterdir() if path.name.startswith(".")]


def test_a_stolen_bundle_says_nothing(node, bundle, tmp_path):
    data = bundle.read_bytes()
    open_ones = b"".join(path.read_bytes() for path in node.home.path.iterdir() if path.is_file())
    for secret in (*node.secrets, b"office", b"offsite", b"192.0.2.1", b"SQLite", b"PRIVATE KEY", PASSWORD):
        assert secret not in data, secret
        assert secret.hex().encode() not in data
    assert b"SQLite" in open_ones and b"PRIVATE KEY" in open_ones, "what is looked for must be there to be found"
    assert node.master in whole(data), "likewise"


def test_nothing_lies_on_a_disk_in_clear_during_an_export(node, tmp_path, monkeypatch):
    """Whatever is there while the last byte is written: beside the home's own files only what is sealed."""
    seen = {}

    def look(file, password):
        for folder in (tmp_path, node.home.path):
            for path in folder.iterdir():
                if path.is_file():
                    seen[path.name] = path.read_bytes()

    before = {path.name for path in node.home.path.iterdir()}
    monkeypatch.setattr(export, "_read_back", look)
    node.export(tmp_path / "b")
    fresh = {name: data for name, data in seen.items() if name not in before}
    assert any(name.endswith(".part") for name in fresh)
    for name, data in fresh.items():
        if not name.startswith(("keys.db-", "catalog.db-")):
            assert not [secret for secret in (*node.secrets, b"SQLite", b"[node]") if secret in data], name


def test_invitations_are_not_given_out_a_second_time(bundle, elsewhere):
    imported(bundle, elsewhere / "A")
    with Catalog(elsewhere / "A" / "catalog.db") as catalog:
        assert catalog.invitations() == []
    assert b"i" * 32 not in (elsewhere / "A" / "catalog.db").read_bytes(), "not in a free page either"


@pytest.fixture(scope="module")
def keyset():
    return generate_keyset("2026")


@pytest.mark.parametrize("with_keysets", [False, True])
def test_private_halves_of_keysets_come_along_only_when_asked_for(node, keyset, tmp_path, elsewhere, with_keysets):
    private = seal_private(keyset, b"phrase", parameters=CHEAP)
    with node.keys() as keys:
        keys.add_keyset(keyset.public, private, event="keyset.create")
    done = node.export(tmp_path / "b", with_keysets=with_keysets)
    assert done.manifest.private_keysets == ["2026"] * with_keysets
    assert done.manifest.left_out == ["2026"] * (not with_keysets)
    assert (private.cryptogram in whole((tmp_path / "b").read_bytes())) is with_keysets
    imported(tmp_path / "b", elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        info = keys.keyset("2026")
        assert info.public.id == keyset.public.id
        if with_keysets:
            assert keys.open_keyset(info, b"phrase").key.private_numbers() == keyset.key.private_numbers()
        else:
            assert info.private is None


def test_nobody_writes_between_the_two_copies(node, tmp_path, elsewhere, monkeypatch):
    """Else the trail would end behind what the database remembers, and a cut could hide there."""
    really, tried = snapshot._copied, []

    def copied(path, what):
        copy = really(path, what)
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                tried.append(path.name)
        return copy

    monkeypatch.setattr(snapshot, "_copied", copied)
    node.export(tmp_path / "b")
    assert tried == ["keys.db"]
    with node.keys() as keys:
        keys.record("after.it")
    imported(tmp_path / "b", elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        assert keys.audit.verify(keys.audit_head()) == keys.audit_head().number == 3


def test_what_stands_in_a_write_ahead_log_comes_along(node, tmp_path, elsewhere):
    """A daemon has the databases open: what it wrote last is not in the files proper."""
    with node.keys() as keys, Catalog(node.home.catalog_db) as catalog:
        keys.add_password("late", b"added late")
        catalog.run_started("late", "backup", 5)
        assert b"late" in (node.home.path / "keys.db-wal").read_bytes()
        node.export(tmp_path / "b")
    imported(tmp_path / "b", elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys, Catalog(elsewhere / "A" / "catalog.db") as catalog:
        assert [info.name for info in keys.list()] == ["late", "office"]
        assert [run.job for run in catalog.runs()] == ["late", "docs"]


def test_a_bundle_of_an_imported_home_is_one_again(bundle, elsewhere, tmp_path):
    imported(bundle, elsewhere / "A")
    home = Home.open(elsewhere / "A")
    export_bundle(home, tmp_path / "2", PASSWORD, with_keysets=False, clock=SystemClock(), parameters=CHEAP)
    imported(tmp_path / "2", elsewhere / "B")
    with KeyDatabase(elsewhere / "B" / "keys.db") as keys:
        assert keys.audit.verify(keys.audit_head()) == 5

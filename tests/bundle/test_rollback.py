"""A bundle is older than what was done since: nothing that must happen once happens a second time after an import."""

from __future__ import annotations

import pytest
from bundle_world import CHEAP, PASSWORD, imported

from transporter.bundle.export import export_bundle
from transporter.clock import ManualClock
from transporter.errors import RefusedByPeer
from transporter.home import Home
from transporter.keys.database import KeyDatabase
from transporter.keys.node_key import NodeKey
from transporter.keys.recovery import make_request, read_request
from transporter.keys.session_key import ChunkSealer
from transporter.points.run_keys import begin_run

WEEK = 7 * 86400.0


def ask(node, clock):
    made = make_request(
        NodeKey(node.identity.key),
        name="office",
        tenant="office",
        repository_id=b"r" * 16,
        job="docs",
        point=b"p" * 16,
        keyset=b"k" * 16,
        slots=[b"slot"],
        ring=(1, b"ring"),
        clock=clock,
    )
    return read_request(made.text)


def test_an_escrow_answers_nothing_that_may_have_been_answered_since_the_export(node, tmp_path, elsewhere):
    clock = ManualClock(wall_ns=node.clock.now_ns())
    request, asked = ask(node, clock)
    export_bundle(Home(node.home.path), tmp_path / "b", PASSWORD, with_keysets=True, clock=node.clock, parameters=CHEAP)
    with node.keys() as keys:
        keys.remember_answer(request, asked, "office")
        with pytest.raises(RefusedByPeer, match="already"):
            keys.remember_answer(request, asked, "office")
    imported(tmp_path / "b", elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        with pytest.raises(RefusedByPeer, match="older than the import"):
            keys.remember_answer(request, asked, "office")
        # Everything asked from now on is answered, once.
        fresh, asked = ask(node, node.clock)
        keys.remember_answer(fresh, asked, "office")
        with pytest.raises(RefusedByPeer, match="already"):
            keys.remember_answer(fresh, asked, "office")


def test_an_imported_home_says_in_its_trail_what_it_came_from(node, bundle, elsewhere):
    imported(bundle, elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        *_, last = keys.audit.entries()
    assert last["event"] == "config.import"
    assert last["home"] == str(elsewhere / "A")
    assert last["exported_ns"] < node.clock.now_ns()


def test_keys_out_of_a_bundle_open_and_never_seal(node, bundle, elsewhere):
    """The old node may have gone on counting under them, nobody knows how far."""
    imported(bundle, elsewhere / "A")
    with KeyDatabase(elsewhere / "A" / "keys.db") as keys:
        (run,) = keys.runs("docs")
        assert run.session_key == node.session_key, "it is the very key"
        for key in (run.session_key, run.metakey):
            assert not key.may_seal
            with pytest.raises(RuntimeError, match="opens only"):
                ChunkSealer(key)
            with pytest.raises(RuntimeError, match="opens only"):
                key.next_counter()


def test_every_home_of_one_bundle_makes_keys_of_its_own(node, bundle, elsewhere):
    """The old node and two imports of it begin a run each: what they share opens only, what seals is new."""
    for name in ("A", "B"):
        imported(bundle, elsewhere / name)
    sealing = []
    for home in (node.home.path, elsewhere / "A", elsewhere / "B"):
        with KeyDatabase(home / "keys.db", parameters=CHEAP) as keys:
            run = begin_run(keys, keys.user_key("office"), "docs", b"n" * 16, None, node.clock)
        assert run.chunk_id_key == node.domain
        assert node.session_key.key_id in run.older_session_keys, "chunks of the run that was killed are used"
        sealing += [run.session_key.key_id, run.metakey.key_id]
    assert len({*sealing, node.session_key.key_id, node.metakey.key_id}) == 8

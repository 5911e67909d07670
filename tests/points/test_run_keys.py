"""The keys of a run: new each time, remembered before they are used, and the domain's key kept."""

from __future__ import annotations

import pytest

from transporter.clock import ManualClock
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.database import KeyDatabase
from transporter.keys.key_ring import KeyRing
from transporter.keys.password import KdfParameters
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.points.run_keys import begin_run


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def keys(tmp_path, clock):
    with KeyDatabase(tmp_path / "keys.db", clock=clock, parameters=KdfParameters(8, 1, 1)) as made:
        made.add_password("office", b"a password")
        yield made


def begin(keys, clock, run, parent=None, job="docs"):
    return begin_run(keys, keys.user_key("office"), job, bytes([run]) * 16, parent, clock)


def test_each_run_has_keys_of_its_own_and_the_domains_key_stays(keys, clock):
    first, second = begin(keys, clock, 1), begin(keys, clock, 2)
    assert first.session_key.key_id != second.session_key.key_id
    assert first.metakey.key_id != second.metakey.key_id
    assert first.chunk_id_key.secret == second.chunk_id_key.secret
    assert begin(keys, clock, 3, job="other").chunk_id_key.secret != first.chunk_id_key.secret


def test_a_run_is_remembered_before_anything_can_be_sealed(keys, clock):
    run = begin(keys, clock, 1)
    (remembered,) = keys.runs("docs")
    assert remembered.session_key.key_id == run.session_key.key_id


def test_the_keys_of_a_run_that_never_committed_come_along(keys, clock):
    killed = begin(keys, clock, 1)
    next_run = begin(keys, clock, 2)
    assert next_run.opens(killed.session_key.key_id) and next_run.opens(killed.metakey.key_id)
    keys.forget_runs("docs")
    assert not begin(keys, clock, 3).opens(killed.session_key.key_id)


def test_a_rebuilt_home_takes_the_domains_key_from_its_parent(keys, clock):
    parent = KeyRing(ChunkIdKey(b"i" * 32), (SessionKey.generate(clock),), (MetaKey.generate(clock),))
    run = begin(keys, clock, 1, parent)
    assert run.chunk_id_key.secret == b"i" * 32
    assert run.opens(parent.session_keys[0].key_id)
    other = KeyRing(ChunkIdKey(b"o" * 32), (), (MetaKey.generate(clock),))
    assert begin(keys, clock, 2, other).chunk_id_key.secret == b"i" * 32, "the domain's key is never exchanged"

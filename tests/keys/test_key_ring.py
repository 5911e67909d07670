from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import DamagedData
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.key_ring import KeyRing, open_ring, seal_ring
from transporter.keys.session_key import ChunkSealer, MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import WrongKey, context

PLACE = context("ring", "tenant", b"r" * 16, b"p" * 16)
KEYS = st.lists(st.binary(min_size=32, max_size=32), max_size=5)


@settings(max_examples=40, deadline=None)
@given(KEYS, KEYS, st.none() | st.binary(min_size=32, max_size=32))
def test_a_ring_comes_back_in_order(sessions, metas, chunk_id):
    storage_key = StorageKey.generate()
    ring = KeyRing(
        None if chunk_id is None else ChunkIdKey(chunk_id),
        tuple(map(SessionKey.from_secret, sessions)),
        tuple(map(MetaKey.from_secret, metas)),
    )
    if not sessions and not metas and chunk_id is None:
        with pytest.raises(ValueError, match="1 to"):
            seal_ring(storage_key, ring, PLACE)
        return
    found = open_ring(storage_key, seal_ring(storage_key, ring, PLACE), PLACE)
    assert found == ring


@pytest.fixture
def ring():
    return KeyRing(ChunkIdKey.generate(), (SessionKey.generate(), SessionKey.generate()), (MetaKey.generate(),))


def test_a_ring_opens_its_chunks_and_authenticates_its_point(ring):
    storage_key = StorageKey.generate()
    data = ChunkSealer(ring.session_keys[1]).seal(b"i" * 32, 0, 4, b"data")
    meta = ChunkSealer(ring.metakey).seal(b"j" * 32, 0, 4, b"meta")
    found = open_ring(storage_key, seal_ring(storage_key, ring, PLACE), PLACE)
    assert found.opener().open(b"i" * 32, 0, 4, data) == b"data"
    assert found.opener().open(b"j" * 32, 0, 4, meta) == b"meta"
    found.metakey.check_mac(b"head", ring.metakey.mac(b"head"))
    with pytest.raises(DamagedData, match="plain"):
        found.opener().open(b"i" * 32, 0, 4, b"\0data")


def test_keys_of_an_opened_ring_never_seal(ring):
    storage_key = StorageKey.generate()
    found = open_ring(storage_key, seal_ring(storage_key, ring, PLACE), PLACE)
    for key in (*found.session_keys, *found.meta_keys):
        with pytest.raises(RuntimeError, match="read back"):
            ChunkSealer(key)


def test_no_other_list_of_the_same_cryptograms_opens(ring):
    """Every selection and every order of them, and cryptograms of another ring of the same storage key."""
    storage_key = StorageKey.generate()
    good = seal_ring(storage_key, ring, PLACE)
    for length in range(1, len(good) + 1):
        for chosen in itertools.permutations(good, length):
            if list(chosen) != good:
                with pytest.raises(DamagedData):
                    open_ring(storage_key, chosen, PLACE)
    older = seal_ring(storage_key, ring, context("ring", "tenant", b"r" * 16, b"o" * 16))
    for index, foreign in enumerate(older):
        with pytest.raises(DamagedData):
            open_ring(storage_key, [*good[:index], foreign, *good[index + 1 :]], PLACE)


def test_every_flipped_bit_is_damage(ring):
    storage_key = StorageKey.generate()
    good = seal_ring(storage_key, ring, PLACE)
    for bit in range(len(good[1]) * 8):
        changed = bytearray(good[1])
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            open_ring(storage_key, [good[0], bytes(changed), *good[2:]], PLACE)


def test_another_storage_key(ring):
    with pytest.raises(WrongKey):
        open_ring(StorageKey.generate(), seal_ring(StorageKey.generate(), ring, PLACE), PLACE)


def test_a_ring_without_metakey_authenticates_nothing():
    with pytest.raises(DamagedData, match="metakey"):
        _ = KeyRing(None, (SessionKey.generate(),), ()).metakey


def test_chunk_ids_belong_to_their_domain():
    one, other = ChunkIdKey.generate(), ChunkIdKey.generate()
    assert one.id_of(b"data") == ChunkIdKey(one.secret).id_of(memoryview(b"data")) == one.id_of(bytearray(b"data"))
    assert len({one.id_of(b"data"), other.id_of(b"data"), one.id_of(b"Data"), one.id_of(b"")}) == 4

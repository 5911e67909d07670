"""Restore points put together and opened: every zone, and every lie that the holder of the repository could tell."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.clock import ManualClock
from transporter.errors import (
    CorruptedPoint,
    DamagedData,
    NoKey,
    RefusedByPeer,
    TransporterError,
    UnsupportedFormat,
    WrongPassword,
)
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.password import KdfParameters, UserKey, hash_password
from transporter.keys.session_key import MetaKey, SessionKey
from transporter.keys.wrap import WrongKey
from transporter.points.assemble import (
    Place,
    PointFacts,
    assemble_plain,
    assemble_sealed,
    decode_facts,
    encode_facts,
    find_in,
    open_point,
)
from transporter.points.run_keys import OLDER_KEYS, RunKeys
from transporter.repository.point_head import PointHead, decode_head, encode_head

CLOCK = ManualClock()
CHEAP = KdfParameters(8, 1, 1)
USER_KEY = UserKey("office", hash_password(b"a password", b"s" * 16, CHEAP))
OTHER_KEY = UserKey("other", hash_password(b"another", b"o" * 16, CHEAP))
PLACE = Place("office-1", "docs", b"r" * 16, b"p" * 16, b"d" * 16, "source", b"q" * 16, b"h" * 32)
FACTS = PointFacts(
    kind="full",
    created_ns=1_700_000_000_000_000_000,
    workload="tree",
    manifest=[(b"m" * 32, 1000), (b"n" * 32, 7)],
    needs_hash=b"N" * 32,
    statistics={"bytes": 10, "files": 2},
    fsi=[(b"f" * 32, 99)],
)


def run_keys():
    return RunKeys(ChunkIdKey(b"i" * 32), SessionKey.generate(CLOCK), MetaKey.generate(CLOCK))


def sealed(place=PLACE, keys=None, user_key=USER_KEY, facts=FACTS):
    head, slots, _storage_key = assemble_sealed(place, facts, keys or run_keys(), user_key, CLOCK)
    return head, [slot for _, slot in slots]


def opened(head, slots, place=PLACE, user_key=USER_KEY):
    find = find_in(lambda salt: user_key if user_key is not None and salt == user_key.salt else None)
    return open_point(head, slots, lambda _head: place, find)


def in_zone(zone):
    return Place(**{**vars(PLACE), "zone": zone})


# --- the way it is meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["source", "target", "none"])
def test_a_sealed_point_opens_with_its_password(zone):
    keys = run_keys()
    head, slots = sealed(in_zone(zone), keys)
    point = opened(head, slots, in_zone(zone))
    assert (point.head.zone, point.head.encrypted, point.head.manifest) == (zone, True, FACTS.manifest)
    assert (point.head.parent, point.head.parent_hash) == (b"q" * 16, b"h" * 32)
    assert point.chunk_id_key.secret == b"i" * 32
    stored = keys.sealer(metadata=False).seal(b"c" * 32, 0, 5, b"plain")
    assert bytes(point.opener.open(b"c" * 32, 0, 5, stored)) == b"plain"
    stored = keys.sealer(metadata=True).seal(b"c" * 32, 0, 5, b"names")
    assert bytes(point.opener.open(b"c" * 32, 0, 5, stored)) == b"names"
    with pytest.raises(DamagedData):
        point.opener.open(b"c" * 32, 0, 5, b"\0plain")


def test_a_plain_point_opens_in_zone_none_and_only_there():
    head = assemble_plain(in_zone("none"), FACTS, ChunkIdKey(b"i" * 32))
    point = opened(head, [], in_zone("none"))
    assert (point.ring, point.chunk_id_key.secret) == (None, b"i" * 32)
    assert bytes(point.opener.open(b"c" * 32, 0, 5, b"\0plain")) == b"plain"
    for zone in ("source", "target"):
        with pytest.raises(RefusedByPeer, match="trust zone 'none'"):
            opened(head, [], in_zone(zone))


def test_a_typed_password_opens_it_where_the_key_database_does_not_know_it():
    head, slots = sealed()
    asked = []

    def typed(info):
        asked.append(info.salt)
        return hash_password(b"a password", info.salt, info.params)

    place = lambda _head: PLACE  # noqa: E731
    assert open_point(head, slots, place, find_in(lambda _: None, typed)).ring is not None
    assert asked == [USER_KEY.salt]
    with pytest.raises(WrongPassword):
        open_point(
            head, slots, place, find_in(lambda _: None, lambda info: hash_password(b"wrong", info.salt, info.params))
        )


def test_a_commit_that_was_repeated_leaves_two_slots_and_the_point_opens_whichever_comes_first():
    keys = run_keys()
    _, (former,) = sealed(keys=keys)
    head, (slot,) = sealed(keys=keys)
    asked = []

    def typed(info):
        asked.append(info.salt)
        return hash_password(b"a password", info.salt, info.params)

    for slots in ([former, slot], [slot, former]):
        assert opened(head, slots).ring is not None
        assert open_point(head, slots, lambda _head: PLACE, find_in(lambda _: None, typed)).ring is not None
    assert len(asked) == 2, "a dear hash was computed twice"
    with pytest.raises(WrongKey):
        opened(head, [former, former])
    _, (foreign,) = sealed(keys=keys, user_key=OTHER_KEY)
    with pytest.raises(WrongKey):
        opened(head, [foreign, former, slot[:-1]])
    impostor = UserKey("x", hash_password(b"wrong", USER_KEY.salt, CHEAP))
    with pytest.raises(WrongPassword):
        opened(head, [foreign, slot, former], user_key=impostor)


def test_wrong_password_no_password_no_salt_and_damage_are_four_errors():
    head, slots = sealed()
    with pytest.raises(NoKey) as caught:
        opened(head, slots, user_key=None)
    assert not isinstance(caught.value, WrongPassword)
    with pytest.raises(CorruptedPoint):
        opened(head, [])
    with pytest.raises(CorruptedPoint):
        opened(head, [slots[0][:-1]])
    impostor = UserKey("x", hash_password(b"wrong", USER_KEY.salt, CHEAP))
    with pytest.raises(WrongPassword):
        opened(head, slots, user_key=impostor)
    with pytest.raises(DamagedData):
        opened(head[:-1] + bytes([head[-1] ^ 1]), slots)


def test_no_secret_is_in_any_repr():
    keys = run_keys()
    point = opened(*sealed(keys=keys))
    text = repr(point) + repr(keys)
    for secret in (keys.session_key.secret, keys.metakey.secret, b"i" * 32):
        assert secret.hex() not in text and repr(secret)[2:-1] not in text


# --- lies -----------------------------------------------------------------------------------------------------

CHANGES = {
    "version": 3,
    "point_id": b"x" * 16,
    "tenant": "another",
    "job": "other",
    "kind": "incremental",
    "created_ns": FACTS.created_ns + 1,
    "parent": b"",
    "parent_hash": b"x" * 32,
    "zone": "none",
    "encrypted": False,
    "domain": b"x" * 16,
    "cryptograms": [],
    "manifest": FACTS.manifest[:1],
    "fsi": [*FACTS.fsi, *FACTS.fsi],
    "needs_hash": b"x" * 32,
    "statistics": {"bytes": 11, "files": 2},
    "workload": "image",
    "chunk_id_key": b"x" * 32,
    "mac": b"x" * 32,
}


def test_the_changes_cover_every_field_of_a_head():
    assert set(CHANGES) == set(PointHead.__struct_fields__)


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("zone", ["source", "target"])
def test_no_field_of_a_sealed_head_can_be_changed(field, zone):
    head, slots = sealed(in_zone(zone))
    changed = msgspec.structs.replace(decode_head(head), **{field: CHANGES[field]})
    if field == "version":
        with pytest.raises(UnsupportedFormat):
            opened(msgspec.msgpack.encode(changed), slots, in_zone(zone))
        return
    with pytest.raises(RefusedByPeer if field == "zone" else DamagedData):
        opened(encode_head(changed), slots, in_zone(zone))


def test_an_index_cannot_be_taken_away_by_calling_the_head_an_older_one():
    head, slots = sealed()
    assert decode_head(head).fsi == FACTS.fsi
    without = msgspec.structs.replace(decode_head(head), version=1, fsi=msgspec.UNSET)
    with pytest.raises(DamagedData, match="not what was committed"):
        opened(encode_head(without), slots)


def test_two_lies_at_once_do_not_help():
    head, slots = sealed()
    original = decode_head(head)
    for first, second in itertools.combinations(sorted(set(CHANGES) - {"version"}), 2):
        changed = msgspec.structs.replace(original, **{first: CHANGES[first], second: CHANGES[second]})
        with pytest.raises((DamagedData, RefusedByPeer)):
            opened(encode_head(changed), slots)


def test_plaintext_of_the_targets_making_is_never_taken_for_a_sealed_point():
    """The whole head made anew: plain, with a key of the target's own, claiming the zone that is expected."""
    forged = decode_head(assemble_plain(PLACE, FACTS, ChunkIdKey(b"t" * 32)))
    with pytest.raises(DamagedData, match="not sealed, but its zone says it is"):
        opened(encode_head(forged), [])
    with pytest.raises(RefusedByPeer, match="--zone"):
        opened(assemble_plain(in_zone("none"), FACTS, ChunkIdKey(b"t" * 32)), [])


def test_a_point_sealed_with_another_password_is_not_taken_for_ours():
    head, slots = sealed(user_key=OTHER_KEY)
    with pytest.raises(NoKey):
        opened(head, slots)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tenant", "another"), ("repository_id", b"x" * 16), ("point_id", b"x" * 16), ("job", "other")],
)
def test_a_point_of_another_place_does_not_open_here(field, value):
    there = Place(**{**vars(PLACE), field: value})
    head, slots = sealed(there)
    assert opened(head, slots, there).ring is not None
    with pytest.raises(DamagedData):
        opened(head, slots)
    # ... and not when its head is made to say that it belongs here, either.
    mine = {name: getattr(PLACE, name) for name in ("tenant", "point_id", "job")}
    with pytest.raises(DamagedData):
        opened(encode_head(msgspec.structs.replace(decode_head(head), **mine)), slots)


def test_slots_and_rings_of_two_points_do_not_mix():
    keys = run_keys()
    other = Place(**{**vars(PLACE), "point_id": b"x" * 16})
    (first, slots), (second, other_slots) = sealed(keys=keys), sealed(other, keys)
    with pytest.raises(DamagedData):
        opened(first, other_slots)
    moved = msgspec.structs.replace(decode_head(first), cryptograms=decode_head(second).cryptograms)
    with pytest.raises((DamagedData, NoKey)):
        opened(encode_head(moved), slots)


def test_a_former_commit_of_the_same_point_id_does_not_mix_with_this_one():
    keys = run_keys()
    (first, _), (_, slots) = sealed(keys=keys), sealed(keys=keys)
    with pytest.raises((DamagedData, NoKey)):
        opened(first, slots)


def test_every_flipped_bit_of_head_and_slot_is_found():
    head, slots = sealed()
    maker = random.Random(1)
    for data, place in ((head, "head"), (slots[0], "slot")):
        for bit in maker.sample(range(8 * len(data)), min(8 * len(data), 1200)):
            altered = bytearray(data)
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises((DamagedData, RefusedByPeer, NoKey)):
                opened(*((bytes(altered), slots) if place == "head" else (head, [bytes(altered)])))


def test_a_ring_without_a_chunk_id_key_is_refused():
    keys = run_keys()
    keys.chunk_id_key = None
    with pytest.raises(DamagedData, match="no chunk-id key"):
        opened(*sealed(keys=keys))


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_plain_point_with_a_chunk_id_key_of_another_length_is_damage(length):
    head = decode_head(assemble_plain(in_zone("none"), FACTS, ChunkIdKey(b"i" * 32)))
    cut = encode_head(msgspec.structs.replace(head, chunk_id_key=bytes(length)))
    with pytest.raises(DamagedData, match="no chunk-id key"):
        opened(cut, [], in_zone("none"))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_as_a_head_are_a_documented_error(data):
    with pytest.raises(TransporterError):
        opened(data, [])


# --- facts ----------------------------------------------------------------------------------------------------


def test_facts_travel_to_the_end_that_seals():
    assert decode_facts(encode_facts(FACTS)) == FACTS


@given(st.binary(max_size=300))
def test_any_bytes_as_facts_are_damage(data):
    try:
        decode_facts(data)
    except DamagedData:
        pass


def test_facts_are_bounded():
    with pytest.raises(DamagedData, match="too long"):
        decode_facts(bytes((16 << 20) + 1))


# --- the ring over many runs ----------------------------------------------------------------------------------


def test_keys_of_older_runs_come_along_and_open_their_chunks():
    first = run_keys()
    old = opened(*sealed(keys=first)).ring
    second = run_keys()
    second.add(old)
    stored = first.sealer(metadata=False).seal(b"c" * 32, 0, 3, b"old")
    point = opened(*sealed(keys=second))
    assert bytes(point.opener.open(b"c" * 32, 0, 3, stored)) == b"old"
    assert point.ring.metakey.key_id == second.metakey.key_id, "the point's own metakey comes first"
    assert second.opens(first.session_key.key_id) and second.opens(first.metakey.key_id)
    assert not second.opens(b"x" * 32)


def test_a_ring_is_trimmed_to_the_keys_that_are_used_and_the_runs_own():
    keys = run_keys()
    older = [SessionKey.generate(CLOCK) for _ in range(OLDER_KEYS)]
    keys.older_session_keys = {key.key_id: key for key in older}
    assert not keys.crowded
    meta = MetaKey.generate(CLOCK)
    keys.older_metakeys[meta.key_id] = meta
    assert keys.crowded
    used = {older[3].key_id, meta.key_id, b"x" * 32}
    keys.keep_only(used)
    assert (set(keys.older_session_keys), set(keys.older_metakeys)) == ({older[3].key_id}, {meta.key_id})
    ring = opened(*sealed(keys=keys)).ring
    assert {key.key_id for key in ring.session_keys} == {older[3].key_id, keys.session_key.key_id}
    assert {key.key_id for key in ring.meta_keys} == {meta.key_id, keys.metakey.key_id}
    assert keys.opens(keys.session_key.key_id) and keys.opens(keys.metakey.key_id)

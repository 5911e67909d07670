from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.repository.point_head import PointHead, decode_head, encode_head

names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
heads = st.builds(
    PointHead,
    point_id=st.binary(min_size=16, max_size=16),
    tenant=names,
    job=names,
    kind=st.sampled_from(["full", "incremental", "synthetic"]),
    created_ns=st.integers(0, 2**63 - 1),
    parent=st.sampled_from([b"", b"p" * 16]),
    parent_hash=st.sampled_from([b"", b"h" * 32]),
    zone=st.sampled_from(["source", "target", "none"]),
    encrypted=st.booleans(),
    domain=st.binary(min_size=16, max_size=16),
    cryptograms=st.lists(st.binary(max_size=100), max_size=4),
    manifest=st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 4 << 20)), max_size=5),
    needs_hash=st.binary(min_size=32, max_size=32),
    statistics=st.dictionaries(st.text(max_size=10), st.integers(0, 2**63 - 1), max_size=4),
    workload=st.sampled_from(["tree", "image", "stream"]),
    chunk_id_key=st.sampled_from([b"", b"c" * 32]),
    mac=st.sampled_from([b"", b"m" * 32]),
)
fsis = st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 4 << 20)), max_size=5)

EXAMPLE = PointHead(
    point_id=b"p" * 16, tenant="t", job="j", kind="full", created_ns=1, zone="source", encrypted=True, domain=b"d" * 16,
    cryptograms=[b"secret"], manifest=[(b"c" * 32, 7)], needs_hash=b"n" * 32, workload="tree", chunk_id_key=b"k" * 32,
)  # fmt: skip


@given(heads, fsis)
def test_a_head_with_an_index_is_of_version_2_and_no_other_is(head, fsi):
    newer = msgspec.structs.replace(head, version=2, fsi=fsi)
    raw = encode_head(newer)
    assert decode_head(raw) == newer
    for lie in (msgspec.structs.replace(newer, version=1), msgspec.structs.replace(head, version=2)):
        with pytest.raises(DamagedData):
            decode_head(encode_head(lie))


@given(heads)
def test_a_head_comes_back_as_it_was_and_in_the_same_bytes(head):
    raw = encode_head(head)
    assert decode_head(raw) == head
    assert encode_head(decode_head(raw)) == raw


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "\x1b[2J"},
        {"workload": "tree\n"},
        {"zone": "\x9b1m"},
        {"tenant": "t\x07"},
        {"job": "a\nb"},
        {"created_ns": 2**63},
        {"statistics": {"bytes": -1}},
        {"statistics": {"files": 2**63}},
    ],
)
def test_what_a_list_of_points_could_not_show_is_damage(change):
    """A tenant wrote it. The provider lists the points of all tenants at once, and one of them must not end that."""
    with pytest.raises(DamagedData):
        decode_head(encode_head(msgspec.structs.replace(EXAMPLE, **change)))


@given(st.binary(max_size=300))
def test_rubbish_is_told_as_damage(raw):
    with pytest.raises(DamagedData):
        decode_head(raw)


@given(st.integers(0, len(encode_head(EXAMPLE)) * 8 - 1))
def test_a_flipped_bit_is_damage_or_another_head(bit):
    """Another head has another MAC; what must not be is that two strings of bytes mean the same head."""
    raw = bytearray(encode_head(EXAMPLE))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        assert decode_head(bytes(raw)) != EXAMPLE
    except DamagedData:
        pass


def test_cut_or_longer_is_damage():
    raw = encode_head(EXAMPLE)
    for wrong in (*(raw[:length] for length in range(len(raw))), raw + b"\0", raw + raw):
        with pytest.raises(DamagedData):
            decode_head(wrong)


def test_only_one_form_is_taken():
    """Unknown fields, another order, long integers: all refused, so that the MAC covers what arrived."""
    fields = msgspec.msgpack.decode(encode_head(EXAMPLE))
    for other in (
        {**fields, "extra": 1},
        dict(reversed(fields.items())),
        {name: value for name, value in fields.items() if name != "mac"},
        list(fields.values()),
    ):
        with pytest.raises(DamagedData):
            decode_head(msgspec.msgpack.encode(other))
    long = encode_head(EXAMPLE).replace(b"\xaacreated_ns\x01", b"\xaacreated_ns\xcc\x01")
    assert len(long) == len(encode_head(EXAMPLE)) + 1
    with pytest.raises(DamagedData):
        decode_head(long)


def test_a_later_version_is_told_as_such():
    with pytest.raises(UnsupportedFormat, match="version 3"):
        decode_head(msgspec.msgpack.encode({"version": 3, "something": "new"}))


def test_a_head_has_a_bound():
    big = msgspec.structs.replace(EXAMPLE, cryptograms=[bytes(1 << 20)] * 17)
    with pytest.raises(DamagedData, match="bytes"):
        encode_head(big)
    with pytest.raises(DamagedData):
        decode_head(msgspec.msgpack.encode(big))


def test_a_head_shows_no_keys():
    assert "secret" not in repr(EXAMPLE)
    assert "kkkk" not in repr(EXAMPLE)

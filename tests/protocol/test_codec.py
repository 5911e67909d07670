from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import codec
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import HEADER_BOUNDS, MAX_HEADER, ROWS_BOUNDS, Bounds

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=50) | st.binary(max_size=50)
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
WIDE = Bounds(total=1 << 20, items=1 << 16, depth=64, array=1 << 16, map=1 << 16, string=1 << 16, binary=1 << 16)


@given(values)
def test_what_is_packed_is_unpacked(value):
    assert codec.unpack(codec.pack(value), WIDE) == value


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\xa1\xff")
@example(b"\xd9")
@example(b"\xdf\x00\x00\x00")
def test_any_bytes_are_a_value_or_an_error(data):
    try:
        value = codec.unpack(data)
    except RemoteProtocolError:
        return
    # Accepted: then msgpack by itself sees the same.
    assert repr(msgpack.unpackb(data, strict_map_key=False)) == repr(value)


@given(values, st.data())
def test_every_cut_is_noticed(value, data):
    packed = codec.pack(value)
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(RemoteProtocolError):
        codec.unpack(packed[:cut], WIDE)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("a key twice", b"\x82\xa1a\x01\xa1a\x02"),
        ("a key twice, deeper", b"\x91\x82\xa1a\x01\xa1a\x02"),
        ("binary key", b"\x81\xc4\x01a\x01"),
        ("integer key", b"\x81\x01\x01"),
        ("array key", b"\x81\x90\x01"),
        ("extension", msgpack.packb(msgpack.ExtType(5, b"x"))),
        ("long extension", b"\xc7\x00\x05"),
        ("timestamp", b"\xd6\xff\x00\x00\x00\x00"),
        ("reserved", b"\xc1"),
        ("two values", b"\x01\x02"),
        ("nothing", b""),
        ("not UTF-8", b"\xa1\xff"),
        ("deeper than 3", b"\x91\x91\x91\x91\x01"),
        ("deeper than the stack", b"\x91" * MAX_HEADER),
        ("an array of 256", b"\xdc\x01\x00" + b"\x00" * 256),
        ("a map of 65", msgpack.packb({str(n): 0 for n in range(65)})),
        ("a long string", msgpack.packb("x" * 2001)),
        ("too many items", msgpack.packb([[0] * 250 for _ in range(5)])),
        ("4 GiB of string", b"\xdb\xff\xff\xff\xff"),
        ("4 GiB of binary", b"\xc6\xff\xff\xff\xff"),
        ("4 billion items", b"\xdd\xff\xff\xff\xff"),
        ("4 billion pairs", b"\xdf\xff\xff\xff\xff"),
        ("too long", b"\xc5\xff\xff" + bytes(0xFFFF)),
    ],
)
def test_what_headers_may_not_hold(name, packed):
    with pytest.raises(RemoteProtocolError, match="malformed msgpack"):
        codec.unpack(packed)
    # What the walk can see it refuses by itself: nothing of it is built first.
    if name not in {"a key twice", "a key twice, deeper", "binary key", "integer key", "array key", "not UTF-8"}:
        with pytest.raises(RemoteProtocolError):
            codec.check(packed, HEADER_BOUNDS)


def test_each_bound_is_exact():
    assert codec.unpack(b"\x91\x91\x91\x01") == [[[1]]]
    assert len(codec.unpack(msgpack.packb([0] * HEADER_BOUNDS.array))) == HEADER_BOUNDS.array
    assert len(codec.unpack(msgpack.packb("x" * HEADER_BOUNDS.string))) == HEADER_BOUNDS.string
    assert len(codec.unpack(msgpack.packb({str(n): 0 for n in range(HEADER_BOUNDS.map)}))) == HEADER_BOUNDS.map
    full = [[0] * 255, [0] * 255, [0] * 255, [0] * 254]
    assert codec.unpack(msgpack.packb(full)) == full
    with pytest.raises(RemoteProtocolError, match="1024 items"):
        codec.unpack(msgpack.packb([*full, 0]))


def test_rows_of_many_empty_lists_are_no_bomb():
    # 16 MiB of these would be a gigabyte of Python objects.
    bomb = b"\xdd\x00\x00\x01\x00" + (b"\xdd\x00\x00\xff\xff" + b"\x90" * 0xFFFF) * 0x100
    with pytest.raises(RemoteProtocolError, match="items"):
        codec.unpack(bomb[: ROWS_BOUNDS.total], ROWS_BOUNDS)


def test_errors_do_not_quote_the_data():
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack(b"\xa6secre\xff")
    assert "secre" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [object(), 1 << 64, {"a": {1, 2}}])
def test_what_cannot_be_packed_is_our_fault(value):
    with pytest.raises(LocalProtocolError):
        codec.pack(value)
    assert codec.pack([1]) == b"\x91\x01"

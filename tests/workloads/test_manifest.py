"""The manifest as bytes: what goes in comes out in any split, and nothing else is ever taken for a manifest."""

from __future__ import annotations

import itertools
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import DamagedData, UnsupportedFormat
from transporter.workloads.entry import MORE, Entry, Extent, Hole, pack_extents, pack_holes
from transporter.workloads.manifest import END, HEADER, LENGTH, MAGIC, MAX_RECORD, ManifestDecoder, ManifestEncoder

chunk_ids = st.binary(min_size=32, max_size=32)
u32, u63 = st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)
times = st.integers(-(2**63), 2**63 - 1)
short = st.binary(max_size=20)
entries = st.builds(
    Entry,
    path=st.binary(max_size=60),
    kind=st.sampled_from("fdlpcb"),
    flags=u32,
    size=u63,
    mtime_ns=times,
    ctime_ns=times,
    dev=st.integers(0, 2**64 - 1),
    inode=st.integers(0, 2**64 - 1),
    mode=st.integers(0, 0o7777),
    uid=u32,
    gid=u32,
    user=short,
    group=short,
    packed_extents=st.lists(st.tuples(chunk_ids, u32, u32), max_size=4).map(pack_extents),
    nlink=st.integers(0, 2**64 - 1),
    link=short,
    target=short,
    rdev=st.integers(0, 2**64 - 1),
    xattrs=st.dictionaries(short, short, max_size=3),
    packed_holes=st.lists(st.tuples(u63, u63), max_size=3).map(pack_holes),
)


def encode(items) -> bytes:
    encoder = ManifestEncoder()
    for item in items:
        encoder.add(item)
    encoder.finish()
    return bytes(encoder.take())


def decode(data: bytes, *cuts: int) -> list[Entry]:
    decoder = ManifestDecoder()
    found = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += decoder.feed(data[start:end])
    decoder.finish()
    return found


@given(st.lists(entries, max_size=5), st.lists(st.integers(0, 10_000), max_size=6))
def test_any_entries_in_any_split(items, cuts):
    assert decode(encode(items), *cuts) == items


def test_byte_by_byte():
    items = [Entry(b"a", "d"), Entry(b"a/b", "f", size=3, xattrs={b"user.x": b"y"})]
    data = encode(items)
    assert decode(data, *range(len(data))) == items


def test_frozen_bytes():
    """Format version 1 as it was first written: this test never changes while the version is 1."""
    entry = Entry(
        b"r/\xff", "f", 0, 5, -1, 2, 3, 4, 0o640, 5, 6, b"u", b"g", pack_extents([(b"\x07" * 32, 8, 5)]), 2, b"r/a",
        b"", 0, {b"user.k": b"v"}, b"",
    )  # fmt: skip
    expected = (
        "54504d4600010000"  # TPMF, version 1
        "0000005c"  # 92 bytes
        "dc0014"  # array of 20
        "c403722fff" "a166" "00" "05" "ff" "02" "03" "04" "cd01a0" "05" "06" "c40175" "c40167"
        "c428" + "07" * 32 + "00000008" "00000005"
        "02" "c403722f61" "c400" "00" "81c406757365722e6bc40176" "c400"
        "00000000"
    )  # fmt: skip
    assert encode([entry]).hex() == expected
    assert decode(bytes.fromhex(expected)) == [entry]


@given(entries, st.data())
def test_a_cut_manifest_is_refused(entry, data):
    whole = encode([entry])
    with pytest.raises(DamagedData):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300)
def test_any_bytes_are_refused_or_decoded(data, with_header):
    decoder = ManifestDecoder()
    try:
        decoder.feed((HEADER.pack(MAGIC, 1, 0) if with_header else b"") + data)
        decoder.finish()
    except DamagedData:
        pass


@given(entries, st.data())
@settings(max_examples=200)
def test_flipped_bits_never_raise_anything_else(entry, data):
    whole = bytearray(encode([entry, entry]))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    decoder = ManifestDecoder()
    try:
        for found in decoder.feed(whole):
            list(found.iter_extents())
            list(found.iter_holes())
        decoder.finish()
    except DamagedData:
        pass


def test_bytes_after_the_end_are_refused():
    with pytest.raises(DamagedData):
        decode(encode([]) + b"\0")
    with pytest.raises(DamagedData):
        decode(encode([]) + b"\0", len(encode([])))


def test_a_later_version_is_unsupported():
    with pytest.raises(UnsupportedFormat):
        decode(HEADER.pack(MAGIC, 2, 0) + END)


@pytest.mark.parametrize(
    "bomb", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000]
)
def test_a_bomb_takes_no_memory(bomb):
    data = HEADER.pack(MAGIC, 1, 0) + LENGTH.pack(len(bomb)) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(DamagedData):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_record_longer_than_any_is_refused_before_it_is_buffered():
    decoder = ManifestDecoder()
    with pytest.raises(DamagedData):
        decoder.feed(HEADER.pack(MAGIC, 1, 0) + LENGTH.pack(MAX_RECORD + 1))


def test_the_encoder_refuses_what_the_decoder_would():
    encoder = ManifestEncoder()
    with pytest.raises(ValueError, match="entry of"):
        encoder.add(Entry(b"x", "f", xattrs={b"a": bytes(MAX_RECORD)}))
    encoder.add(Entry(b"y", "d"))
    encoder.finish()
    assert [e.path for e in decode(bytes(encoder.take()))] == [b"y"]


@pytest.mark.parametrize(
    "fields",
    [{"mode": 0o10000}, {"uid": -1}, {"uid": 2**32}, {"kind": "s"}, {"kind": "dd"}, {"size": -1}, {"size": 2**63}],
)
def test_values_out_of_range_are_refused(fields):
    body = msgspec.msgpack.encode(msgspec.structs.replace(Entry(b"x", "f"), **fields))
    with pytest.raises(DamagedData):
        decode(HEADER.pack(MAGIC, 1, 0) + LENGTH.pack(len(body)) + body + END)


def test_extents_and_holes_unpack():
    entry = Entry(b"x", "f", MORE, packed_extents=pack_extents([(b"i" * 32, 1, 2), (b"j" * 32, 0, 9)]))
    entry.packed_holes = pack_holes([(5, 6)])
    assert entry.extents == [Extent(b"i" * 32, 1, 2), Extent(b"j" * 32, 0, 9)]
    assert entry.holes == [Hole(5, 6)]
    assert list(entry.chunk_ids()) == [b"i" * 32, b"j" * 32]
    entry.packed_extents += b"?"
    entry.packed_holes += b"?"
    with pytest.raises(DamagedData):
        list(entry.chunk_ids())
    with pytest.raises(DamagedData):
        list(entry.iter_holes())

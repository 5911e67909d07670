"""The file-system index: what goes in comes out, an unchanged part gives the same blocks, and nothing else is one."""

from __future__ import annotations

import fnmatch
import itertools
import os
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.errors import DamagedData, UnsupportedFormat, UsageError
from transporter.workloads import fsi_builder
from transporter.workloads.entry import CONTINUATION, MORE, Entry, path_key
from transporter.workloads.fsi import HEADER, KINDS, MAX_BLOCK, MAX_ENTRIES, FsiBlock, Row, encode_block
from transporter.workloads.fsi_builder import FsiBuilder
from transporter.workloads.fsi_query import Query

names = st.one_of(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=8).map(
        str.encode
    ),
    st.binary(min_size=1, max_size=6).map(lambda raw: raw.replace(b"\0", b"x").replace(b"/", b"y")),
    st.sampled_from([b"a", b"ab.txt", b"b.txt", b"\xff", "ä.txt".encode()]),
)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
rows = st.builds(
    Row, paths, st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.sampled_from(KINDS.decode())
)
trees = st.lists(rows, max_size=60, unique_by=lambda row: row.path).map(
    lambda found: sorted(found, key=lambda row: path_key(row.path))
)


def entry_of(row):
    return Entry(row.path, row.kind, size=row.size, mtime_ns=row.mtime_ns)


def blocks_of(entries, cuts=(), seed=1):
    builder = FsiBuilder(seed)
    edges = [0, *sorted(cut % (len(entries) + 1) for cut in cuts), len(entries)]
    made = [block for start, end in itertools.pairwise(edges) for block in builder.add(entries[start:end])]
    return made + builder.finish()


def rows_of(blocks):
    return [row for block in blocks for row in FsiBlock.parse(block).rows()]


def many(count):
    chance = random.Random(5)
    return [
        Entry(b"srv/%04d/%07d" % (at // 50, at), "f", size=chance.randrange(1 << 40), mtime_ns=at)
        for at in range(count)
    ]


@given(trees, st.lists(st.integers(0, 99), max_size=5), st.integers(0, 2**32 - 1))
def test_what_goes_in_comes_out_however_it_was_handed_in(tree, cuts, seed):
    entries = [entry_of(row) for row in tree]
    blocks = blocks_of(entries, cuts, seed)
    assert rows_of(blocks) == tree
    assert blocks == blocks_of(entries, (), seed)


@given(trees, st.lists(st.integers(0, 99), max_size=5))
@settings(max_examples=60)
def test_full_blocks_do_not_depend_on_how_entries_were_handed_in_either(tree, cuts):
    entries = [entry_of(row) for row in tree]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsi_builder, "MAX_ENTRIES", 5)
        patch.setattr(fsi_builder, "PATHS_AT_LEAST", 30)
        patch.setattr(fsi_builder, "_ENDS_BELOW", 1 << 29)
        blocks = blocks_of(entries, cuts)
        assert rows_of(blocks) == tree
        assert blocks == blocks_of(entries)
        assert all(FsiBlock.parse(block).count <= 5 for block in blocks)
        for block in blocks:
            paths = [row.path for row in FsiBlock.parse(block).rows()]
            assert sum(map(len, paths[:-1])) < 30


def test_blocks_stay_the_same_but_around_what_changed():
    entries = many(20_000)
    before = blocks_of(entries)
    assert 10 < len(before) < 40
    changed = [Entry(one.path, one.kind, size=1, mtime_ns=2) if at == 9_000 else one for at, one in enumerate(entries)]
    assert len(set(blocks_of(changed)) - set(before)) == 1
    fewer = entries[:5_000] + entries[5_100:]
    assert len(set(blocks_of(fewer)) - set(before)) <= 1
    more = [*entries[:7_000], Entry(b"srv/0140/new", "f"), *entries[7_000:]]
    assert len(set(blocks_of(more)) - set(before)) <= 2


def test_borders_are_drawn_by_the_seed():
    entries = many(20_000)
    counts = [[FsiBlock.parse(block).count for block in blocks_of(entries, seed=seed)] for seed in (1, 2)]
    assert counts[0] != counts[1]


def test_a_block_is_bounded_whatever_the_paths():
    entries = [Entry(b"%05d" % at + b"x" * 999, "f") for at in range(3_000)] + [Entry(b"y" * (1 << 20), "f")]
    blocks = blocks_of(entries)
    assert max(map(len, blocks)) <= MAX_BLOCK
    assert len(rows_of(blocks)) == len(entries)


def test_a_long_file_is_one_entry_with_its_first_time_and_its_last_size():
    records = [
        Entry(b"a", "f", size=1, mtime_ns=7),
        Entry(b"long", "f", MORE, size=10, mtime_ns=8),
        Entry(b"long", "f", MORE | CONTINUATION, size=10),
        Entry(b"long", "f", CONTINUATION, size=9),
        Entry(b"z", "f"),
    ]
    wanted = [Row(b"a", 1, 7, "f"), Row(b"long", 9, 8, "f"), Row(b"z", 0, 0, "f")]
    for cut in range(6):
        assert rows_of(blocks_of(records, [cut])) == wanted


def test_a_name_that_no_file_system_has_is_left_out():
    assert [row.path for row in rows_of(blocks_of([Entry(b"a", "f"), Entry(b"b\0c", "f"), Entry(b"d", "f")]))] == [
        b"a",
        b"d",
    ]


# --- hostile bytes --------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_nothing_else_is_a_block(data):
    with pytest.raises((DamagedData, UnsupportedFormat)):
        FsiBlock.parse(b"FSI1" + data[:3] + b"\xff" + data[3:])


@given(trees.filter(bool), st.data())
def test_a_changed_byte_is_refused_or_read_as_what_it_says_then(tree, data):
    (block, *_) = blocks_of([entry_of(row) for row in tree])
    raw = bytearray(block)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = FsiBlock.parse(bytes(raw))
    except (DamagedData, UnsupportedFormat):
        return
    read = parsed.rows()
    assert len(read) == parsed.count <= MAX_ENTRIES
    Query("*").compiled().match(parsed)


@given(trees.filter(bool), st.integers(0, 400))
def test_a_cut_block_is_refused(tree, length):
    (block, *_) = blocks_of([entry_of(row) for row in tree])
    for wrong in (block[: min(length, len(block) - 1)], block + b"x"):
        with pytest.raises((DamagedData, UnsupportedFormat)):
            FsiBlock.parse(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        HEADER.pack(b"FSI1", 0, 0),
        HEADER.pack(b"FSI1", 2**32 - 1, 2**32 - 1),
        HEADER.pack(b"FSI1", MAX_ENTRIES + 1, MAX_ENTRIES + 1) + bytes(18 * (MAX_ENTRIES + 1)),
        bytes(MAX_BLOCK + 1),
        encode_block([b"a"], [1], [1], ["f"])[:-2] + b"ab",
        encode_block([b"a"], [1], [1], ["f"]).replace(b"fa\0", b"xa\0"),
        encode_block([b"a"], [2**63], [1], ["f"]),
        HEADER.pack(b"FSI1", 1, 3) + bytes(16) + b"f" + b"a\0b\0"[:3],
    ],
    ids=["none", "huge", "many", "long", "open", "kind", "size", "more"],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(DamagedData):
        FsiBlock.parse(wrong)


def test_a_later_version_is_told_as_such():
    with pytest.raises(UnsupportedFormat):
        FsiBlock.parse(b"FSI2" + struct.pack(">II", 1, 1) + bytes(18))


# --- what is found --------------------------------------------------------------------------------------------


def model(glob, path):
    """What a glob means, told slowly."""
    text = os.fsdecode(path)
    bare = glob.rstrip("/")
    if "/" not in bare:
        return fnmatch.fnmatchcase(text.rpartition("/")[2], bare)
    wanted = [part for part in bare.split("/") if part]
    parts = text.split("/")

    def fits(some, left):
        if not some:
            return not left
        if len(some[0]) > 1 and not some[0].strip("*"):
            at_least = 1 if len(some) == 1 else 0
            return any(fits(some[1:] or [], left[skip:]) for skip in range(at_least, len(left) + 1))
        return bool(left) and fnmatch.fnmatchcase(left[0], some[0]) and fits(some[1:], left[1:])

    starts = [0] if bare.startswith("/") else range(len(parts))
    return any(fits(wanted, parts[start:]) for start in starts)


globs = st.lists(
    st.sampled_from(["*", "?", "**", "/", "a", "b", ".txt", "[ab]", "[!a]", "ä", "ab", "x", "[", "]", "\udcff"]),
    min_size=1,
    max_size=6,
).map("".join)


@given(trees.filter(bool), globs.filter(lambda glob: glob.strip("/")))
@settings(max_examples=400)
def test_a_glob_finds_what_it_means(tree, glob):
    (block, *_) = blocks_of([entry_of(row) for row in tree])
    parsed = FsiBlock.parse(block)
    found = Query(glob).compiled().match(parsed)
    wanted = [row for row in parsed.rows() if model(glob, row.path) and (row.kind == "d" or not glob.endswith("/"))]
    assert [hit[1:] for hit in found.hits] == [tuple(row) for row in wanted]
    assert [hit.key for hit in found.hits] == [path_key(row.path) for row in wanted]
    assert found.last_key == path_key(parsed.rows()[-1].path)


bounds = st.one_of(st.none(), st.integers(0, 2**63 - 1))


@given(
    trees.filter(bool), bounds, bounds, bounds, bounds, st.sampled_from(["", "f", "dl"]), st.sampled_from(["*", "a*"])
)
def test_bounds_hold_together(tree, least, most, after, before, kinds, glob):
    (block, *_) = blocks_of([entry_of(row) for row in tree])
    parsed = FsiBlock.parse(block)
    query = Query(glob, least, most, after, before, kinds)
    found = [hit[1:] for hit in query.compiled().match(parsed).hits]

    def within(number, low, high):
        return (low is None or number >= low) and (high is None or number <= high)

    assert found == [
        tuple(row)
        for row in parsed.rows()
        if model(glob, row.path)
        and within(row.size, least, most)
        and within(row.mtime_ns, after, before)
        and (not kinds or row.kind in kinds)
    ]


@pytest.mark.parametrize(
    ("glob", "path", "is_found"),
    [
        ("*.pdf", b"docs/a.pdf", True),
        ("*.pdf", b"docs.pdf/a", False),
        ("docs/*.pdf", b"srv/docs/a.pdf", True),
        ("docs/*.pdf", b"srv/docs/old/a.pdf", False),
        ("docs/**/*.pdf", b"srv/docs/a.pdf", True),
        ("docs/**/*.pdf", b"srv/docs/old/x/a.pdf", True),
        ("/docs/*", b"srv/docs/a", False),
        ("/srv/docs/*", b"srv/docs/a", True),
        ("docs/**", b"srv/docs", False),
        ("docs/**", b"srv/docs/a/b", True),
        ("?.txt", "ä.txt".encode(), True),
        ("?.txt", b"\xff.txt", True),
        ("name", b"name", True),
        ("name", b"a/name", True),
        ("name", b"a/name2", False),
        ("*", b"a/b", True),
    ],
)
def test_globs_by_example(glob, path, is_found):
    block = FsiBlock.parse(encode_block([path], [1], [1], ["f"]))
    assert bool(Query(glob).compiled().match(block).hits) is is_found


@pytest.mark.parametrize("glob", ["", "/", "//", "a\0b", "x" * 5000])
def test_what_is_no_pattern_is_refused(glob):
    with pytest.raises(UsageError):
        Query(glob).compiled()


@pytest.mark.parametrize("glob", ["*a*a*a*a*a*a*a*a*a*a*a*b", "**/a*/**/a*/**/a*/**/a*/**/a*/b"])
def test_a_name_made_to_be_slow_is_refused_at_once(glob):
    """Without atomic groups, and going back behind each ``**``, these would take longer than the world lasts."""
    path = b"/".join([b"a" * 250] * 16) + b"c"
    block = FsiBlock.parse(encode_block([path], [1], [1], ["f"]))
    matcher = Query(glob).compiled()
    assert matcher.match(block).hits == ()
    assert not matcher._fits(os.fsdecode(path))

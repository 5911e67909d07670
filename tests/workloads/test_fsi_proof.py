"""What an index lists is compared with the manifest, entry by entry, however either was cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.workloads.entry import CONTINUATION, MORE, Entry, path_key
from transporter.workloads.fsi import KINDS, FsiBlock, Row, encode_block
from transporter.workloads.fsi_proof import IndexProof

names = st.binary(min_size=1, max_size=6).map(lambda raw: raw.replace(b"\0", b"x").replace(b"/", b"y"))
rows = st.builds(
    Row,
    st.lists(names, min_size=1, max_size=3).map(b"/".join),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(KINDS.decode()),
)
trees = st.lists(rows, min_size=1, max_size=20, unique_by=lambda row: row.path).map(
    lambda found: sorted(found, key=lambda row: path_key(row.path))
)
cuts = st.lists(st.integers(0, 19), max_size=4)


def pieces(items, at):
    edges = sorted({0, len(items), *(cut % (len(items) + 1) for cut in at)})
    return [items[start:end] for start, end in itertools.pairwise(edges)]


def problem(listed, entries, block_cuts=(), entry_cuts=()):
    """What is said of an index that lists ``listed``, and a manifest of ``entries``."""
    proof = IndexProof()
    for some in pieces(listed, block_cuts):
        proof.take_block(FsiBlock.parse(encode_block(*zip(*some, strict=True))))
    for some in pieces(entries, entry_cuts):
        proof.take_entries(some)
    return proof.problem()


def entries_of(tree):
    return [Entry(row.path, row.kind, size=row.size, mtime_ns=row.mtime_ns) for row in tree]


@given(trees, cuts, cuts)
def test_the_same_is_the_same_however_it_was_cut(tree, block_cuts, entry_cuts):
    assert problem(tree, entries_of(tree), block_cuts, entry_cuts) == ""


@given(trees, cuts, cuts, st.integers(0, 19), rows)
@settings(max_examples=200)
def test_every_other_entry_is_found(tree, block_cuts, entry_cuts, at, other):
    at %= len(tree)
    changed = [*tree[:at], other, *tree[at + 1 :]]
    for column in range(4):
        part = [*tree[:at], tree[at]._replace(**{Row._fields[column]: other[column]}), *tree[at + 1 :]]
        if part != tree:
            assert "something else" in problem(part, entries_of(tree), block_cuts, entry_cuts)
    if changed != tree:
        assert problem(tree, entries_of(changed), block_cuts, entry_cuts)
    assert problem([*tree, other], entries_of(tree), block_cuts, entry_cuts)
    assert problem(tree, entries_of([*tree, other]), block_cuts, entry_cuts)
    assert problem([*tree[:at], other, *tree[at:]], entries_of(tree), block_cuts, entry_cuts)


def test_bytes_do_not_move_from_one_entry_to_the_next():
    """Each column has the same bytes in all; what differs is which entry has them."""
    listed = [Row(b"a", 1, 2, "f"), Row(b"b", 3, 4, "d")]
    for other in ([Row(b"a", 3, 2, "f"), Row(b"b", 1, 4, "d")], [Row(b"a", 1, 2, "d"), Row(b"b", 3, 4, "f")]):
        assert "something else" in problem(listed, entries_of(other))


def test_an_index_of_nothing_and_a_manifest_of_nothing():
    tree = [Row(b"a", 1, 2, "f")]
    assert "lacks 1 entries of the manifest, from b'a' on" in problem([], entries_of(tree))
    assert "lists 1 entries more" in problem(tree, [])
    assert problem([], []) == ""


@pytest.mark.parametrize("cut", range(4))
def test_a_long_file_is_one_entry(cut):
    records = [
        Entry(b"a", "f", size=1, mtime_ns=5, flags=MORE),
        Entry(b"a", "f", size=2, flags=MORE | CONTINUATION),
        Entry(b"a", "f", size=7, flags=CONTINUATION),
        Entry(b"b", "f", size=1, mtime_ns=1),
    ]
    assert problem([Row(b"a", 7, 5, "f"), Row(b"b", 1, 1, "f")], records, entry_cuts=[cut]) == ""
    assert problem([Row(b"a", 1, 5, "f"), Row(b"b", 1, 1, "f")], records, entry_cuts=[cut])


def test_a_name_with_a_nul_is_in_no_index():
    entries = [Entry(b"a\0b", "f", size=1), Entry(b"c", "f", size=1, mtime_ns=1)]
    assert problem([Row(b"c", 1, 1, "f")], entries) == ""


def test_a_long_path_is_shown_short():
    assert len(problem([], [Entry(b"x" * (1 << 20), "f")])) < 300

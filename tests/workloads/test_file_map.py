"""Any bytes of a file, out of its extents and holes: against the file as it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transporter.workloads.entry import CONTINUATION, MORE, Entry, pack_extents, pack_holes
from transporter.workloads.file_map import FileMap
from transporter.workloads.tree_index import TreeIndexBuilder

CHUNKS = {bytes([n]) * 32: bytes((n * 31 + at) % 251 for at in range(200)) for n in range(4)}
PARTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(CHUNKS)), st.integers(0, 150), st.integers(1, 50)),
        st.integers(1, 300),
    ),
    max_size=12,
)


def records_of(parts, cuts):
    """Records of a file made of (chunk, offset, length) and of holes; a new one behind each part in ``cuts``."""
    records, extents, holes, content = [], [], [], b""
    hole_before = False
    for at, part in enumerate(parts):
        if isinstance(part, int):
            if hole_before:
                continue
            holes.append((len(content), part))
            content += bytes(part)
        else:
            chunk_id, offset, length = part
            extents.append(part)
            content += CHUNKS[chunk_id][offset : offset + length]
        hole_before = isinstance(part, int)
        if at in cuts and at + 1 < len(parts) and any(not isinstance(rest, int) for rest in parts[at + 1 :]):
            records.append((extents, holes))
            extents, holes = [], []
    records.append((extents, holes))
    entries = []
    for at, (some, gaps) in enumerate(records):
        flags = (CONTINUATION if at else 0) | (MORE if at < len(records) - 1 else 0)
        packed = {"packed_extents": pack_extents(some), "packed_holes": pack_holes(gaps)}
        entries.append(Entry(b"f", "f", flags, len(content), **packed))
    return entries, content


def read(pieces):
    return b"".join(
        CHUNKS[one.chunk_id][one.offset : one.offset + one.length] if one.chunk_id else bytes(one.length)
        for one in pieces
    )


@settings(max_examples=150, deadline=None)
@given(PARTS, st.sets(st.integers(0, 11)), st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 700)), max_size=8))
def test_any_part_of_a_file(tmp_path_factory, parts, cuts, reads):
    entries, content = records_of(parts, cuts)
    builder = TreeIndexBuilder(tmp_path_factory.mktemp("map"), [b"f"])
    builder.add(entries)
    with builder.finish() as tree:
        file = FileMap(tree, 1)
        assert file.size == len(content)
        for offset, length in [(0, len(content)), (0, 10**6), *reads]:
            pieces = file.pieces(offset, length)
            assert read(pieces) == content[offset : offset + length]
            assert all(piece.length > 0 for piece in pieces)


@pytest.mark.parametrize("cut", [set(), {0}])
def test_reading_behind_the_end_gives_nothing(tmp_path, cut):
    entries, content = records_of([(b"\1" * 32, 0, 9), (b"\2" * 32, 0, 5)], cut)
    builder = TreeIndexBuilder(tmp_path, [b"f"])
    builder.add(entries)
    with builder.finish() as tree:
        file = FileMap(tree, 1)
        assert file.pieces(len(content), 100) == [] == file.pieces(10**9, 1)
        assert read(file.pieces(7, 4)) == content[7:11]

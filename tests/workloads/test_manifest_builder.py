"""Whatever the files, holes and cuts: every byte of content is found again through the extents."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transporter.workloads import manifest_builder
from transporter.workloads.entry import CHANGED, CONTINUATION, MORE, Entry
from transporter.workloads.layout import lay_out
from transporter.workloads.manifest_builder import ManifestBuilder
from transporter.workloads.pending import OPEN_END, Pending

# A file: runs of data and holes in turn (lengths), beginning with data or a hole.
files = st.tuples(st.booleans(), st.lists(st.integers(1, 30), max_size=8))


def lay(starts_with_hole: bool, runs: list[int]) -> tuple[int, array]:
    """Size of the data, and the holes."""
    data, position, holes = 0, 0, array("Q")
    for index, run in enumerate(runs):
        if (index % 2 == 0) == starts_with_hole:
            holes.extend((position, run))
        else:
            data += run
        position += run
    return data, holes


@given(st.lists(files, max_size=8), st.lists(st.integers(1, 60), min_size=1), st.integers(1, 3), st.integers(1, 3))
def test_every_byte_is_found_again(shapes, cuts, most_extents, most_holes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_builder, "MAX_RECORD_EXTENTS", most_extents)
        patch.setattr(manifest_builder, "MAX_RECORD_HOLES", most_holes)
        builder = ManifestBuilder()
        offset = 0
        sizes = {}
        for number, (hole_first, runs) in enumerate(shapes):
            data, holes = lay(hole_first, runs)
            path = b"%d" % number
            sizes[path] = (sum(runs), offset, data, holes)
            builder.add_pending([Pending(Entry(path, "f", size=sum(runs)), offset, offset + data, holes or None)])
            offset += data
        position, index, chunk_starts, entries = 0, 0, {}, []
        while position < offset:
            length = min(cuts[index % len(cuts)], offset - position)
            chunk_id = index.to_bytes(32, "big")
            chunk_starts[chunk_id] = position
            builder.chunk_cut(chunk_id, position, length)
            entries += builder.take_ready()
            position += length
            index += 1
        entries += builder.take_ready()
    assert builder.pending_count == 0
    at = 0
    for path, (size, start, data, holes) in sizes.items():
        end, stream = 0, []
        while True:
            record = entries[at]
            at += 1
            assert record.path == path
            assert bool(record.flags & CONTINUATION) == (end > 0 or bool(stream))
            runs, end = lay_out(record, end)
            stream += [(chunk_starts[i] + a, n, file_at) for i, file_at, a, n in runs]
            if not record.flags & MORE:
                break
        assert end == size
        covered = [x for a, n, _ in stream for x in range(a, a + n)]
        assert covered == list(range(start, start + data))
        in_holes = {x for i in range(0, len(holes), 2) for x in range(holes[i], holes[i] + holes[i + 1])}
        assert not in_holes & {x for _, n, f in stream for x in range(f, f + n)}
    assert at == len(entries)


def test_cuts_must_follow_each_other():
    builder = ManifestBuilder()
    builder.add_pending([Pending(Entry(b"a", "f", size=9), 0, 9)])
    with pytest.raises(ValueError, match="expected at 0"):
        builder.chunk_cut(b"i" * 32, 1, 2)
    with pytest.raises(ValueError, match="no entry for bytes 9 to 10"):
        builder.chunk_cut(b"i" * 32, 0, 10)


def test_entries_without_content_wait_for_those_before_them():
    builder = ManifestBuilder()
    builder.add_pending([Pending(Entry(b"a", "d"), 0, 0), Pending(Entry(b"a/f", "f", size=4), 0, 4)])
    builder.add_pending([Pending(Entry(b"b", "d"), 4, 4)])
    assert [e.path for e in builder.take_ready()] == [b"a"]
    assert builder.pending_count == 2
    builder.chunk_cut(b"i" * 32, 0, 4)
    assert [e.path for e in builder.take_ready()] == [b"a/f", b"b"]


def test_a_file_cut_short_after_its_bytes_were_chunked():
    """The source learns at its next read that the file has ended: nothing more comes, yet the entry gets finished."""
    builder = ManifestBuilder()
    pending = Pending(Entry(b"f", "f", size=100), 0, 100)
    builder.add_pending([pending])
    builder.chunk_cut(b"i" * 32, 0, 10)
    assert builder.take_ready() == []
    pending.size, pending.flags = 10, CHANGED
    pending.end = 10
    (entry,) = builder.take_ready()
    assert (entry.size, entry.flags, entry.extents) == (10, CHANGED, [(b"i" * 32, 0, 10)])


def test_a_stream_has_no_end_until_it_ends(monkeypatch):
    monkeypatch.setattr(manifest_builder, "MAX_RECORD_EXTENTS", 2)
    builder = ManifestBuilder()
    pending = Pending(Entry(b"s", "f"), 0, OPEN_END)
    builder.add_pending([pending])
    for index in range(5):
        builder.chunk_cut(bytes([index]) * 32, index * 10, 10)
    pending.size = pending.end = 50
    records = builder.take_ready()
    assert [len(r.extents) for r in records] == [2, 2, 1]
    assert [r.flags for r in records] == [MORE, MORE | CONTINUATION, CONTINUATION]
    assert records[-1].size == 50

"""From extents and holes to runs, and what does not fit together."""

from __future__ import annotations

import pytest

from transporter.errors import DamagedData
from transporter.workloads.entry import MAX_CHUNK_LENGTH, MORE, Entry, pack_extents, pack_holes
from transporter.workloads.layout import lay_out

ID = b"i" * 32


def entry(extents, holes=(), size=0, flags=0):
    return Entry(b"f", "f", flags, size, packed_extents=pack_extents(extents), packed_holes=pack_holes(holes))


def test_extents_step_over_holes():
    runs, end = lay_out(entry([(ID, 5, 10), (ID, 0, 2)], [(0, 3), (7, 1), (12, 4), (20, 9)], size=29), 0)
    assert runs == [(ID, 3, 5, 4), (ID, 8, 9, 4), (ID, 16, 13, 2), (ID, 18, 0, 2)]
    assert end == 29


def test_a_record_goes_on_where_the_one_before_ended():
    runs, end = lay_out(entry([(ID, 0, 4)], [(102, 8)], flags=MORE), 100)
    assert (runs, end) == ([(ID, 100, 0, 2), (ID, 110, 2, 2)], 112)


@pytest.mark.parametrize(
    ("extents", "holes", "size"),
    [
        ([(ID, MAX_CHUNK_LENGTH - 1, 2)], [], 2),
        ([(ID, MAX_CHUNK_LENGTH - 1, 2)], [(2, 1)], 3),
        ([(ID, 0, 0)], [], 0),
        ([(ID, 0, 1), (ID, 0, 0)], [], 1),
        ([(ID, 0, 2)], [(1, 0)], 2),
        ([(ID, 0, 4)], [(2, 1), (2, 1)], 6),
        ([(ID, 0, 4)], [(9, 1)], 5),
        ([(ID, 0, 4)], [], 5),
        ([(ID, 0, 4)], [], 3),
        ([(ID, 0, 4)], [(4, 2**64 - 1)], 3),
    ],
)
def test_what_does_not_fit(extents, holes, size):
    with pytest.raises(DamagedData):
        lay_out(entry(extents, holes, size), 0)

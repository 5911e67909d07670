"""From extents and holes to runs: which bytes of which chunk go where in a file."""

from __future__ import annotations

from transporter.errors import DamagedData
from transporter.workloads.entry import EXTENT, MAX_CHUNK_LENGTH, MORE, Entry

Run = tuple[bytes, int, int, int]
"""Chunk id, file offset, chunk offset, length (bytes)."""

MAX_FILE = 2**63 - 1


def lay_out(entry: Entry, position: int) -> tuple[list[Run], int]:
    """Return the runs of one record that begins at ``position`` of its file, and the position where it ends.

    Raises ``DamagedData`` when extents and holes do not fit together, when an extent leaves its chunk, and when the
    last record does not end at the entry's size.
    """
    packed = entry.packed_extents
    if len(packed) == EXTENT.size and not entry.packed_holes:
        chunk_id, chunk_offset, length = EXTENT.unpack(packed)
        runs = [(chunk_id, position, chunk_offset, length)]
        _check_extent(entry, chunk_offset, length)
        end = position + length
    else:
        runs, end = _weave(entry, position)
    if end > MAX_FILE or (not entry.flags & MORE and end != entry.size):
        raise DamagedData(f"The content of {entry.path[:200]!r} is not as long as the file.")
    return runs, end


def _weave(entry: Entry, position: int) -> tuple[list[Run], int]:
    """Lay extents one after the other, stepping over holes."""
    runs: list[Run] = []
    holes = entry.iter_holes()
    hole = next(holes, None)
    for chunk_id, chunk_offset, length in entry.iter_extents():
        _check_extent(entry, chunk_offset, length)
        at, end = chunk_offset, chunk_offset + length
        while at < end:
            while hole is not None and hole[0] <= position:
                position = _step_over(entry, hole, position)
                hole = next(holes, None)
            run = end - at if hole is None else min(end - at, hole[0] - position)
            runs.append((chunk_id, position, at, run))
            position += run
            at += run
    while hole is not None:
        position = _step_over(entry, hole, position)
        hole = next(holes, None)
    return runs, position


def _step_over(entry: Entry, hole: tuple[int, int], position: int) -> int:
    if hole[0] != position or not hole[1]:
        raise DamagedData(f"The holes of {entry.path[:200]!r} do not fit its content.")
    return position + hole[1]


def _check_extent(entry: Entry, chunk_offset: int, length: int) -> None:
    if not length or chunk_offset + length > MAX_CHUNK_LENGTH:
        raise DamagedData(f"An extent of {entry.path[:200]!r} leaves its chunk.")

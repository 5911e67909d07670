"""What the bench of repositories says of each figure: what must be, what was seen, and how cost grows with size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from .figures import MIB, Verdict
from .repositories import HAVE_RATE, LOSS, PEAK_MIB, PRUNE_SECONDS, PRUNE_SIZES, REBUILD_SECONDS, Row

DRAWN = ("prune", "rebuild", "have")
# The cost of so many questions hardly grows; its figure is their rate.
GROWING = ("prune", "rebuild")
# Beside n log n: what one measurement differs from another on a machine that is not idle.
SLACK = 1.25
_SECONDS = {"prune": PRUNE_SECONDS, "rebuild": REBUILD_SECONDS}
# The fixed cost of a process hides how a small repository grows.
_LEAST_SIZE = 100_000


def verdicts(
    rows: Sequence[Row], alone: Sequence[Row], together: Sequence[Row], judge: Callable[[Row], bool]
) -> list[Verdict]:
    """Return a figure for each row, for how each work grows, and for what a prune takes from a backup beside it."""
    found = [_figure(row, judge(row)) for row in rows]
    for work in GROWING:
        found += _growth(work, [row for row in rows if row.work == work])
    if alone and together:
        before, meanwhile = (statistics.median(row.count / row.seconds for row in some) for some in (alone, together))
        lost = 1 - meanwhile / before
        found.append(Verdict("a backup beside a prune loses", f"< {LOSS:.0%}", f"{lost:.0%}", lost < LOSS))
    return found


def _figure(row: Row, reached: bool) -> Verdict:
    memory = f"≤ {PEAK_MIB} MiB"
    seconds = _SECONDS.get(row.work) if row.chunks >= PRUNE_SIZES[-1] else None
    must = f"≤ {seconds:.0f} s, {memory}" if seconds else memory
    seen = f"{row.seconds:.1f} s, {row.peak / MIB:.0f} MiB"
    if row.work == "have":
        must = f"≥ {HAVE_RATE:,.0f} ids a second, {memory}"
        seen = f"{row.count / row.seconds:,.0f} ids a second, {row.peak / MIB:.0f} MiB"
    return Verdict(f"{row.work}, {row.chunks:,} chunks", must, seen, reached)


def _growth(work: str, rows: Sequence[Row]) -> list[Verdict]:
    """Compare the processor seconds of the two largest sizes with n log n."""
    rows = sorted((row for row in rows if row.chunks >= _LEAST_SIZE), key=lambda row: row.chunks)
    if len(rows) < 2:
        return []
    small, large = rows[-2:]
    most = n_log_n(large.chunks) / n_log_n(small.chunks) * SLACK
    grew = large.cpu / small.cpu
    title = f"{work}: processor time from {small.chunks:,} to {large.chunks:,} chunks"
    return [Verdict(title, f"≤ {most:.1f} × (n log n, and {SLACK - 1:.0%})", f"{grew:.1f} ×", grew <= most)]


def n_log_n(size: int) -> float:
    """Return n log n."""
    return size * math.log(size)


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draw cost against size; False where matplotlib is not installed."""
    from . import plot

    works = {work: sorted((row.chunks, row.cpu, row.peak / MIB) for row in rows if row.work == work) for work in DRAWN}
    return plot.draw_growth({work: points for work, points in works.items() if points}, PEAK_MIB, path)

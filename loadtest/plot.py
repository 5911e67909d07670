"""The plots beside the reports: one panel a work, one bar a contender; and cost against size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import OURS, Summaries

_GROWTH_COLOURS = ("#1f6fb4", "#d9a441", "#5a9e6f", "#8c5fa8")


def draw_growth(works: Mapping[str, Sequence[tuple[int, float, float]]], most_mib: float, path: Path) -> bool:
    """Draw (size, processor seconds, MiB) of each work against size, n log n beside it; False without matplotlib.

    ``have`` asks the same number of questions whatever the size: beside it stands log n.
    """
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 4))
    for colour, (work, points) in zip(_GROWTH_COLOURS, works.items(), strict=False):
        sizes, seconds, mib = zip(*points, strict=True)
        time.plot(sizes, seconds, "o-", color=colour, label=work)
        # From the last point but one on: what costs the same at any size hides how the first ones grow.
        start = max(0, len(sizes) - 2)
        grown = [(1 if work == "have" else size) * math.log(size) for size in sizes[start:]]
        reference = [max(seconds[start], 1e-3) * each / grown[0] for each in grown]
        time.plot(sizes[start:], reference, ":", color=colour, linewidth=1.5)
        memory.plot(sizes, mib, "o-", color=colour, label=work)
    time.plot([], [], ":", color="#555555", label="n log n (have: log n)")
    memory.axhline(most_mib, color="#555555", linestyle="--", linewidth=1, label=f"at most {most_mib:.0f} MiB")
    memory.set_ylim(bottom=0)
    time.set_yscale("log")
    for panel, title in ((time, "processor seconds"), (memory, "peak memory, MiB")):
        panel.set_xscale("log")
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("chunks", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.legend(fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    _save(pyplot, figure, path)
    return True


def draw(summaries: Summaries, titles: Mapping[str, str], path: Path) -> bool:
    """Draw the median times with their ranges; False when matplotlib is not installed (an extra: ``bench``)."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    works = [work for work in titles if any(row.work == work for row in summaries.values())]
    counts = [sum(row.work == work for row in summaries.values()) for work in works]
    figure, panels = pyplot.subplots(
        len(works), 1, figsize=(8, 0.6 * len(works) + 0.32 * sum(counts)), height_ratios=counts, squeeze=False
    )
    for work, panel in zip(works, panels[:, 0], strict=True):
        rows = sorted((row for row in summaries.values() if row.work == work), key=lambda row: -row.seconds)
        values = [row.seconds for row in rows]
        errors = [[row.seconds - row.fastest for row in rows], [row.slowest - row.seconds for row in rows]]
        colours = [_colour(row.peer) for row in rows]
        bars = panel.barh([row.peer for row in rows], values, xerr=errors, color=colours, ecolor="#555555", capsize=2)
        panel.bar_label(bars, [f"{value:.2f} s" for value in values], padding=4, fontsize=8)
        panel.set_title(titles[work], loc="left", fontsize=10)
        panel.margins(x=0.12)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("seconds (median; whiskers: fastest and slowest) - shorter is better", fontsize=8)
    _save(pyplot, figure, path)
    return True


def _pyplot() -> Any:  # noqa: ANN401 - it comes with an extra
    """Return matplotlib's pyplot, None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same numbers give the same file
    from matplotlib import pyplot

    return pyplot


def _save(pyplot: Any, figure: Any, path: Path) -> None:  # noqa: ANN401
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    pyplot.close(figure)


def _colour(peer: str) -> str:
    if peer == OURS:
        return "#1f6fb4"
    if peer.startswith("transporter"):
        return "#8fbbe0"
    return "#d9a441" if peer in {"roofline", "local copy"} else "#9a9a9a"

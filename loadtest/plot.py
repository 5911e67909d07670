"""The plot beside the report: one panel a work, one bar a contender."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .figures import OURS, Summaries


def draw(summaries: Summaries, titles: Mapping[str, str], path: Path) -> bool:
    """Draw the median times with their ranges; False when matplotlib is not installed (an extra: ``bench``)."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same numbers give the same file
    from matplotlib import pyplot

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
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    pyplot.close(figure)
    return True


def _colour(peer: str) -> str:
    if peer == OURS:
        return "#1f6fb4"
    if peer.startswith("transporter"):
        return "#8fbbe0"
    return "#d9a441" if peer in {"roofline", "local copy"} else "#9a9a9a"

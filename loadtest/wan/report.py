"""The report of the bench over the lines: one markdown page, the raw numbers beside it, and a plot."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import plot
from .. import report as base
from ..corpus import Corpora
from ..figures import OURS, Verdict, summarize
from ..peers.base import TREE_AGAIN, TREE_FIRST, TREE_RESTORE
from .figures import LINES, Measured, OnTheLine, against_best, judge
from .iperf import STREAMS

WAN_WORKS = (TREE_FIRST, TREE_AGAIN, TREE_RESTORE)
NAME = "bench-wan"


@dataclasses.dataclass(frozen=True, slots=True)
class WanResult:
    """All that the report is made of."""

    machine: Mapping[str, str]
    corpora: Corpora
    lz4_bytes: int | None
    lines: Mapping[str, Measured]
    missing: Mapping[str, Sequence[str]]
    notes: Mapping[str, str]
    runs: int
    comparable: bool

    @property
    def failed(self) -> int:
        """Measurements that failed and are left out."""
        return sum(measured.failed for measured in self.lines.values())

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts of every line that was measured."""
        return [verdict for name, measured in self.lines.items() for verdict in judge(name, measured)]


def facts(result: WanResult) -> dict[str, str]:
    """Return label → text for the head of the page."""
    corpora = result.corpora
    packed = "" if result.lz4_bytes is None else f", {result.lz4_bytes / 1e6:.1f} MB as tar and lz4"
    every = [measured.buffers for measured in result.lines.values() if measured.buffers]
    more = (
        {"socket buffers at both ends": ", ".join(f"{name} {text}" for name, text in every[0].items())} if every else {}
    )
    return {
        **result.machine,
        "tree": f"{corpora.tree_label}: {corpora.tree_files} entries, {corpora.tree_bytes / 1e6:.1f} MB{packed}",
        "runs": f"{result.runs} rounds",
        **more,
    }


def goodput_table(result: WanResult) -> str:
    """Return what iperf3 got through each line, and ours during whole first copies."""
    head = ["Mbit/s", *[f"iperf3, {number} streams" for number in STREAMS], f"{OURS}, first copy"]
    rows = []
    for name, measured in result.lines.items():
        values = [*[measured.iperf_median(number) for number in STREAMS], measured.goodput(TREE_FIRST)]
        rows.append([name, *["–" if value is None else f"{value / 1e6:.1f}" for value in values]])
    return base.table(head, rows)


def best_table(result: WanResult) -> str:
    """Return how ours compares with the fastest peer in each work over each line."""
    rows = []
    for name, measured in result.lines.items():
        found = [against_best(measured.summaries, work) for work in WAN_WORKS]
        rows.append([name, *["–" if each is None else f"{each[0]:.2f} × as fast as {each[1]}" for each in found]])
    return base.table(["", *WAN_WORKS], rows)


def traffic_table(traffic: Sequence[OnTheLine], work: str) -> str:
    """Return what each contender put on the line in one work, in medians."""
    groups: dict[str, list[OnTheLine]] = {}
    for row in traffic:
        if row.work == work:
            groups.setdefault(row.peer, []).append(row)
    head = ["on the line", "MB up", "MB down", "best second Mbit/s", "packets lost", "packets dropped by the queue"]
    rows = [
        [
            peer,
            f"{statistics.median(row.up for row in rows) / 1e6:.2f}",
            f"{statistics.median(row.down for row in rows) / 1e6:.2f}",
            f"{statistics.median(row.peak_bit for row in rows) / 1e6:.1f}",
            f"{statistics.median(row.lost for row in rows):.0f}",
            f"{statistics.median(row.overflowed for row in rows):.0f}",
        ]
        for peer, rows in groups.items()
    ]
    return base.table(head, rows)


METHOD = """\
- A line is two network namespaces with a TUN device each, and one process between them that passes real IP packets:
  drop-tail queue bounded in bytes (one bandwidth-delay product, at least 256 KiB, of which the packet being sent is
  part), bottleneck, random loss behind it (seeded, independent for both directions), constant delay. MTU 1500; rates
  count IP packets. The process takes several TCP segments in one read where the kernel has them together, treats each
  as a packet of its own, and gives those of one sender that come out within half a millisecond to the other end
  together, as network cards do. Both ends use the line's congestion control (`net.ipv4.tcp_congestion_control` of each
  namespace), every contender alike; socket buffers have the kernel's bounds, named above.
- Both ends, the process that is the line, and the contenders share the processors of one machine. The line has a
  higher priority, so that it does not become slower when the ends compute.
- Over each line, in every round, each work is done once by every contender, taking turns; who comes first changes from
  round to round. Times are medians over the rounds, peaks of memory the largest ones seen.
- Goodput of ours is the bytes that the job reports as sent over the job's own seconds, from its beginning to its end:
  dialling, scanning, waiting for the last acknowledgement and the commit are in it, so it is less than what the line
  carries meanwhile. *Best second* is counted on the line, IP and TCP headers included, in whole seconds of the clock.
- iperf3 sends 10 s from source to target, slow start included; what counts is what the receiver got.
- Everything else as in [benchmarks.md](benchmarks.md): durable ends of copies and restores, warm page cache, memory,
  the sshd of the bench's own (here at the target's end of the line), one comparison of a restore with its original."""


def _section(result: WanResult, name: str, measured: Measured) -> list[str]:
    summaries = measured.summaries
    one = base.Result(
        result.machine, result.corpora, measured.samples, result.missing, result.notes, result.comparable, result.runs
    )
    parts = [f"## {name}", LINES[name].words() + "."]
    if measured.overruns:
        parts.append(f"**The line was too slow for {measured.overruns} packets: it was not what it says.**")
    for work in WAN_WORKS:
        if any(row.work == work for row in summaries.values()):
            parts += [f"### {name}: {base.TITLES[work]}", base.work_table(one, summaries, work)]
            parts.append(traffic_table(measured.traffic, work))
    return parts


def markdown(result: WanResult) -> str:
    """Return the whole page."""
    parts = ["# Benchmarks over a WAN", f"Made by `make bench-wan`; the raw numbers are in [{NAME}.json]({NAME}.json)."]
    if not result.comparable:
        parts.append("**A small tree (`--quick`): shows that it works, says nothing about speed.**")
    if result.failed:
        parts.append(f"**{result.failed} measurements failed and are left out.**")
    parts.append("\n".join(f"- {name}: {text}" for name, text in facts(result).items()))
    parts.append("\n".join(f"- line {name}: {LINES[name].words()}" for name in result.lines))
    if result.comparable:
        parts += ["## Figures to reach", base.verdict_table(result.verdicts())]
    parts += ["## Against the best peer", best_table(result), "## Goodput", goodput_table(result)]
    parts.append(f"![times]({NAME}.svg)")
    for name, measured in result.lines.items():
        parts += _section(result, name, measured)
    parts += ["## Method", METHOD, "\n".join(f"- {name}: {note}" for name, note in result.notes.items())]
    if result.missing:
        lacking = "; ".join(f"{name} (needs {', '.join(programs)})" for name, programs in result.missing.items())
        parts.append(f"Not installed here and so not measured: {lacking}.")
    return "\n\n".join(parts) + "\n"


def raw(result: WanResult) -> dict[str, object]:
    """Return all numbers, for the JSON beside the page."""
    return {
        "machine": dict(result.machine),
        "tree": result.corpora.tree_label,
        "tree_entries": result.corpora.tree_files,
        "tree_bytes": result.corpora.tree_bytes,
        "lz4_bytes": result.lz4_bytes,
        "lines": {
            name: {
                "line": dataclasses.asdict(LINES[name]) | {"queue_bytes": LINES[name].queue},
                "iperf3_bit": {str(streams): list(values) for streams, values in measured.iperf.items()},
                "samples": [dataclasses.asdict(sample) for sample in measured.samples],
                "traffic": [dataclasses.asdict(row) for row in measured.traffic],
                "overruns": measured.overruns,
            }
            for name, measured in result.lines.items()
        },
    }


def write(result: WanResult, out: Path) -> None:
    """Write bench-wan.md, bench-wan.json and, where matplotlib is installed, bench-wan.svg into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(raw(result), indent=1) + "\n")
    (out / f"{NAME}.md").write_text(markdown(result))
    titles, samples = {}, []
    for work in WAN_WORKS:
        for name, measured in result.lines.items():
            titles[f"{name}/{work}"] = f"{base.TITLES[work]}, {name}"
            samples += [dataclasses.replace(row, work=f"{name}/{work}") for row in measured.samples if row.work == work]
    if samples:
        plot.draw(summarize(samples), titles, out / f"{NAME}.svg")

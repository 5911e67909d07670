"""The report: one markdown page, the raw numbers beside it, and a plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .corpus import Corpora
from .figures import MIB, OURS, Summaries, Summary, Verdict, judge, speed_ratio, summarize
from .measure import Sample
from .peers.base import IMAGE_FIRST, IMAGE_RESTORE, TREE_AGAIN, TREE_FIRST, TREE_RESTORE, WORKS

TITLES = {
    IMAGE_FIRST: "Image, first copy",
    IMAGE_RESTORE: "Image, restore over the link",
    TREE_FIRST: "File tree, first copy",
    TREE_AGAIN: "File tree, nothing changed",
    TREE_RESTORE: "File tree, restore over the link",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """All that the report is made of."""

    machine: Mapping[str, str]
    corpora: Corpora
    samples: Sequence[Sample]
    missing: Mapping[str, Sequence[str]]
    notes: Mapping[str, str]
    comparable: bool
    runs: int
    failed: int = 0  # measurements that failed and are left out

    def work_bytes(self, work: str) -> int:
        """Return the plain bytes that a work is about."""
        return self.corpora.image_bytes if work in (IMAGE_FIRST, IMAGE_RESTORE) else self.corpora.tree_bytes


def sample_line(sample: Sample) -> str:
    """Return one line of progress."""
    ends = f"cpu {sample.source.cpu:.2f}+{sample.target.cpu:.2f} s"
    peaks = f"peak {sample.source.peak / MIB:.0f}+{sample.target.peak / MIB:.0f} MiB"
    stored = "" if sample.stored is None else f"  stored {sample.stored / 1e6:.0f} MB"
    return f"  {sample.work:14} {sample.peer:32} {sample.seconds:7.2f} s  {ends}  {peaks}{stored}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; the first column is text, the others are numbers."""
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    return "\n".join(lines + [_row(row) for row in rows])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _megabytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.1f}"


def work_table(result: Result, summaries: Summaries, work: str) -> str:
    """Return the table of one work, fastest first."""
    rows = sorted((row for row in summaries.values() if row.work == work), key=lambda row: row.seconds)
    head = ["", "s (median)", "min-max", "MB/s", f"{OURS} is", "flush s", "CPU source s", "CPU target s"]
    head += ["peak source MiB", "peak target MiB", "stored MB", "sent MB"]
    return table(head, [_work_row(result, summaries, row) for row in rows])


def _work_row(result: Result, summaries: Summaries, row: Summary) -> list[str]:
    ratio = speed_ratio(summaries, row.work, row.peer)
    rate = "–" if row.work == TREE_AGAIN else f"{result.work_bytes(row.work) / row.seconds / 1e6:.0f}"
    name = f"**{row.peer}**" if row.peer == OURS else row.peer
    return [
        name,
        f"{row.seconds:.2f}",
        f"{row.fastest:.2f}-{row.slowest:.2f}",
        rate,
        "–" if ratio is None or row.peer == OURS else f"{ratio:.2f} × as fast",
        f"{row.flush:.2f}" if row.flush else "–",
        f"{row.source_cpu:.2f}",
        f"{row.target_cpu:.2f}",
        f"{row.source_peak / MIB:.0f}",
        f"{row.target_peak / MIB:.0f}",
        _megabytes(row.stored),
        _megabytes(row.sent),
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the table of the figures that must be reached."""
    words = {True: "reached", False: "**missed**", None: "–"}
    rows = [[row.title, row.must, row.measured, words[row.reached]] for row in verdicts]
    return table(["figure", "must be", "is", ""], rows)


_METHOD = """\
- Everything runs on one machine over loopback, both ends on the same cores. In every round each work is done once by
  every contender, taking turns; who comes first changes from round to round. Times are medians over the rounds, peaks
  the largest ones seen.
- The corpora are read once before, so all find them in the page cache; nothing is dropped from it. Before each
  measurement the file systems are flushed.
- First copies end when they are durable: by the tool's own means (transporter, borg, roofline), by `sync` of the file
  (tar), by one `sync -f` after it (rsync, restic). Restores end with one `sync -f` for every contender. The times
  contain this; *flush* says how much of them it was.
- CPU is user + system of all processes of an end, sshd's own included. Peak memory of a peer is that of its largest
  process (floor about 10 MiB), of the transporter the sum over the daemon and its workers.
- *stored* is what the work added to the target's disk, *sent* the bytes on the wire where the tool tells. Starting up
  is in every time, except for the roofline's.
- The peers run through an sshd of the bench's own with throwaway keys, with OpenSSH's own choice of cipher unless
  `--cipher` is given.
- Restored trees are removed only at the end of a round, and no tree is written within a minute of that: ext4 does not
  reuse an inode deleted a moment ago, and searching past many of them makes creating files several times as slow.
- In the first round each restore of the transporter is compared with its original: `rsync -aHAXn --checksum
  --itemize-changes --delete` for the tree, `cmp` for the image."""


def markdown(result: Result) -> str:
    """Return the whole page."""
    summaries = summarize(result.samples)
    corpora = result.corpora
    parts = ["# Benchmarks", "Made by `make bench`; the raw numbers are in [bench.json](bench.json)."]
    if not result.comparable:
        parts.append("**Small corpora, one run (`--quick`): shows that it works, says nothing about speed.**")
    if result.failed:
        parts.append(f"**{result.failed} measurements failed and are left out.**")
    facts = dict(result.machine) | {
        "tree": f"{corpora.tree_label}: {corpora.tree_files} entries, {corpora.tree_bytes / 1e6:.0f} MB",
        "image": f"{corpora.image_bytes / 1e6:.0f} MB",
        "runs": f"{result.runs} rounds",
    }
    parts.append("\n".join(f"- {name}: {text}" for name, text in facts.items()))
    if result.comparable:
        parts += ["## Figures to reach", verdict_table(judge(summaries))]
    parts.append("![times](bench.svg)")
    for work in WORKS:
        if any(row.work == work for row in summaries.values()):
            parts += [f"## {TITLES[work]}", work_table(result, summaries, work)]
    parts += ["## Method", _METHOD, "\n".join(f"- {name}: {note}" for name, note in result.notes.items())]
    if result.missing:
        lacking = "; ".join(f"{name} (needs {', '.join(programs)})" for name, programs in result.missing.items())
        parts.append(f"Not installed here and so not measured: {lacking}.")
    return "\n\n".join(parts) + "\n"


def write(result: Result, out: Path) -> None:
    """Write bench.json, benchmarks.md (not its sections) and, where matplotlib is installed, bench.svg into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    raw = {
        "machine": dict(result.machine),
        "corpora": {
            "tree": result.corpora.tree_label,
            "tree_entries": result.corpora.tree_files,
            "tree_bytes": result.corpora.tree_bytes,
            "image_bytes": result.corpora.image_bytes,
        },
        "samples": [dataclasses.asdict(sample) for sample in result.samples],
    }
    (out / "bench.json").write_text(json.dumps(raw, indent=1) + "\n")
    from . import plot, sections

    # What other benches have put there stays until they are run again.
    page = out / sections.PAGE
    kept = sections.sections_of(page.read_text()) if page.exists() else {}
    page.write_text(sections.with_sections(markdown(result), kept))
    plot.draw(summarize(result.samples), TITLES, out / "bench.svg")

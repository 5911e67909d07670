"""The bench over the lines: for each line, rounds of every work, the contenders taking turns within each."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import bench, machine
from ..corpus import Corpora
from ..figures import Verdict
from ..measure import BenchError, Sample
from ..peers.base import Peer
from ..site import Site
from ..ssh import ssh_server
from . import iperf, report, subset
from .figures import LINES, Measured, OnTheLine
from .line import Line, Wan, buffers, reason_against, wan_line
from .peers import WAN_CONTENDERS

IPERF = "iperf3"


@dataclasses.dataclass(frozen=True, slots=True)
class Options(bench.Options):
    """What the command line chose."""

    lines: tuple[str, ...] = tuple(LINES)


def site_of(wan: Wan) -> Site:
    """Return the site whose ends are those of a line."""
    return Site(wan.near.prefix, wan.far.prefix, wan.near.address, wan.far.address)


def on_the_line(sample: Sample, counted: dict[str, Any]) -> OnTheLine:
    """Return what a sample put on the line, from what was counted meanwhile."""
    up, down = counted["up"], counted["down"]
    return OnTheLine(
        sample.peer,
        sample.work,
        sample.round,
        up["delivered_bytes"],
        down["delivered_bytes"],
        max(up["peak_second"], down["peak_second"]) * 8.0,
        up["lost"] + down["lost"],
        up["overflowed"] + down["overflowed"],
    )


def choose(options: Options) -> tuple[list[type[Peer]], bool, dict[str, list[str]]]:
    """Return the contenders that run, whether iperf3 does, and those that cannot with what they miss."""
    with_iperf = not options.only or any(IPERF.startswith(text) for text in options.only)
    peers: list[type[Peer]] = []
    missing: dict[str, list[str]] = {}
    if not options.only or any(not IPERF.startswith(text) for text in options.only):
        others = dataclasses.replace(options, only=tuple(text for text in options.only if not IPERF.startswith(text)))
        peers, missing = bench.choose(others, WAN_CONTENDERS, ())
    if with_iperf and not iperf.installed():
        missing[IPERF] = [IPERF]
        with_iperf = False
    return peers, with_iperf, missing


def one_line(
    name: str,
    line: Line,
    peers: Sequence[type[Peer]],
    corpora: Corpora,
    options: Options,
    folder: Path,
    quiet: bench.QuietTime,
    *,
    runs: int,
    with_iperf: bool,
) -> Measured:
    """Have the line stand, and do all the rounds over it. What fails is counted and left out."""
    samples: list[Sample] = []
    traffic: list[OnTheLine] = []
    failures: list[str] = []
    speeds: dict[int, list[float]] = {}
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        wan = stack.enter_context(wan_line(line))
        site = site_of(wan)
        ssh = None
        if any(peer.needs_ssh for peer in peers):
            ssh = stack.enter_context(ssh_server(folder / "ssh", options.cipher, site))
        for number in range(runs):
            bench.say(f"{name}, round {number + 1} of {runs}")
            if with_iperf:
                for streams in iperf.STREAMS:
                    speeds.setdefault(streams, []).append(iperf.goodput(site, streams, folder))
                    bench.say(f"  iperf3, {streams} streams: {speeds[streams][-1] / 1e6:.1f} Mbit/s")
            if not peers:
                continue
            rows = bench.one_round(
                number, peers, corpora, options, folder / "round", ssh, quiet, failures, site, wan.lap
            )
            for sample in rows:
                samples.append(sample)
                traffic.append(on_the_line(sample, wan.lap()))
        overruns, sizes = wan.overruns(), buffers(wan.far)
    return Measured(samples, traffic, speeds, len(failures), overruns, sizes)


def run(options: Options) -> list[Verdict]:
    """Run the bench, write the report, return the verdicts. Raises `BenchError` at the end if some work failed."""
    reason = reason_against()
    if reason is not None:
        raise BenchError(f"no line can be emulated here: {reason}")
    peers, with_iperf, missing = choose(options)
    bench.say("corpus…")
    corpora = subset.prepare(options.cache, options.tree, quick=options.quick)
    runs = bench.QUICK_RUNS if options.quick else options.runs
    notes = {peer.name: peer.note for peer in peers}
    packed = subset.lz4_bytes(corpora.tree)
    measured: dict[str, Measured] = {}
    with bench.work_folder(options) as folder:
        facts = machine.describe(folder)
        result = report.WanResult(facts, corpora, packed, measured, missing, notes, runs, not options.quick)
        quiet = bench.QuietTime()
        for name in options.lines:
            measured[name] = one_line(
                name, LINES[name], peers, corpora, options, folder / name, quiet, runs=runs, with_iperf=with_iperf
            )
            report.write(result, options.out)  # after each line: it is long until the last one
    if result.failed:
        raise BenchError(f"{result.failed} measurements failed")
    return result.verdicts() if result.comparable else []

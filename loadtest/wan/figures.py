"""The figures that must be reached over the lines: pure functions over what was measured."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from ..figures import OURS, Memory, Summaries, Verdict, speed_ratio, summarize
from ..measure import Sample
from ..peers.base import TREE_AGAIN, TREE_FIRST, TREE_RESTORE
from .line import Line

PROXIED = "transporter (proxy host)"
"""The contender whose *target* is the proxy host."""

LINES: dict[str, Line] = {
    "cubic-100": Line(rate_bit=100e6, rtt=0.1, loss=0.001, congestion="cubic"),
    "bbr-100": Line(rate_bit=100e6, rtt=0.1, loss=0.001, congestion="bbr"),
    "cubic-1000": Line(rate_bit=1e9, rtt=0.05, loss=0.0001, congestion="cubic"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class OnTheLine:
    """What one piece of work put on the line, TCP and IP included: bytes up and down, and its best second."""

    peer: str
    work: str
    round: int
    up: int
    down: int
    peak_bit: float  # bit/s, of the busier direction
    lost: int  # packets, both directions
    overflowed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured over one line."""

    samples: Sequence[Sample]
    traffic: Sequence[OnTheLine] = ()
    iperf: Mapping[int, Sequence[float]] = dataclasses.field(default_factory=dict)  # streams → bit/s of each round
    failed: int = 0
    overruns: int = 0  # packets that the pump was too late for
    buffers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def summaries(self) -> Summaries:
        """The medians."""
        return summarize(self.samples)

    def iperf_median(self, streams: int) -> float | None:
        """Return the median goodput of iperf3 in bit/s."""
        values = self.iperf.get(streams)
        return statistics.median(values) if values else None

    def goodput(self, work: str) -> float | None:
        """Return the median of ours over whole jobs: bytes sent over the job's own seconds, in bit/s."""
        rates = [
            row.sent * 8 / row.job_seconds
            for row in self.samples
            if row.peer == OURS and row.work == work and row.sent is not None and row.job_seconds
        ]
        return statistics.median(rates) if rates else None


@dataclasses.dataclass(frozen=True, slots=True)
class AgainstBest:
    """Ours must do `work` at least `factor` times as fast as the fastest of the `rivals` (empty: of all)."""

    work: str
    factor: float
    rivals: tuple[str, ...] = ()

    def judge(self, measured: Measured) -> Verdict:
        """Compare the median times."""
        among = " and ".join(self.rivals) or "the peers"
        title, must = f"{self.work}: speed against the best of {among}", f"≥ {self.factor:g} ×"
        found = against_best(measured.summaries, self.work, self.rivals)
        if found is None:
            return Verdict(title, must, "not measured", None)
        ratio, rival = found
        return Verdict(title, must, f"{ratio:.2f} × ({rival})", ratio >= self.factor)


def against_best(summaries: Summaries, work: str, rivals: tuple[str, ...] = ()) -> tuple[float, str] | None:
    """Return how many times as fast as its fastest rival ours is, and who that is; None where one is missing."""
    ratios = [
        (ratio, peer)
        for peer, other in summaries
        if other == work and not peer.startswith("transporter") and (not rivals or peer in rivals)
        if (ratio := speed_ratio(summaries, work, peer)) is not None
    ]
    return min(ratios, default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class GoodputShare:
    """Ours must bring at least `share` of the goodput of iperf3 with `streams` streams through the line."""

    work: str
    share: float
    streams: int

    def judge(self, measured: Measured) -> Verdict:
        """Compare the medians."""
        title = f"{self.work}: goodput against iperf3 with {self.streams} streams"
        must, theirs, ours = f"≥ {self.share:.0%}", measured.iperf_median(self.streams), measured.goodput(self.work)
        if theirs is None or ours is None:
            return Verdict(title, must, "not measured", None)
        numbers = f"{ours / theirs:.0%} ({ours / 1e6:.1f} of {theirs / 1e6:.1f} Mbit/s)"
        return Verdict(title, must, numbers, ours >= self.share * theirs)


@dataclasses.dataclass(frozen=True, slots=True)
class AtMost:
    """Ours must do `work` within `seconds`."""

    work: str
    seconds: float

    def judge(self, measured: Measured) -> Verdict:
        """Look at the median time."""
        title, must = f"{self.work}: time", f"≤ {self.seconds:g} s"
        row = measured.summaries.get((OURS, self.work))
        if row is None:
            return Verdict(title, must, "not measured", None)
        return Verdict(title, must, f"{row.seconds:.2f} s", row.seconds <= self.seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryPeak:
    """The peak memory of an end, as in the bench on loopback."""

    figure: Memory

    def judge(self, measured: Measured) -> Verdict:
        """Look at the largest peak of all works."""
        return self.figure.judge(measured.summaries)


Figure = AgainstBest | GoodputShare | AtMost | MemoryPeak

_MEMORY = (
    MemoryPeak(Memory("source", lambda row: row.source_peak)),
    MemoryPeak(Memory("target", lambda row: row.target_peak)),
    MemoryPeak(Memory("proxy host", lambda row: row.target_peak, PROXIED)),
)
FIGURES: dict[str, tuple[Figure, ...]] = {
    "cubic-100": (
        AgainstBest(TREE_FIRST, 7),
        GoodputShare(TREE_FIRST, 0.85, 8),
        AgainstBest(TREE_RESTORE, 4, ("restic", "borg")),
        AtMost(TREE_AGAIN, 1.5),
        *_MEMORY,
    ),
    "bbr-100": (AgainstBest(TREE_FIRST, 1.5), AtMost(TREE_AGAIN, 1.5), *_MEMORY),
    "cubic-1000": (AgainstBest(TREE_FIRST, 2.5), *_MEMORY),
}


def judge(name: str, measured: Measured) -> list[Verdict]:
    """Return the verdicts of one line, each with the line's name before its title."""
    verdicts = [figure.judge(measured) for figure in FIGURES.get(name, ())]
    return [dataclasses.replace(verdict, title=f"{name}, {verdict.title}") for verdict in verdicts]

"""The figures that must be reached, and the arithmetic that judges them: pure functions over samples."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence

from .measure import Sample
from .peers.base import IMAGE_FIRST, IMAGE_RESTORE, TREE_AGAIN, TREE_FIRST, TREE_RESTORE

OURS = "transporter (source)"
MIB = 1 << 20
PEAK_LIMIT = 160 * MIB  # bytes of resident memory, each end, any size of data


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The medians of one contender's samples of one work; times in seconds, sizes in bytes."""

    peer: str
    work: str
    runs: int
    seconds: float
    fastest: float
    slowest: float
    source_cpu: float
    target_cpu: float
    source_peak: int
    target_peak: int
    stored: int | None
    sent: int | None
    flush: float = 0.0  # how many of the seconds are the bench's own flush


Summaries = dict[tuple[str, str], Summary]


def _median_or_none(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known)) if known else None


def summarize(samples: Iterable[Sample]) -> Summaries:
    """Return the summary of every (peer, work). Peaks are the largest ones seen, everything else is a median."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.peer, sample.work), []).append(sample)
    return {key: _summary(rows) for key, rows in groups.items()}


def _summary(rows: Sequence[Sample]) -> Summary:
    seconds = [row.seconds for row in rows]
    return Summary(
        peer=rows[0].peer,
        work=rows[0].work,
        runs=len(rows),
        seconds=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        source_cpu=statistics.median(row.source.cpu for row in rows),
        target_cpu=statistics.median(row.target.cpu for row in rows),
        source_peak=max(row.source.peak for row in rows),
        target_peak=max(row.target.peak for row in rows),
        stored=_median_or_none([row.stored for row in rows]),
        sent=_median_or_none([row.sent for row in rows]),
        flush=statistics.median(row.flush for row in rows),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """One figure: what it must be, what it is, and whether that is enough (None: not measured here)."""

    title: str
    must: str
    measured: str
    reached: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Ours must do `work` at least `factor` times as fast as `rival` (ratio of the median times)."""

    work: str
    rival: str
    factor: float

    def judge(self, summaries: Summaries) -> Verdict:
        """Compare the median times."""
        title = f"{self.work}: speed against {self.rival}"
        ratio = speed_ratio(summaries, self.work, self.rival)
        if ratio is None:
            return Verdict(title, f"≥ {self.factor:g} ×", "not measured", None)
        return Verdict(title, f"≥ {self.factor:g} ×", f"{ratio:.2f} ×", ratio >= self.factor)


@dataclasses.dataclass(frozen=True, slots=True)
class TimeShare:
    """Ours must take at most `share` of the time of `rival`."""

    work: str
    rival: str
    share: float

    def judge(self, summaries: Summaries) -> Verdict:
        """Compare the median times."""
        title = f"{self.work}: share of the time of {self.rival}"
        ratio = speed_ratio(summaries, self.work, self.rival)
        if ratio is None:
            return Verdict(title, f"≤ {self.share:g}", "not measured", None)
        return Verdict(title, f"≤ {self.share:g}", f"{1 / ratio:.2f}", 1 / ratio <= self.share)


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """No run of ours, in any work, may have a larger peak at `end`."""

    end: str
    pick: Callable[[Summary], int]
    peer: str = OURS

    def judge(self, summaries: Summaries) -> Verdict:
        """Look at the largest peak of all works."""
        title, must = f"peak memory of the {self.end}", f"≤ {PEAK_LIMIT // MIB} MiB"
        peaks = [(self.pick(row), row.work) for row in summaries.values() if row.peer == self.peer]
        if not peaks:
            return Verdict(title, must, "not measured", None)
        peak, work = max(peaks)
        return Verdict(title, must, f"{peak / MIB:.0f} MiB ({work})", peak <= PEAK_LIMIT)


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """Ours must not store more for `work` than `rival` does."""

    work: str
    rival: str

    def judge(self, summaries: Summaries) -> Verdict:
        """Compare the median sizes."""
        title, must = f"{self.work}: bytes stored against {self.rival}", "≤ 1"
        ours, rival = summaries.get((OURS, self.work)), summaries.get((self.rival, self.work))
        if ours is None or rival is None or ours.stored is None or not rival.stored:
            return Verdict(title, must, "not measured", None)
        measured = f"{ours.stored / rival.stored:.3f} ({ours.stored / 1e6:.0f} against {rival.stored / 1e6:.0f} MB)"
        return Verdict(title, must, measured, ours.stored <= rival.stored)


Figure = Speed | TimeShare | Memory | Stored

FIGURES: tuple[Figure, ...] = (
    Speed(IMAGE_FIRST, "restic", 2.5),
    Speed(IMAGE_FIRST, "borg", 3),
    Speed(IMAGE_FIRST, "tar|lz4|ssh", 1.5),
    Speed(IMAGE_FIRST, "roofline", 0.7),
    Speed(TREE_FIRST, "restic", 4),
    Speed(TREE_FIRST, "borg", 6),
    Speed(TREE_FIRST, "rsync", 5),
    TimeShare(TREE_AGAIN, "restic", 0.4),
    TimeShare(TREE_AGAIN, "borg", 0.4),
    Speed(TREE_RESTORE, "restic", 2.5),
    Speed(TREE_RESTORE, "borg", 3),
    Speed(IMAGE_RESTORE, "restic", 2.5),
    Speed(IMAGE_RESTORE, "borg", 3),
    Memory("source", lambda row: row.source_peak),
    Memory("target", lambda row: row.target_peak),
    Stored(TREE_FIRST, "borg"),
)


def speed_ratio(summaries: Summaries, work: str, rival: str, ours: str = OURS) -> float | None:
    """Return how many times as fast as `rival` ours does `work`, from the median times; None if either is missing."""
    mine, theirs = summaries.get((ours, work)), summaries.get((rival, work))
    return None if mine is None or theirs is None else theirs.seconds / mine.seconds


def judge(summaries: Summaries, figures: Sequence[Figure] = FIGURES) -> list[Verdict]:
    """Return the verdict of every figure."""
    return [figure.judge(summaries) for figure in figures]

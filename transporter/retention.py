"""Retention: which restore points stay, and why. Pure: from the order and times of commits alone, by one clock.

Times are those of the provider's commits and never ``created_ns``, which whoever wrote the point chose. Periods are
those of UTC (weeks: ISO 8601, from Monday), so that both ends and every year decide alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from transporter.quantities import Duration, exact_duration

# A hundred years of hours: more is a slip of the pen.
MOST: Final = 1_000_000
_Count = Annotated[int, Meta(ge=0, le=MOST)]
# Commits are dated later than the job's last one; by 1 ns where the clock says less. Real ones are never so close.
MADE_UP_NS: Final = 1_000
# The calendar's last year; a time beyond it is no time.
_LAST_NS: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 10**9


class KeepPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to keep: the newest ``last`` points, the newest one of each of so many hours, days …, all ``within`` a span.

    Counts are of periods that have a point; ``within`` (seconds) reaches back from the job's newest point.
    """

    last: _Count = 0
    hourly: _Count = 0
    daily: _Count = 0
    weekly: _Count = 0
    monthly: _Count = 0
    yearly: _Count = 0
    within: Duration = Duration(0)

    @property
    def empty(self) -> bool:
        """Whether it says nothing: then nothing may be removed by it."""
        return not any((self.last, self.within, *(getattr(self, name) for name in PERIODS)))

    def __str__(self) -> str:
        words = [f"{name} {getattr(self, name)}" for name in ("last", *PERIODS) if getattr(self, name)]
        if self.within:
            words.append(f"within {exact_duration(self.within)}")
        return ", ".join(words) or "nothing"


NO_POLICY: Final = KeepPolicy()
"""Removes nothing."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """What the provider keeps whatever anybody's policy says. ``age``: seconds since the point is in the repository."""

    age: float = 0.0
    policy: KeepPolicy = NO_POLICY


NO_MINIMUM: Final = Minimum()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that may go. ``committed_ns`` by the provider's clock; ``pinned``: the reason, None without a pin.

    ``copied_ns``: of a copy, when it came here, by the same clock; else 0. ``committed_ns`` is then the original's.
    """

    point_id: bytes
    committed_ns: int
    pinned: str | None = None
    locked_until_ns: int = 0
    copied_ns: int = 0

    @property
    def since_ns(self) -> int:
        """Since when it is here: from then on runs for how long it must stay, lest an old point could go at once."""
        return max(self.committed_ns, self.copied_ns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a point stays, one reason a rule, or (``keep`` is False) why no rule keeps it.

    ``minimum``: it stays only because the provider wants it to.
    """

    point_id: bytes
    committed_ns: int
    keep: bool
    reasons: tuple[str, ...]
    minimum: bool = False


def decide(
    candidates: Iterable[Candidate],
    policy: KeepPolicy,
    now_ns: int,
    wanted: Mapping[bytes, Sequence[str]] = MappingProxyType({}),
) -> list[Verdict]:
    """Return the verdict on each point of one job, oldest first.

    ``now_ns``: the provider's clock, which never goes back. ``wanted``: what the provider keeps, and why (`demanded`):
    the stricter of the two keeps. An empty policy keeps everything. The newest point stays.

    A point from the future, or whose time was made up while the clock was behind, stays and counts for no rule: it must
    not push out one that is known.
    """
    ordered = sorted(candidates, key=lambda each: (each.committed_ns, each.point_id))
    faults = _faults(ordered, now_ns)
    known = [each for each, fault in zip(ordered, faults, strict=True) if not fault]
    stays, goes = _by_policy(known, policy, now_ns)
    verdicts = []
    for place, (each, fault) in enumerate(zip(ordered, faults, strict=True)):
        own = list(stays.get(each.point_id, ()))
        if policy.empty:
            own.append("no policy: everything stays")
        if place == len(ordered) - 1:
            own.append("newest of the job")
        if fault:
            own.append(fault)
        if each.pinned is not None:
            own.append(f"pinned: {each.pinned}")
        if each.locked_until_ns > now_ns:
            own.append(f"locked until {show_moment(each.locked_until_ns)}")
        theirs = wanted.get(each.point_id, ())
        reasons = (*own, *theirs) or tuple(goes.get(each.point_id, ()))
        verdicts.append(
            Verdict(each.point_id, each.committed_ns, bool(own or theirs), reasons, minimum=bool(theirs and not own))
        )
    return verdicts


def decide_for_provider(
    candidates: Iterable[Candidate], policy: KeepPolicy, now_ns: int, minimum: Minimum
) -> list[Verdict]:
    """Return the verdicts of a provider's own policy: as `decide`, and no copy takes the place of what came before it.

    The times of copies are a tenant's words, as in `demanded`: what the policy keeps by those or by arrival, stays.
    """
    points = list(candidates)
    verdicts = decide(points, policy, now_ns, demanded(points, minimum, now_ns))
    if not any(each.copied_ns for each in points):
        return verdicts
    came = {each.point_id: each for each in decide(_as_they_came(points), policy, now_ns) if each.keep}
    return [
        each
        if each.keep or each.point_id not in came
        else replace(each, keep=True, reasons=_by_arrival(came[each.point_id].reasons))
        for each in verdicts
    ]


def demanded(candidates: Iterable[Candidate], minimum: Minimum, now_ns: int) -> dict[bytes, tuple[str, ...]]:
    """Return the provider's reasons for each point that it keeps whatever anybody asks.

    The time of a copy's original is what a tenant says. So the policy is asked twice: by those times, and by when each
    point came here, which nobody can date back; what either keeps stays. Else a tenant could invent copies that stand
    for the days of good points, and remove these. A point whose time is not known stays, too.
    """
    ordered = sorted(candidates, key=lambda each: (each.committed_ns, each.point_id))
    found: dict[bytes, tuple[str, ...]] = {}
    if not minimum.policy.empty:
        found = _by_provider(ordered, minimum.policy, now_ns)
        if any(each.copied_ns for each in ordered):
            for point, reasons in _by_provider(_as_they_came(ordered), minimum.policy, now_ns).items():
                found.setdefault(point, _by_arrival(reasons))
    if minimum.age:
        for each in ordered:
            if each.since_ns + int(minimum.age * 1e9) > now_ns:
                why = f"the provider keeps every point for {exact_duration(minimum.age)}"
                found[each.point_id] = (why, *found.get(each.point_id, ()))
    return found


def show_moment(ns: int) -> str:
    """Return a time as reasons show it: UTC, to the second."""
    if ns >= _LAST_NS:
        return "the end of time"
    return datetime.fromtimestamp(max(0, ns) // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _faults(ordered: Sequence[Candidate], now_ns: int) -> list[str]:
    """Return for each point what is wrong with its time, "" where nothing is."""
    found, before = [], -(2**63)
    for each in ordered:
        if each.committed_ns > now_ns:
            found.append("its time is still to come: the clock was ahead")
        # Not 0: a copy of a point and one of the point that a transform put in its place have one time.
        elif 0 < each.committed_ns - before < MADE_UP_NS:
            found.append("its time is not known: the clock was behind")
        else:
            found.append("")
        before = each.committed_ns
    return found


def _by_policy(
    known: Sequence[Candidate], policy: KeepPolicy, now_ns: int
) -> tuple[dict[bytes, list[str]], dict[bytes, list[str]]]:
    """Return the reasons of ``policy`` to keep points, and those why its rules let the others go."""
    stays: dict[bytes, list[str]] = {}
    goes: dict[bytes, list[str]] = {}

    def note(table: dict[bytes, list[str]], each: Candidate, reason: str) -> None:
        table.setdefault(each.point_id, []).append(reason)

    newest_first = list(reversed(known))
    for place, each in enumerate(newest_first if policy.last else (), 1):
        if place <= policy.last:
            note(stays, each, f"last {place} of {policy.last}")
        else:
            note(goes, each, f"last: {policy.last} newer ones")
    if policy.within and known:
        since = min(known[-1].committed_ns, now_ns) - int(policy.within * 1e9)
        for each in newest_first:
            inside = each.committed_ns >= since
            span = exact_duration(policy.within)
            note(stays if inside else goes, each, f"within {span}" if inside else f"within: older than {span}")
    for name, period_of in PERIODS.items():
        most = getattr(policy, name)
        if not most:
            continue
        count, period, holder = 0, "", ""
        for each in newest_first:
            mine = period_of(_moment(each.committed_ns))
            if mine == period:
                reason = f"{name}: {holder} stands for {period}" if count <= most else f"{name}: {most} newer ones"
                note(goes, each, reason)
                continue
            count, period, holder = count + 1, mine, each.point_id.hex()[:8]
            if count <= most:
                note(stays, each, f"{name} {count} of {most} ({period})")
            else:
                note(goes, each, f"{name}: {most} newer ones")
    return stays, goes


def _as_they_came(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return points in the order in which they came here, each dated by that."""
    came = [replace(each, committed_ns=each.since_ns, copied_ns=0) for each in candidates]
    return sorted(came, key=lambda each: (each.committed_ns, each.point_id))


def _by_arrival(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{why}, by when it came" for why in reasons)


def _by_provider(ordered: Sequence[Candidate], policy: KeepPolicy, now_ns: int) -> dict[bytes, tuple[str, ...]]:
    """Return the reasons by which a provider's policy keeps points."""
    faults = _faults(ordered, now_ns)
    known = [each for each, fault in zip(ordered, faults, strict=True) if not fault]
    stays, _ = _by_policy(known, policy, now_ns)
    found = {point: tuple(f"the provider keeps {why}" for why in reasons) for point, reasons in stays.items()}
    for each, fault in zip(ordered, faults, strict=True):
        if fault:
            found[each.point_id] = (f"the provider keeps it: {fault}",)
    return found


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(min(max(0, ns), _LAST_NS) // 10**9, UTC)


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


# Periods by the name of their rule, shortest first; each as it is shown.
PERIODS: Final[dict[str, Callable[[datetime], str]]] = {
    "hourly": lambda moment: moment.strftime("%Y-%m-%d %H:00Z"),
    "daily": lambda moment: moment.strftime("%Y-%m-%d"),
    "weekly": _week,
    "monthly": lambda moment: moment.strftime("%Y-%m"),
    "yearly": lambda moment: moment.strftime("%Y"),
}

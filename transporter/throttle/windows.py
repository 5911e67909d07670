"""When a limit holds: windows of the week, as people write them, against what clocks on the wall show. Pure.

    always
    08:00-18:00              every day
    Mon-Fri 08:00-18:00      days alone, ranges of days, or both: Mon,Wed-Fri
    Fri 22:00-06:00          until 6 on Saturday: what crosses midnight belongs to the day it began on
    Sat,Sun 00:00-24:00

Only the time on the wall counts. Where summer time ends, the hour that comes twice is inside twice; where it begins,
the hour that is left out is not missed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from transporter.quantities import Rate

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ALWAYS = "always"
REMEDY = 'write "always", "08:00-18:00", "Mon-Fri 08:00-18:00" or "Sat,Sun 00:00-24:00"'
_MINUTES = 24 * 60
_WINDOW = re.compile(r"(?:([A-Za-z][A-Za-z,\-]*) +)?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})\Z")


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes ``start`` … ``end`` (excluded) from midnight, on ``days`` (0 is Monday); past 1440 is the next day."""

    days: frozenset[int]
    start: int
    end: int

    def holds(self, local: datetime) -> bool:
        """Tell whether a moment is inside."""
        minute = local.hour * 60 + local.minute
        today, before = local.weekday(), (local.weekday() - 1) % len(DAYS)
        return (today in self.days and self.start <= minute < self.end) or (
            before in self.days and self.start <= minute + _MINUTES < self.end
        )


EVER = Window(frozenset(range(len(DAYS))), 0, _MINUTES)


def parse_window(text: str) -> Window:
    """Parse a window. Raises ``ValueError`` with a sentence for people."""
    if text == ALWAYS:
        return EVER
    match = _WINDOW.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a window of time")
    start, end = (_minute(text, int(match[at]), int(match[at + 1])) for at in (2, 4))
    if start in {_MINUTES, end}:
        raise ValueError(f"{text!r}: the window is empty" if start == end else f"{text!r}: no day begins at 24:00")
    return Window(_days(text, match[1]) if match[1] else EVER.days, start, end if end > start else end + _MINUTES)


def _minute(text: str, hour: int, minute: int) -> int:
    if hour > 24 or minute > 59 or (hour == 24 and minute):
        raise ValueError(f"{text!r}: there is no {hour:02}:{minute:02}")
    return hour * 60 + minute


def _days(text: str, names: str) -> frozenset[int]:
    days: set[int] = set()
    for part in names.split(","):
        first, dash, last = part.partition("-")
        for name in (first, last) if dash else (first,):
            if name not in DAYS:
                raise ValueError(f"{text!r}: {name!r} is not a day; days are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % len(DAYS) if dash else 0
        days |= {(begin + step) % len(DAYS) for step in range(length + 1)}
    return frozenset(days)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a schedule; ``text`` is its window as it was written."""

    text: str
    window: Window
    rate: Rate


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rules of one limit, in the order of the file: the first whose window holds is the one that counts."""

    rules: tuple[Rule, ...] = ()

    def at(self, local: datetime) -> Rule | None:
        """Return the rule that counts at a moment, or None: no limit."""
        return next((rule for rule in self.rules if rule.window.holds(local)), None)

    def rate(self, local: datetime) -> Rate:
        """Return the limit at a moment; 0 where there is none."""
        rule = self.at(local)
        return rule.rate if rule is not None else Rate(0)

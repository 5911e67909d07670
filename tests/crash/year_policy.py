"""What a retention policy must keep, written down a second time: plainly, and without a look at the product's code.

Times are seconds since 1970, UTC. Rule "daily 7" keeps the newest point of each of the seven newest days that have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime


def kept(times: Sequence[float], rules: Mapping[str, int]) -> set[int]:
    """Return the places in ``times`` (oldest first) of the points that a policy keeps."""
    stay: set[int] = set()
    for rule, count in rules.items():
        if rule == "last":
            stay |= set(range(len(times))[-count:] if count else [])
            continue
        newest: dict[str, int] = {}
        for place, moment in enumerate(times):
            newest[period(rule, moment)] = place
        stay |= {newest[name] for name in sorted(newest)[-count:]} if count else set()
    return stay


def period(rule: str, moment: float) -> str:
    """Return the name of the hour, day, ISO week, month or year of a moment; names sort as time does."""
    at = datetime.fromtimestamp(moment, UTC)
    if rule == "weekly":
        year, week, _day = at.isocalendar()
        return f"{year:04d}-{week:02d}"
    return at.strftime({"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "monthly": "%Y-%m", "yearly": "%Y"}[rule])

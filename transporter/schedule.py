"""When something is due: ``hourly``, ``daily``, ``weekly``, ``monthly``, or five fields as of cron. Pure.

    0 3 * * 6        Saturdays at three
    */30 8-18 * * 1-5

What clocks on the wall show counts. The named ones are cron's: at the beginning of the hour, at midnight, on Sunday at
midnight, on the first at midnight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

NAMED = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 0", "monthly": "0 0 1 * *"}
REMEDY = 'write "hourly", "daily", "weekly", "monthly" or five fields as of cron: "0 3 * * 6"'
# Longer than any expression that means something; the library's own bound of time is 50 years.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Schedule:
    """``text`` as people wrote it; made by `parse_schedule`."""

    text: str
    expression: str

    def next(self, after: datetime) -> datetime:
        """Return the first moment behind ``after`` at which it is due, with the same zone."""
        from cronsim import CronSim

        # Without a zone: whoever asks does so again and again, so a change of summer time is seen when it has come.
        due: datetime = next(CronSim(self.expression, after.replace(tzinfo=None)))
        return due.replace(tzinfo=after.tzinfo)


def parse_schedule(text: str) -> Schedule:
    """Parse a schedule. Raises ``ValueError`` with a sentence for people."""
    if text in NAMED:
        return Schedule(text, NAMED[text])
    # Imported here: every command reads the configuration, and few have an expression in it.
    from cronsim import CronSim, CronSimError

    if len(text.split()) != 5 or len(text) > LONGEST:
        raise ValueError(f"{text!r} is not a schedule")
    try:
        next(CronSim(text, datetime(2000, 1, 1)))
    except CronSimError as error:
        raise ValueError(f"{text!r} is not a schedule: {error}") from None
    except StopIteration:
        raise ValueError(f"{text!r}: that day never comes") from None
    return Schedule(text, text)

"""What a person types to bound a search: sizes, times, types."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from transporter.errors import UsageError
from transporter.quantities import parse_duration, parse_size

KINDS = "fdlpcb"
_SIZE = re.compile(r"\s*(>=|<=|>|<|=)?\s*(\S.*)\Z")
# As `find` has them; whoever means the others writes kB or MB.
_SHORT = re.compile(r"([0-9.]+)([kKMGTP])\Z")


def parse_sizes(texts: list[str]) -> tuple[int | None, int | None]:
    """Parse ``>10M``, ``<=1k``, ``=0``, all of which must hold; return the least and the most, None for no bound.

    k, M, G, T are of 1,024. Raises UsageError.
    """
    least: int | None = None
    most: int | None = None
    for text in texts:
        match = _SIZE.match(text)
        try:
            sign, size = (match[1] or "=", _size(match[2])) if match else ("", 0)
        except ValueError:
            sign = ""
        if not sign:
            raise UsageError(f"--size {text}: not a bound of sizes", "write for example '>10M', '<1k' or '=0'")
        if sign in (">", ">=", "="):
            least = max(least or 0, size + (sign == ">"))
        if sign in ("<", "<=", "="):
            bound = size - (sign == "<")
            most = bound if most is None else min(most, bound)
    return least, most


def _size(text: str) -> int:
    return parse_size(_SHORT.sub(r"\1\2iB", text.strip()))


def parse_time(option: str, text: str, now: datetime, *, end: bool = False) -> int | None:
    """Parse ``2026-03-04``, ``2026-03-04T12:30``, or ``14d`` (so long ago): ns since 1970, None for an empty text.

    What names no zone is of this machine's. ``end``: a date alone means the end of that day. Raises UsageError.
    """
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            when = now - timedelta(seconds=parse_duration(text))
        except (ValueError, OverflowError):
            raise UsageError(
                f"{option} {text}: not a time", "write for example 2026-03-04, 2026-03-04T12:30 or 14d"
            ) from None
    else:
        if end and re.fullmatch(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", text):
            when += timedelta(days=1) - timedelta(microseconds=1)
    try:
        seconds = (when - _EPOCH.astimezone(when.tzinfo)) if when.tzinfo else (when.astimezone() - _EPOCH)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{option} {text}: not a time that this machine knows", "name a later one") from None
    whole = seconds // timedelta(microseconds=1)
    return whole * 1000 + (999 if end else 0)


def parse_kinds(texts: list[str]) -> str:
    """Parse letters of types: f, d, l, p, c, b, together or one by one. Raises UsageError."""
    kinds = "".join(texts).replace(",", "")
    if set(kinds) - set(KINDS):
        raise UsageError(f"--type {kinds}: not a type", "f file, d folder, l link, p pipe, c and b devices")
    return kinds


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

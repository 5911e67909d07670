"""Sizes and durations as people write and read them: ``2TiB``, ``14d``."""

from __future__ import annotations

import re

_DECIMAL = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_SIZE_UNITS = _DECIMAL | _BINARY
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBER = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([a-zA-Z]*)\s*\Z")


class Size(int):
    """A number of bytes, at least 0."""


class Duration(float):
    """A number of seconds, at least 0."""


def parse_size(text: str) -> Size:
    """Parse ``500GB``, ``2TiB`` or plain bytes. Raises ``ValueError`` with a sentence for people."""
    match = _NUMBER.match(text)
    if not match or match[3].lower() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is not a size; write for example 500GB or 2TiB")
    # In whole numbers: a float would lose bytes above 9 PB.
    part = match[2] or ""
    return Size(int(match[1] + part) * _SIZE_UNITS[match[3].lower()] // 10 ** len(part))


def parse_duration(text: str) -> Duration:
    """Parse ``30s``, ``15m``, ``24h``, ``14d`` or ``2w``. Raises ``ValueError`` with a sentence for people."""
    match = _NUMBER.match(text)
    if not match or match[3].lower() not in _TIME_UNITS:
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 15m, 24h or 14d")
    return Duration(float(f"{match[1]}.{match[2] or 0}") * _TIME_UNITS[match[3].lower()])


def exact_size(size: int) -> str:
    """Return a size that ``parse_size`` reads back unchanged, in the largest unit that divides it."""
    for unit, name in ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def exact_duration(seconds: float) -> str:
    """Return a duration that ``parse_duration`` reads back, in the largest unit that divides it."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % unit == 0:
            return f"{int(seconds // unit)}{name}"
    return f"{seconds:.12g}s"


def show_size(size: float) -> str:
    """Return a size to three digits, decimal units: ``1.36 GB``."""
    value = float(size)
    for name in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            return f"{value:.0f} B" if name == "B" else f"{value:#.3g} {name}".replace(". ", " ")
        value /= 1000
    return f"{value:#.3g} PB".replace(". ", " ")


def show_rate(size: float, seconds: float) -> str:
    """Return bytes over seconds as a rate."""
    return f"{show_size(size / seconds)}/s" if seconds > 0 else "–"


def show_duration(seconds: float) -> str:
    """Return seconds as ``0.4 s``, ``12 s``, ``3:07`` or ``2:03:07``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"

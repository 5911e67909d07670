"""Sizes, durations and rates as people write and read them: ``2TiB``, ``14d``, ``20Mbit``."""

from __future__ import annotations

import re

_DECIMAL = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
_SIZE_UNITS = _DECIMAL | _BINARY
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BIT_RATES = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_BYTE_RATES = {"kB/s": 10**3, "MB/s": 10**6, "GB/s": 10**9, "KiB/s": 2**10, "MiB/s": 2**20, "GiB/s": 2**30}
UNLIMITED = "unlimited"
# Less, and heartbeats and acknowledgements leave too little for anything else; the smallest slices are some 160 bytes.
LEAST_RATE = 8_000
# A petabit a second: more is a slip of the pen.
MOST_RATE = 125 * 10**12
# More does not fit where sizes are stored (64 bits, with a sign in SQL).
MOST_SIZE = 2**63 - 1
# A hundred years, in seconds. Added to the time of a point, a longer span lies past what 64 bits of nanoseconds hold
# (with a sign, the year 2262): a lock of such a length could not be told to a peer, nor ever be taken back.
MOST_DURATION = 36_525 * 86400
_RATE = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([a-zA-Z]+(?:/s)?)\s*\Z")
_NUMBER = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([a-zA-Z]*)\s*\Z")


class Size(int):
    """A number of bytes, at least 0."""


class Duration(float):
    """A number of seconds, at least 0."""


class Rate(int):
    """A number of bytes a second; 0 means that there is no limit."""


def parse_size(text: str) -> Size:
    """Parse ``500GB``, ``2TiB`` or plain bytes, at most MOST_SIZE. Raises ``ValueError`` with a sentence for people."""
    match = _NUMBER.match(text)
    if not match or match[3].lower() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is not a size; write for example 500GB or 2TiB")
    # In whole numbers: a float would lose bytes above 9 PB.
    part = match[2] or ""
    size = int(match[1] + part) * _SIZE_UNITS[match[3].lower()] // 10 ** len(part)
    if size > MOST_SIZE:
        raise ValueError(f"{text!r} is more than {MOST_SIZE // 2**50}PiB, the largest size there is")
    return Size(size)


def parse_duration(text: str) -> Duration:
    """Parse ``30s``, ``15m``, ``24h``, ``14d`` or ``2w``, at most MOST_DURATION.

    Raises ``ValueError`` with a sentence for people.
    """
    match = _NUMBER.match(text)
    if not match or match[3].lower() not in _TIME_UNITS:
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 15m, 24h or 14d")
    seconds = float(f"{match[1]}.{match[2] or 0}") * _TIME_UNITS[match[3].lower()]
    if seconds > MOST_DURATION:
        raise ValueError(f"{text!r} is longer than a hundred years ({MOST_DURATION // 86400}d), the longest there is")
    return Duration(seconds)


def parse_rate(text: str) -> Rate:
    """Parse ``20Mbit`` (bits a second), ``2.5MB/s`` (bytes a second) or ``unlimited``.

    Bits and bytes are told apart by their units alone, so these are taken as they are written: ``Mb`` could be either.
    Raises ``ValueError`` with a sentence for people.
    """
    if text.strip() == UNLIMITED:
        return Rate(0)
    match = _RATE.match(text)
    unit = match[3] if match else ""
    bits = _BIT_RATES.get(unit.removesuffix("/s"))
    if not match or (bits is None and unit not in _BYTE_RATES):
        raise ValueError(f"{text!r} is not a rate; write for example 20Mbit, 2.5MB/s or unlimited")
    part = match[2] or ""
    per_second = bits if bits is not None else 8 * _BYTE_RATES[unit]
    rate = int(match[1] + part) * per_second // (8 * 10 ** len(part))
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ValueError(f"{text!r} is outside 64kbit…1000000Gbit; for no limit write unlimited")
    return Rate(rate)


def parse_share(text: str) -> float:
    """Parse ``10%`` or ``0.1`` as a share, 0 < share <= 1. Raises ``ValueError`` with a sentence for people."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is not a share; write for example 10%")
    return share


def show_limit(rate: int) -> str:
    """Return a rate in bits a second, the unit of lines, with up to three digits after the point: ``20 Mbit/s``."""
    if not rate:
        return UNLIMITED
    for unit, name in ((10**9, "Gbit/s"), (10**6, "Mbit/s"), (10**3, "kbit/s")):
        if rate * 8 >= unit:
            return f"{rate * 8 / unit:.3f}".rstrip("0").rstrip(".") + f" {name}"
    return f"{rate * 8} bit/s"


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

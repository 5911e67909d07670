"""Have the kernel ask for more of a file at once: each request costs the same, long or short.

Linux asks a file system of FUSE for 128 KiB at a time, and takes no other word for it than root's. So this is a help
where the mount is root's, and nothing where it is not.
"""

from __future__ import annotations

import re
from pathlib import Path

READ_AHEAD_KIB = 1024
"""As much as one request may carry. More made reading slower: two such requests wait for each other's chunks."""

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def raise_read_ahead(mountpoint: bytes, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Raise it for what is mounted there; tell whether that was possible. Asks the file system itself nothing."""
    device = _device_of(mountpoint, mounts)
    if device is None:
        return False
    try:
        Path("/sys/class/bdi", device, "read_ahead_kb").write_text(str(READ_AHEAD_KIB))
    except OSError:
        return False
    return True


def _device_of(mountpoint: bytes, mounts: Path) -> str | None:
    """Return the device numbers of the newest mount there."""
    found = None
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(b" ")
        place = _ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), fields[4])
        if place == mountpoint:
            found = fields[2].decode()
    return found

"""Lists of paths for ``--files-from``."""

from __future__ import annotations

import sys

from transporter.errors import UsageError

LIST_AT_MOST = 12 << 20
"""Bytes of a list: some 100,000 paths. It travels to the daemon in one request (``daemon/framing.py``)."""


def read_paths(name: str) -> list[bytes]:
    """Read paths from a file, ``-``: stdin. A list with a NUL in it is separated by NULs, any other by newlines.

    Raises ``UsageError`` when it cannot be read, is too long, or names nothing.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(LIST_AT_MOST + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(LIST_AT_MOST + 1)
    except OSError as error:
        raise UsageError(f"--files-from {name}: {error.strerror}", "name a file with paths, or -") from None
    if len(data) > LIST_AT_MOST:
        raise UsageError(f"--files-from {name}: longer than 12 MiB", "name folders, or restore in parts")
    paths = [path for path in data.split(b"\0" if b"\0" in data else b"\n") if path]
    if not paths:
        raise UsageError(f"--files-from {name}: no path in it", "put one path on each line")
    return paths

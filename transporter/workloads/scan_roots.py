"""Which roots are scanned, in which order."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transporter.errors import UsageError
from transporter.workloads.entry import path_key


def normalised_roots(roots: Sequence[bytes | str]) -> list[bytes]:
    """Return absolute roots in path order, without those that lie beneath another."""
    absolute = []
    for root in roots:
        path = os.path.abspath(os.fsencode(root))
        if not os.path.lexists(path):
            raise UsageError(f"{os.fsdecode(path)!r} does not exist.", "Name folders or files that exist.")
        absolute.append(b"/" + path.lstrip(b"/"))
    kept: list[bytes] = []
    for path in sorted(set(absolute), key=path_key):
        if not kept or not (path + b"/").startswith(kept[-1].rstrip(b"/") + b"/"):
            kept.append(path)
    if not kept:
        raise UsageError("Nothing to read was named.", "Name at least one folder or file.")
    return kept

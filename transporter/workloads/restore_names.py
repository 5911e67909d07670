"""Where stored paths go: which are accepted, what a root is called in the output."""

from __future__ import annotations

from collections.abc import Sequence

from transporter.errors import DamagedData

MAX_NAME = 255
"""Bytes of one component: the limit of every Linux file system."""


def check_name(name: bytes) -> None:
    """Raise ``DamagedData`` for anything that is not the name of something in its folder."""
    if not name or len(name) > MAX_NAME or b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise DamagedData(f"The manifest names {name[:80]!r}, which is no file name.")


def output_names(roots: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the name of each root in the output: its base name, or, where two would clash, its path with ``_``."""
    bases = [root.rpartition(b"/")[2] for root in roots]
    names: dict[bytes, bytes] = {}
    for root, base in zip(roots, bases, strict=True):
        name = base if bases.count(base) == 1 else root.replace(b"/", b"_")[-MAX_NAME:]
        name = name or b"root"
        while name in names.values():
            name = name[: MAX_NAME - 1] + b"~"
        check_name(name)
        names[root] = name
    return names

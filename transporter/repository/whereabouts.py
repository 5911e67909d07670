"""Where else restore points lie: in a repository of this node that nobody need open for that."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from transporter.repository import files
from transporter.repository.layout import Layout


def lying_there(root: Path, tenant: str, points: Collection[bytes]) -> set[bytes]:
    """Return those of some points that ``tenant`` has in the repository at ``root``, its recycle bin counted in.

    By their names alone. A repository that is away or cannot be read has none of them.
    """
    layout = Layout(root)
    wanted = {point.hex() for point in points}
    found: set[str] = set()
    for folder in (layout.job(tenant, "-").parent, layout.recycled_job(tenant, "-").parent):
        try:
            for job in files.names_in(folder):
                # In the bin a name goes on with the time at which it goes for good.
                found.update(wanted.intersection(name.partition(".")[0] for name in os.listdir(folder / job)))
        except OSError:
            continue
    return {bytes.fromhex(name) for name in found}

"""How many jobs of one tenant this node holds keys for.

Quotas count what lies in a repository. A job that was begun, and never stored anything, costs a row in the key
database all the same, and its name is its tenant's choice.
"""

from __future__ import annotations

from typing import Final

from transporter.errors import RefusedByPeer
from transporter.keys.database import KeyDatabase

MOST_JOBS: Final = 10_000
"""A home with a job for each of its users' folders has hundreds."""


def check_job_room(keys: KeyDatabase, prefix: str, label: str) -> None:
    """Raise RefusedByPeer if the job ``label`` is one too many of those that begin with ``prefix``."""
    # Counting takes a look at each: only who is new waits for that.
    if not keys.has_domain(label) and keys.domains_below(prefix) >= MOST_JOBS:
        raise RefusedByPeer(
            f"the peer keeps keys of {MOST_JOBS:,} jobs of this tenant already",
            "give jobs names that stay the same from run to run",
        )

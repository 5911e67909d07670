"""What a prune tells: while it goes on, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from transporter.repository import limits


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """``grace_seconds``: for how long a doomed chunk is kept, 0 …; ``dry_run``: change nothing.

    ``compact_below``: packs of which less than this share is needed are rewritten, 0 (none) … 1 (all with any waste).
    """

    grace_seconds: float = limits.GRACE_SECONDS
    compact_below: float = limits.COMPACT_BELOW
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PruneProgress:
    """``step`` is points, chunks, packs; ``done`` of ``total`` (0: not known)."""

    step: str
    done: int
    total: int


@dataclass
class PruneReport:
    """Counts of chunks are of stored ones: a chunk that is stored under two keys counts twice. Sizes in bytes.

    ``live_*``: what restore points need; ``missing_chunks``: what they need and the index does not know (`scrub` says
    more). ``doomed_*``: what none needs; of that ``waiting_*`` is kept for now, as its grace is not over, or
    ``sessions`` that began before go on. ``freed_bytes``: what packs that are gone took, less what was written of them
    anew; in a dry run an estimate, and nothing was done. ``damaged_packs``: left as they are, by their names.
    """

    dry_run: bool = False
    points: int = 0
    missing_chunks: int = 0
    live_chunks: int = 0
    live_bytes: int = 0
    doomed_chunks: int = 0
    doomed_bytes: int = 0
    waiting_chunks: int = 0
    waiting_bytes: int = 0
    revived_chunks: int = 0
    deleted_chunks: int = 0
    packs_removed: int = 0
    packs_rewritten: int = 0
    packs_written: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    sessions: int = 0
    damaged_packs: list[bytes] = field(default_factory=list)

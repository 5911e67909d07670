"""A prune in a process of its own, whether or not a daemon has the repository open.

It takes ``leases/prune`` and not ``leases/writer``: a daemon that runs goes on, and one may start meanwhile.
"""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.repository import files, limits
from transporter.repository.errors import RepositoryBusy
from transporter.repository.index import Index
from transporter.repository.keeping import Keeping
from transporter.repository.layout import Layout
from transporter.repository.lease import prune_lease
from transporter.repository.point_store import PointStore
from transporter.repository.prune import PruneHooks, Pruner
from transporter.repository.prune_report import PruneOptions, PruneReport
from transporter.repository.repository import Repository, read_format
from transporter.repository.slot_store import SlotStore


def prune_beside(
    path: Path, clock: Clock, options: PruneOptions, hooks: PruneHooks, clock_jump: float = limits.CLOCK_JUMP_NS / 1e9
) -> PruneReport:
    """Prune the repository at ``path``. Raises what `Repository.open` and `Repository.prune` do.

    ``clock_jump``: if the clock is more seconds from the repository's time, nothing is deleted.

    Where no daemon has it open it is put in order first, and its index sealed at the end, as by any other command.
    """
    _put_in_order(path, clock)
    try:
        return _prune(path, clock, options, hooks, clock_jump)
    finally:
        _put_in_order(path, clock)


def _put_in_order(path: Path, clock: Clock) -> None:
    with suppress(RepositoryBusy):
        Repository.open(path, clock).close()


def _prune(path: Path, clock: Clock, options: PruneOptions, hooks: PruneHooks, clock_jump: float) -> PruneReport:
    layout = Layout(path)
    content = read_format(layout)
    time = Keeping(layout, clock, content, PointStore(layout, clock, content.id, SlotStore(layout, clock))).clock
    time.jump_ns = int(clock_jump * 1e9)
    # Before the index is opened: while we hold it nobody puts another file in its place.
    with prune_lease(layout.prune_lease), closing(_open_index(layout)) as index:
        if not index.belongs_to(content.id):
            raise DamagedData(
                "the repository's index is of another version, or of another repository",
                "start the daemon anew with this version, or run `transporter repository rebuild-index`",
            )
        with files.disk_errors("take the index's seal away"):
            # After our connection stands: a daemon that is closing it looks for that before it leaves a seal.
            files.unlink(layout.index_seal)
            files.sync_folder(layout.index.parent)
        return Pruner(layout, index, content.id, clock, time, options, hooks).run()


def _open_index(layout: Layout) -> Index:
    if not layout.index.exists():
        raise DamagedData("the repository has no index", "run `transporter repository rebuild-index`")
    return Index(layout.index, writable=True)

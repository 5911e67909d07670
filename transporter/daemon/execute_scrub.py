"""Carry out a scrub, of the repository that the daemon has open or of one that is opened for it; needs no keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transporter.clock import Clock
from transporter.config import Config, load_config
from transporter.daemon.requests import JobOutcome, ScrubRequest
from transporter.errors import DamagedData
from transporter.events import EventBus
from transporter.home import Home
from transporter.jobs.context import JobContext
from transporter.jobs.copy_plan import End
from transporter.jobs.scrub import Scrub, ScrubOrder, ScrubOutcome
from transporter.jobs.scrub_copy import open_copy, place_of
from transporter.jobs.scrub_peer import open_copy_there
from transporter.repository import Repository, RepositoryBusy

OpenStore = Callable[[str], Repository | None]
"""Returns the repository that this process has open under a name."""


def needs_peer(config: Config, request: ScrubRequest) -> bool:
    """Tell whether the copy to heal from is at a peer: that takes a node with its identity, and not only a disk."""
    source = request.source if request.heal else ""
    return "/" in source and not source.startswith("/") and source not in config.repositories


async def execute_scrub(
    home: Home,
    request: ScrubRequest,
    bus: EventBus,
    clock: Clock,
    open_store: OpenStore,
    context: JobContext | None = None,
) -> JobOutcome:
    """Scrub. Raises DamagedData (after looking at everything) where something is, and stays, damaged.

    ``context``: where the copy is at a peer.
    """
    config = load_config(home.config_path)
    name = request.repository
    place = place_of(home, config, name)
    order = ScrubOrder(name, request.share, request.limit, request.heal, request.anew)
    with _opened(name, open_store, lambda: Repository.open(place, clock, writable=request.heal)) as store:
        if context is not None:
            async with open_copy_there(context, End.of(request.source), store) as there:
                outcome = await Scrub(order, store, clock, bus, there, far=True).run()
        else:
            with open_copy(home, config, request.source if request.heal else "", store, clock) as copy:
                outcome = await Scrub(order, store, clock, bus, copy).run()
    judge(request, outcome)
    return JobOutcome(exit_status=0, result=outcome.public())


@contextmanager
def _opened(name: str, open_store: OpenStore, open_it: Callable[[], Repository]) -> Iterator[Repository]:
    store = open_store(name)
    if store is not None:
        yield store
        return
    try:
        store = open_it()
    except RepositoryBusy:
        raise RepositoryBusy(
            f"the repository {name!r} is in use by another process", "wait until it has ended, then try again"
        ) from None
    with store:
        yield store


def judge(request: ScrubRequest, outcome: ScrubOutcome) -> None:
    """Raise DamagedData with what to do next, unless the repository is sound now."""
    report, name = outcome.report, request.repository
    if outcome.left:
        raise DamagedData(
            f"repository {name}: {report.damage_count} damaged objects{_healed(outcome) if request.heal else ''}",
            f"heal it: transporter scrub {name} --heal (with --from COPY, if there is a copy of the repository)"
            if report.damaged_packs and not request.heal
            else "run every job again that still has its data: it sends what is missing; then scrub once more",
        )
    if report.repairable:
        raise DamagedData(
            f"repository {name}: the index does not agree with the packs",
            f"make it anew: transporter repository rebuild-index {name}",
        )


def _healed(outcome: ScrubOutcome) -> str:
    healed = outcome.healed
    supplied = healed.supplied + outcome.supplied.chunks
    if not outcome.report.damaged_packs and not supplied:
        return "; no pack is damaged, so there is nothing to heal"
    return (
        f"; packs set aside in quarantine/: {outcome.healed_packs:,}, of their chunks {healed.saved:,} are kept and"
        f" {healed.lost:,} dropped; {supplied:,} supplied by the copy"
    )

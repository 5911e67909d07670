"""``transporter scrub``: hash everything in a repository of this home again."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter import events
from transporter.cli.job_runner import parse_share
from transporter.cli.terminal import Terminal
from transporter.cli.watch import watching
from transporter.errors import DamagedData
from transporter.quantities import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transporter.events import EventBus
    from transporter.repository import Repository
    from transporter.repository.scrub import ScrubProgress, ScrubReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(scrub)


def scrub(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="REPOSITORY", help="A repository of this home.")],
    sample: Annotated[str, typer.Option(metavar="SHARE", help="Check this share of the packs, e.g. 10%.")] = "100%",
    heal: Annotated[
        bool, typer.Option("--heal", help="Set damaged packs aside, so that jobs send again what was lost.")
    ] = False,
) -> int:
    """Prove that a repository is undamaged; needs no keys.

    Runs beside the daemon; with --heal the daemon must not be running.
    """
    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    share = parse_share(sample)
    place = Path(settings.path) if settings.path else home.repository_path(name)
    healed = ""
    with watching(terminal) as bus, _opened(name, place, heal=heal) as repository:

        def show(progress: ScrubProgress) -> None:
            bus.publish(
                events.ScrubProgress(
                    repository=name,
                    packs=progress.packs_done,
                    packs_total=progress.packs_total,
                    bytes_checked=progress.bytes_done,
                )
            )

        report = repository.scrub(show, None if share == 1 else share)
        for finding in (*report.damage, *report.repairable):
            bus.publish(events.DamageFound(where=finding.where, what=finding.what))
        for finding in report.notes:
            bus.publish(events.Note(text=f"{finding.where}: {finding.what}"))
        if heal and report.damage_count:
            healed = _heal(repository, report, bus)
    if report.damage_count:
        raise DamagedData(
            f"repository {name}: {report.damage_count} damaged objects{healed}",
            f"stop the daemon, then: transporter scrub {name} --heal"
            if report.damaged_packs and not heal
            else "run every job again that still has its data: it sends what is missing; then scrub once more",
        )
    if report.repairable:
        raise DamagedData(
            f"repository {name}: the index does not agree with the packs",
            f"make it anew: transporter repository rebuild-index {name}",
        )
    terminal.result(
        f"repository {name} is sound: {report.packs:,} packs, {report.points:,} points,"
        f" {show_size(report.bytes)} checked",
        event="scrub_finished",
        repository=name,
        packs=report.packs,
        records=report.records,
        points=report.points,
        slots=report.slots,
        bytes=report.bytes,
    )
    return 0


@contextmanager
def _opened(name: str, place: Path, *, heal: bool) -> Iterator[Repository]:
    """Open the repository, for writing only where something is to be healed."""
    from transporter.clock import SystemClock
    from transporter.repository import Repository, RepositoryBusy

    try:
        repository = Repository.open(place, SystemClock(), writable=heal)
    except RepositoryBusy:
        raise RepositoryBusy(f"the repository {name!r} is in use", "stop the daemon first, then try again") from None
    with repository:
        yield repository


def _heal(repository: Repository, report: ScrubReport, bus: EventBus) -> str:
    """Set the damaged packs aside, one by one, and return what that came to, in words."""
    packs = saved = lost = 0
    for pack in report.damaged_packs:
        try:
            done = repository.heal([pack])
        except DamagedData:
            what = "nothing in it can be read: move the file out of the repository, then heal once more"
            bus.publish(events.DamageFound(where=f"pack {pack.hex()}", what=what))
            continue
        packs, saved, lost = packs + 1, saved + done.saved, lost + done.lost
    if not report.damaged_packs:
        return "; no pack is damaged, so there is nothing to heal"
    return f"; packs set aside in quarantine/: {packs:,}, of their chunks {saved:,} are kept and {lost:,} dropped"

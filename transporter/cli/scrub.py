"""``transporter scrub``: hash everything in a repository of this home again."""

from __future__ import annotations

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
    from transporter.repository.scrub import ScrubProgress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(scrub)


def scrub(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="REPOSITORY", help="A repository of this home.")],
    sample: Annotated[str, typer.Option(metavar="SHARE", help="Check this share of the packs, e.g. 10%.")] = "100%",
) -> int:
    """Prove that a repository is undamaged; needs no keys."""
    from transporter.clock import SystemClock
    from transporter.repository import Repository

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    share = parse_share(sample)
    place = Path(settings.path) if settings.path else home.repository_path(name)
    with watching(terminal) as bus, Repository.open(place, SystemClock(), writable=False) as repository:

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
    if report.damage_count:
        raise DamagedData(
            f"repository {name}: {report.damage_count} damaged objects",
            "keep it, and copy what is hit again from its source",
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

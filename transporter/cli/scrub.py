"""``transporter scrub``: hash everything in a repository of this home again."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from transporter.cli.job_runner import parse_share, run_request
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError
from transporter.quantities import show_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(scrub)


def scrub(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="REPOSITORY", help="A repository of this home.")],
    sample: Annotated[
        str, typer.Option(metavar="SHARE", help="Check this share of the packs, e.g. 10%, those checked longest ago.")
    ] = "100%",
    limit: Annotated[str, typer.Option(metavar="RATE", help="Read at most so fast, e.g. 100MB/s.")] = "",
    heal: Annotated[
        bool, typer.Option("--heal", help="Set damaged packs aside, so that jobs send again what was lost.")
    ] = False,
    source: Annotated[
        str,
        typer.Option("--from", metavar="COPY", help="With --heal: a repository of this node, a path, PEER/REPOSITORY."),
    ] = "",
    anew: Annotated[bool, typer.Option("--anew", help="Do not go on with a scrub that was interrupted.")] = False,
) -> int:
    """Prove that a repository is undamaged; needs no keys. Runs beside jobs, by the daemon where one runs."""
    from transporter.daemon.requests import ScrubRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    config.repository(name)
    if source and not heal:
        raise UsageError("--from is for healing", "add --heal")
    if source and source not in config.repositories and os.path.exists(source):
        source = os.path.abspath(source)
    request = ScrubRequest(
        repository=name,
        share=parse_share(sample),
        limit=parse_limit(limit),
        heal=heal,
        source=source,
        anew=anew,
    )
    outcome = run_request(terminal, home, request)
    if outcome.exit_status:
        return outcome.exit_status
    done = outcome.result
    healed = ""
    if done["healed"] or done["supplied"]:
        healed = f"; healed: {done['healed']:,} packs, {done['supplied']:,} chunks supplied by the copy"
    terminal.result(
        f"repository {name} is sound: {done['packs']:,} packs, {done['points']:,} points,"
        f" {show_size(done['bytes'])} checked{healed}",
        event="scrub_finished",
        repository=name,
        **done,
    )
    return 0


def parse_limit(text: str) -> int:
    """Parse a rate in bytes a second; empty: none."""
    from transporter.quantities import parse_rate

    if not text:
        return 0
    try:
        return int(parse_rate(text) or 0)
    except ValueError as error:
        raise UsageError(f"--limit: {error}", "write for example 100MB/s") from None

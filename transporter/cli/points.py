"""``transporter points``: the restore points there are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from transporter.cli.job_runner import check_job, run_request
from transporter.cli.terminal import Terminal
from transporter.quantities import show_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(points)


def points(
    context: typer.Context,
    job: Annotated[str, typer.Option(help="Only the points of this job.")] = "",
    source: Annotated[
        str, typer.Option("--from", metavar="PEER/REPOSITORY", help="Where to look, for jobs this home does not know.")
    ] = "",
) -> int:
    """List restore points, oldest first."""
    from transporter.daemon.requests import PointsRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if job:
        check_job(config, job, source)
    outcome = run_request(terminal, home, PointsRequest(job=job, source=source))
    rows: list[dict[str, Any]] = outcome.result.get("points", [])
    if terminal.json:
        for row in rows:
            terminal.object(row)
    elif terminal.quiet:
        for row in rows:
            terminal.result(str(row["point"]))
    elif rows:
        cells = [
            [row["point"], row["job"], row["kind"], _local(row["created"]), row["zone"], show_size(row["bytes"])]
            for row in rows
        ]
        terminal.table(["point", "job", "kind", "created", "zone", "size"], cells)
    elif outcome.exit_status == 0:
        terminal.hint("there are no restore points yet")
    return outcome.exit_status


def _local(created: str) -> str:
    return datetime.fromisoformat(created).astimezone().isoformat(sep=" ", timespec="seconds")

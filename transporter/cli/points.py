"""``transporter points``: the restore points there are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from transporter.cli.job_runner import check_place, run_request
from transporter.cli.point_words import Source
from transporter.cli.terminal import Terminal
from transporter.quantities import show_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(points)


def points(
    context: typer.Context,
    job: Annotated[str, typer.Option(help="Only the points of this job.")] = "",
    source: Source = "",
    repository: Annotated[str, typer.Option(metavar="NAME", help="Those in a repository of this node.")] = "",
    recycled: Annotated[bool, typer.Option("--recycled", help="Those in the recycle bin.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take what is listed for what should be there, and settle all findings.")
    ] = False,
) -> int:
    """List restore points, oldest first. One that should be there and is not is called missing."""
    from transporter.daemon.requests import PointsRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if repository:
        config.repository(repository)
    elif job or (source and "/" not in source):
        check_place(config, job, source)
    request = PointsRequest(job=job, source=source, repository=repository, recycled=recycled, accept=accept)
    outcome = run_request(terminal, home, request)
    rows: list[dict[str, Any]] = outcome.result.get("points", [])
    if terminal.json:
        for row in rows:
            terminal.object(row)
    elif terminal.quiet:
        for row in rows:
            terminal.result(str(row["point"]))
    elif rows and recycled:
        cells = [[row["point"], row["job"], row["committed"], row["recycled_until"], row["removed_by"]] for row in rows]
        terminal.table(["point", "job", "committed", "kept until", "removed by"], cells)
    elif rows and repository:
        cells = [[row["point"], row["tenant"], row["job"], row["committed"], _kept(row)] for row in rows]
        terminal.table(["point", "tenant", "job", "committed", "kept"], cells)
    elif rows:
        cells = [
            [row["point"], row["job"], _kind(row), _local(row["created"]), row["zone"], _size(row), _kept(row)]
            for row in rows
        ]
        terminal.table(["point", "job", "kind", "created", "zone", "size", "kept"], cells)
    elif outcome.exit_status == 0:
        terminal.hint("the recycle bin is empty" if recycled else "there are no restore points yet")
    if accept:
        terminal.say(f"{outcome.result.get('settled', 0)} findings are settled")
    return outcome.exit_status


def _size(row: dict[str, Any]) -> str:
    return "–" if row.get("fault") else show_size(row["bytes"])


def _kept(row: dict[str, Any]) -> str:
    """Return why a point stays, whatever retention says."""
    words = [f"pinned: {row['pinned']}"] if row.get("pinned") else []
    if row.get("locked_until"):
        words.append(f"locked until {row['locked_until']}")
    return "; ".join(words)


def _kind(row: dict[str, Any]) -> str:
    """Return what a point is: also that it is a copy, and how many files its run could not read."""
    words = [str(row["kind"])] + ["copied"] * bool(row.get("copied"))
    if row.get("skipped"):
        words.append(f"without {row['skipped']:,} files")
    return ", ".join(words)


def _local(created: str) -> str:
    return datetime.fromisoformat(created).astimezone().isoformat(sep=" ", timespec="seconds")

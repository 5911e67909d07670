"""``transporter transform``: fold the oldest restore points of a job into one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from transporter.cli.job_runner import run_request
from transporter.cli.search_words import parse_time
from transporter.cli.terminal import Terminal
from transporter.clock import SystemClock
from transporter.errors import PointsStay


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(transform)


def transform(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="A job of this home.")],
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="So many of the newest points stay as they are.")] = 0,
    before: Annotated[str, typer.Option(metavar="TIME", help="Fold what was committed earlier: 2026-03-04, 90d.")] = "",
    until: Annotated[str, typer.Option(metavar="POINT", help="Fold this point and all before it.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be folded.")] = False,
) -> int:
    """Fold the oldest restore points of a job into one (a synthetic full), with a storage key of its own.

    It has the content of the newest that is folded, and its place; no chunk is moved or sealed again. Pinned and locked
    points stay, and what the provider keeps at least.
    """
    from transporter.daemon.requests import TransformRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    config.job(job)
    now = datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC)
    request = TransformRequest(
        job=job,
        keep=keep or None,
        before_ns=parse_time("--before", before, now),
        until=until,
        dry_run=dry_run,
    )
    outcome = run_request(terminal, home, request)
    if outcome.exit_status:
        return outcome.exit_status
    report = outcome.result
    if terminal.json:
        terminal.object(report)
    elif not report["folded"]:
        terminal.hint(f"job {job}: fewer than two points are to be folded, nothing to do")
    elif dry_run:
        terminal.result(
            f"{len(report['folded'])} points would become one, with the content of {report['replaces'][:8]}"
        )
    else:
        terminal.result(
            report["point"] if terminal.quiet else f"{len(report['folded'])} points are one now: {report['point'][:8]}"
        )
    if report["stayed"] and not dry_run:
        count, why = len(report["stayed"]), next(iter(report["stayed"].values()))
        if report["point"]:
            terminal.hint(f"{count} points stay as they are: {why}")
        else:
            raise PointsStay(f"nothing was folded: {count} points must stay as they are: {why}", "see `points`")
    return 0

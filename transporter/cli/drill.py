"""``transporter drill``: does a live way open every restore point?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from transporter.cli.job_runner import run_request
from transporter.cli.terminal import Terminal

if TYPE_CHECKING:
    from transporter.jobs.drill_report import DrillReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(drill)


def drill(context: typer.Context) -> int:
    """Prove for every restore point that this node opens it, without asking anybody; meant for cron.

    Exit status 6 where one does not open, with a list; 7 where one would be lost with this node; 4 where a repository
    was not reached. Nothing is restored.
    """
    from transporter.daemon.requests import DrillRequest
    from transporter.jobs.drill_report import DrillReport

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    outcome = run_request(terminal, home, DrillRequest())
    if outcome.exit_status:
        return outcome.exit_status
    report = DrillReport(**outcome.result)
    if terminal.json:
        terminal.object(report.public())
    elif report.closed or report.here_alone or report.unreadable:
        rows = [*map(_row, report.closed + report.here_alone), *_damaged(report)]
        terminal.table(["point", "job", "repository", "ways"], rows)
    report.check()
    terminal.say(f"every one of {report.points:,} sealed restore points opens")
    return 0


def _row(closed: dict[str, Any]) -> list[str]:
    ways = "; ".join(map(_way, closed["ways"]))
    return [closed["point"], closed["job"], closed["repository"], ways or "none"]


def _way(way: dict[str, str]) -> str:
    """Return a way in a few words; why it is none, where nobody can open it by typing or asking."""
    from transporter.points.ways import DEAD

    words = " ".join(filter(None, (way["kind"], way["name"], way["state"])))
    return f"{words} ({way['why']})" if way["state"] == DEAD else words


def _damaged(report: DrillReport) -> list[list[str]]:
    return [[point, "?", "?", "the point is damaged"] for point in report.unreadable]

"""``transporter job``: the jobs of this home and how they went."""

from __future__ import annotations

from datetime import datetime

import typer

from transporter.catalog import Run
from transporter.cli.terminal import Terminal

app = typer.Typer(name="job", help="The jobs of this home.", no_args_is_help=True)


@app.command("list")
def list_jobs(context: typer.Context) -> int:
    """List the jobs with their last run."""
    from transporter.catalog import Catalog

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog:
        last = {name: next(iter(catalog.runs(name, limit=1)), None) for name in config.jobs}
    rows = []
    for name, job in config.jobs.items():
        run = last[name]
        if terminal.json:
            terminal.object(
                {
                    "job": name,
                    "to": job.to,
                    "encrypt": job.encrypt,
                    "paths": job.paths,
                    "last_operation": run.operation if run else None,
                    "last_started": show_time(run.started_ns) if run else None,
                    "last_exit_status": run.exit_status if run else None,
                }
            )
        elif terminal.quiet:
            terminal.result(name)
        else:
            rows.append([name, job.to, job.encrypt, " ".join(job.paths), show_run(run)])
    if rows:
        terminal.table(["job", "to", "encrypt", "paths", "last run"], rows)
    elif not config.jobs:
        terminal.hint("there are no jobs yet: `transporter backup` defines them")
    return 0


def show_time(at_ns: int) -> str:
    """Return a moment as local time with its offset, to the second (ISO 8601)."""
    return datetime.fromtimestamp(at_ns // 10**9).astimezone().isoformat(timespec="seconds")


def show_run(run: Run | None) -> str:
    """Return a run in a few words."""
    if run is None:
        return "never"
    when = f"{run.operation} {show_time(run.started_ns)}"
    if run.exit_status is None:
        return f"{when}: not finished"
    if run.exit_status == 0:
        return f"{when}: done"
    return f"{when}: {run.code or run.exit_status}"

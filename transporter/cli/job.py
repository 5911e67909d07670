"""``transporter job``: the jobs of this home and how they went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from transporter.catalog import Run
from transporter.cli.terminal import Terminal

JobName = Annotated[str, typer.Argument(help="A job, whoever started it.")]

app = typer.Typer(name="job", help="The jobs of this home.", no_args_is_help=True)


@app.command("list")
def list_jobs(context: typer.Context) -> int:
    """List the jobs with their last run."""
    from transporter.catalog import Catalog
    from transporter.keys.database_schema import approved_zones

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog:
        last = {name: next(iter(catalog.runs(name, limit=1)), None) for name in config.jobs}
        backups = {name: catalog.last_backup(name) for name in config.jobs}
    approved = approved_zones(home.keys_db)
    rows = []
    for name, job in config.jobs.items():
        run = last[name]
        zone, names = approved.get(name, ("", []))
        approved_by = names if zone == job.encrypt else []
        if terminal.json:
            terminal.object(
                {
                    "job": name,
                    "to": job.to,
                    "encrypt": job.encrypt,
                    "approved_by": approved_by,
                    "paths": job.paths,
                    "last_operation": run.operation if run else None,
                    "last_started": show_time(run.started_ns) if run else None,
                    "last_exit_status": run.exit_status if run else None,
                    **last_backup(backups[name]),
                }
            )
        elif terminal.quiet:
            terminal.result(name)
        else:
            approval = ", ".join(approved_by) or "–"
            rows.append([name, job.to, job.encrypt, approval, " ".join(job.paths), show_run(run, backups[name])])
    if rows:
        terminal.table(["job", "to", "encrypt", "approved by", "paths", "last run"], rows)
    elif not config.jobs:
        terminal.hint("there are no jobs yet: `transporter backup` defines them")
    return 0


@app.command()
def pause(context: typer.Context, job: JobName) -> int:
    """Pause what runs of a job: no more of it is sent or asked for, its session stays."""
    return _steer(context, job, "pause", "paused")


@app.command()
def resume(context: typer.Context, job: JobName) -> int:
    """Let a job that was paused go on."""
    return _steer(context, job, "resume", "resumed")


@app.command()
def cancel(context: typer.Context, job: JobName) -> int:
    """End what runs of a job, as Ctrl-C does: nothing half-visible stays, and the next run uses what was sent."""
    return _steer(context, job, "cancel", "cancelled")


def _steer(context: typer.Context, job: str, action: Literal["pause", "resume", "cancel"], done: str) -> int:
    from transporter.daemon.requests import SteerRequest
    from transporter.daemon.steer_client import steer_job

    terminal = Terminal.of(context)
    operations = steer_job(terminal.home(), SteerRequest(job=job, action=action))
    terminal.result(f"{done}: {', '.join(operations)} of {job}", job=job, action=action, operations=operations)
    return 0


def show_time(at_ns: int) -> str:
    """Return a moment as local time with its offset, to the second (ISO 8601)."""
    return datetime.fromtimestamp(at_ns // 10**9).astimezone().isoformat(timespec="seconds")


def last_backup(backup: Run | None) -> dict[str, Any]:
    """Return what a listing of jobs tells of the newest backup that made a point, for programs."""
    return {
        "last_backup": show_time(backup.started_ns) if backup else None,
        "last_backup_exit_status": backup.exit_status if backup else None,
    }


def show_run(run: Run | None, backup: Run | None) -> str:
    """Return the last run of a job in a few words, and, where that is not it, its newest good backup."""
    if run is None:
        return "never"
    when = f"{run.operation} {show_time(run.started_ns)}"
    told = f"{when}: not finished" if run.exit_status is None else f"{when}: {_outcome(run)}"
    if backup is None:
        return f"{told}; no backup yet"
    if backup.run_id == run.run_id:
        return told
    gaps = f", {_outcome(backup)}" if backup.exit_status else ""
    return f"{told}; last backup {show_time(backup.started_ns)}{gaps}"


def _outcome(run: Run) -> str:
    return "done" if run.exit_status == 0 else str(run.code or run.exit_status)

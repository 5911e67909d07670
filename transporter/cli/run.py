"""``transporter run``: run a job of the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.approved import ApprovalFile, apply_for_job
from transporter.cli.job_runner import run_request
from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="A job of the configuration.")],
    approval: ApprovalFile = "",
) -> int:
    """Run a job that is defined in the configuration."""
    from transporter.daemon.requests import BackupRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    apply_for_job(home, job, config.job(job).encrypt, approval)
    return run_request(terminal, home, BackupRequest(job=job)).exit_status

"""``transporter verify``: open everything of a point, as a restore would, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.asking import read_password
from transporter.cli.job_runner import check_job, parse_share, run_unlocking
from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job whose copy is checked.")],
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning.")] = "latest",
    sample: Annotated[str, typer.Option(metavar="SHARE", help="Check this share of the chunks, e.g. 10%.")] = "100%",
    source: Annotated[
        str, typer.Option("--from", metavar="PEER/REPOSITORY", help="Where to look, for a job this home does not know.")
    ] = "",
    zone: Annotated[
        str,
        typer.Option(
            metavar="ZONE", help="source, target or none: what the point must be. Default: as configured, else source."
        ),
    ] = "",
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="The point's password, when this home does not hold it.")
    ] = "",
) -> int:
    """Prove that a point can be restored."""
    from transporter.daemon.requests import VerifyRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_job(config, job, source)
    request = VerifyRequest(
        job=job,
        point=point,
        sample=parse_share(sample),
        source=source,
        zone=zone,
        password=read_password(file=Path(password_file), env="", ask="", twice=False) if password_file else b"",
    )
    return run_unlocking(terminal, home, request).exit_status

"""``transporter restore``: bring files back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.asking import read_password
from transporter.cli.job_runner import check_job, run_unlocking
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(restore)


def restore(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job whose copy is wanted.")],
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning (see `points`).")] = "latest",
    output: Annotated[str, typer.Option(metavar="DIR", help="Where the files go; made when it does not exist.")] = "",
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only what matches; repeatable. Default: everything.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist in DIR.")] = False,
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
    """Restore a point, whole or in part, to a folder."""
    from transporter.daemon.requests import RestoreRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_job(config, job, source)
    if not output:
        raise UsageError("--output is missing", "name the folder that receives the files: --output DIR")
    request = RestoreRequest(
        job=job,
        point=point,
        output=str(_output(output, overwrite=overwrite)),
        include=include or [],
        overwrite=overwrite,
        source=source,
        zone=zone,
        password=read_password(file=Path(password_file), env="", ask="", twice=False) if password_file else b"",
    )
    outcome = run_unlocking(terminal, home, request)
    if outcome.exit_status == 0 and request.include and not outcome.result.get("files"):
        terminal.warn(
            "no file matches --include; `*` stays within a folder, `**` does not, and quotes keep the shell out"
        )
    return outcome.exit_status


def _output(text: str, *, overwrite: bool) -> Path:
    path = Path(os.path.abspath(text))
    if path.is_dir():
        if not overwrite and any(path.iterdir()):
            raise UsageError(f"{path} is not empty", "choose another --output, or add --overwrite")
    elif os.path.lexists(path):
        raise UsageError(f"{path} is not a folder", "choose another --output")
    return path

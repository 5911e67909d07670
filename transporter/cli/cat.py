"""``transporter cat``: a file of a restore point to standard output, and nothing else there."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.job_runner import check_place, run_unlocking
from transporter.cli.point_words import Job, PasswordFile, Source, Tenant, ZoneWord, password_of, reader_gone
from transporter.cli.terminal import Terminal

if TYPE_CHECKING:
    from transporter.events import Event


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cat)


def cat(
    context: typer.Context,
    job: Job,
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning.")],
    path: Annotated[str, typer.Argument(help="Of a file: as listings show it, or below the job's folder.")],
    source: Source = "",
    tenant: Tenant = "",
    zone: ZoneWord = "",
    password_file: PasswordFile = "",
) -> int:
    """Write a file of a restore point to standard output; every byte is proven before it is written.

    With --json events and errors go to standard error, as objects.
    """
    from transporter.daemon.requests import CatRequest

    terminal = Terminal.of(context)
    terminal.objects_to_stderr = True
    # What was done is what is on stdout: no sentence may stand behind it.
    terminal.quiet = True
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    request = CatRequest(
        job=job,
        point=point,
        path=os.fsencode(path),
        source=source,
        tenant=tenant,
        zone=zone,
        password=password_of(password_file),
    )
    return run_unlocking(terminal, home, request, write_content).exit_status


def write_content(event: Event) -> None:
    """Write the bytes of an event to stdout; any other event is somebody else's."""
    from transporter.events import FileContent

    if not isinstance(event, FileContent):
        return
    try:
        sys.stdout.buffer.write(event.data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        reader_gone()

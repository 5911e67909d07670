"""``transporter ls``: what lies in a folder of a restore point."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.job_runner import check_place, run_unlocking
from transporter.cli.point_words import (
    Job,
    PasswordFile,
    Point,
    Source,
    Tenant,
    ZoneWord,
    long_line,
    password_of,
    public,
    show_lines,
)
from transporter.cli.terminal import Terminal, as_json

if TYPE_CHECKING:
    from transporter.events import Event


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ls)


def ls(
    context: typer.Context,
    job: Job,
    point: Point = "latest",
    path: Annotated[str, typer.Argument(help="As listings show it, or below the job's folder. Default: all.")] = "",
    long: Annotated[bool, typer.Option("-l", help="Also mode, owner, group, size, time.")] = False,
    recursive: Annotated[bool, typer.Option("-R", help="Everything beneath, too.")] = False,
    source: Source = "",
    tenant: Tenant = "",
    zone: ZoneWord = "",
    password_file: PasswordFile = "",
) -> int:
    """List a folder of a restore point; nothing is restored."""
    from transporter.daemon.requests import ListRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    request = ListRequest(
        job=job,
        point=point,
        path=os.fsencode(path),
        recursive=recursive,
        source=source,
        tenant=tenant,
        zone=zone,
        password=password_of(password_file),
    )
    return run_unlocking(terminal, home, request, Entries(terminal, long=long)).exit_status


class Entries:
    """Shows entries as they come."""

    def __init__(self, terminal: Terminal, *, long: bool) -> None:
        self._terminal = terminal
        self._long = long

    def __call__(self, event: Event) -> None:
        """Show the entries of an event; any other is somebody else's."""
        from transporter.events import Listing, display_path

        if not isinstance(event, Listing):
            return
        terminal = self._terminal
        if terminal.json:
            show_lines(terminal, (as_json(public(file)) for file in event.files))
        elif self._long and not terminal.quiet:
            show_lines(terminal, map(long_line, event.files))
        else:
            show_lines(terminal, (display_path(file.path) for file in event.files))

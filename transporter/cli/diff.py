"""``transporter diff``: what two restore points of a job differ in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.job_runner import check_place, run_unlocking
from transporter.cli.point_words import (
    Job,
    PasswordFile,
    Source,
    Tenant,
    ZoneWord,
    password_of,
    path_fields,
    show_lines,
)
from transporter.cli.terminal import Terminal, as_json

if TYPE_CHECKING:
    from transporter.events import Event, FoundDifference

_SIGNS = {"added": "+", "removed": "-", "changed": "M"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(diff)


def diff(
    context: typer.Context,
    job: Job,
    point: Annotated[str, typer.Argument(help="The older point: its id or the beginning of it.")],
    other: Annotated[str, typer.Argument(metavar="POINT", help="The newer point; latest, or as above.")] = "latest",
    path: Annotated[str, typer.Argument(help="Only what lies beneath. Default: all.")] = "",
    source: Source = "",
    tenant: Tenant = "",
    zone: ZoneWord = "",
    password_file: PasswordFile = "",
) -> int:
    """Show what was added, removed or changed between two restore points, and what of it changed.

    Nothing is read of files that did not change.
    """
    from transporter.daemon.requests import DiffRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    request = DiffRequest(
        job=job,
        point=point,
        other=other,
        path=os.fsencode(path),
        source=source,
        tenant=tenant,
        zone=zone,
        password=password_of(password_file),
    )
    outcome = run_unlocking(terminal, home, request, Lines(terminal))
    if outcome.exit_status == 0:
        counts = outcome.result
        terminal.hint(f"{counts['added']:,} added, {counts['removed']:,} removed, {counts['changed']:,} changed")
    return outcome.exit_status


class Lines:
    """Shows differences as they come."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __call__(self, event: Event) -> None:
        """Show the differences of an event; any other is somebody else's."""
        from transporter.events import Differences

        if not isinstance(event, Differences):
            return
        terminal = self._terminal
        if terminal.json:
            show_lines(terminal, (as_json(_public(one)) for one in event.found))
        else:
            show_lines(terminal, map(_line, event.found))


def _public(one: FoundDifference) -> dict[str, Any]:
    fields = {"change": one.change, **path_fields(one.path), "type": one.kind, "size": one.size}
    return fields | {"old_size": one.old_size, "what": one.what} if one.change == "changed" else fields


def _line(one: FoundDifference) -> str:
    from transporter.events import display_path

    slash = "/" if one.kind == "d" else ""
    what = f"  ({', '.join(one.what)})" if one.what else ""
    return f"{_SIGNS[one.change]} {display_path(one.path)}{slash}{what}"

"""``transporter find``: entries of one restore point by name, size, time and type."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from transporter.cli.job_runner import check_place, run_unlocking
from transporter.cli.ls import Entries
from transporter.cli.point_words import Job, PasswordFile, Source, Tenant, ZoneWord, password_of
from transporter.cli.search_words import parse_kinds, parse_sizes, parse_time
from transporter.cli.terminal import Terminal
from transporter.clock import SystemClock


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(find)


def find(
    context: typer.Context,
    job: Job,
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning.")],
    globs: Annotated[
        list[str], typer.Argument(metavar="GLOB...", help="Names ('*.pdf'), or paths with / in them; one must match.")
    ],
    size: Annotated[list[str], typer.Option(metavar="BOUND", help="'>10M', '<1k', '=0'; again for both.")] = [],  # noqa: B006
    after: Annotated[str, typer.Option("--modified-after", metavar="TIME", help="Only files changed since.")] = "",
    before: Annotated[
        str, typer.Option("--modified-before", metavar="TIME", help="Only files not changed since.")
    ] = "",
    kind: Annotated[list[str], typer.Option("--type", metavar="f|d|l|p|c|b", help="Only files, folders, links …")] = [],  # noqa: B006
    source: Source = "",
    tenant: Tenant = "",
    zone: ZoneWord = "",
    password_file: PasswordFile = "",
) -> int:
    """Find files in one restore point; `search` looks through many."""
    from transporter.daemon.requests import FindRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    now = datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC)
    least, most = parse_sizes(size)
    request = FindRequest(
        job=job,
        point=point,
        globs=[os.fsencode(glob) for glob in globs],
        size_at_least=least,
        size_at_most=most,
        after_ns=parse_time("--modified-after", after, now),
        before_ns=parse_time("--modified-before", before, now, end=True),
        kinds=parse_kinds(kind),
        source=source,
        tenant=tenant,
        zone=zone,
        password=password_of(password_file),
    )
    outcome = run_unlocking(terminal, home, request, Entries(terminal, long=False))
    if outcome.exit_status == 0 and not outcome.result.get("entries"):
        terminal.hint("nothing found in this restore point")
    return outcome.exit_status

"""``transporter verify``: open everything of a point, as a restore would, and write nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.asking import TRIES, read_password
from transporter.cli.job_runner import check_place, parse_share, run_request, run_unlocking
from transporter.cli.point_words import Source, Tenant
from transporter.cli.terminal import Terminal
from transporter.errors import NoKey, UsageError

if TYPE_CHECKING:
    from transporter.daemon.requests import VerifyRequest
    from transporter.home import Home

EVERY = "all"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job whose copy is checked.")],
    point: Annotated[
        str, typer.Argument(help="latest, or a point's id or its beginning; all: every point of the job.")
    ] = "latest",
    sample: Annotated[str, typer.Option(metavar="SHARE", help="Check this share of the chunks, e.g. 10%.")] = "100%",
    source: Source = "",
    tenant: Tenant = "",
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
    """Prove that a point can be restored; name every file that what is damaged or missing is in."""
    from transporter.daemon.requests import PointsRequest, VerifyRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    request = VerifyRequest(
        job=job,
        point=point,
        sample=parse_share(sample),
        source=source,
        tenant=tenant,
        zone=zone,
        password=read_password(file=Path(password_file), env="", ask="", twice=False) if password_file else b"",
    )
    if point != EVERY:
        return run_unlocking(terminal, home, request).exit_status
    listed = run_request(terminal, home, PointsRequest(job=job, source=source))
    # The newest first. One that is damaged keeps no other from being looked at.
    rows = [row for row in reversed(listed.result.get("points", [])) if row["job"] == job]
    ids = [row["point"] for row in rows if not tenant or row["tenant"] == tenant]
    if not ids and not listed.exit_status:
        # That nothing was proved must not look like a proof.
        raise UsageError(f"job {job!r} has no restore points there", "run the job first, or name the right job")
    return (_verify_each(terminal, home, request, ids) if ids else 0) or listed.exit_status


def _verify_each(terminal: Terminal, home: Home, request: VerifyRequest, ids: list[str]) -> int:
    """Verify points in one request: a password that opens several is asked for, and stretched, once.

    It is asked for as long as it opens some of what is closed, and three times in vain at most.
    """
    import msgspec

    worst, closed, tries = 0, ids, TRIES + 1
    may_ask = not (request.password or terminal.json) and sys.stdin.isatty()
    while True:
        outcome = run_request(terminal, home, msgspec.structs.replace(request, points=closed))
        left = outcome.result.get("closed", [])
        worst = outcome.result.get("worst", outcome.exit_status) or worst
        tries = TRIES if len(left) < len(closed) else tries - 1
        closed = left
        if not closed or not tries or not may_ask:
            return worst or (NoKey.exit_status if closed else 0)
        password = read_password(file=None, env="", ask=f"password of job {request.job}", twice=False)
        request = msgspec.structs.replace(request, password=password)
        terminal.failure_shown = False

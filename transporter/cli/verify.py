"""``transporter verify``: open everything of a point, as a restore would, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.asking import read_password
from transporter.cli.job_runner import Typed, check_place, parse_share, run_request, run_unlocking
from transporter.cli.point_words import Source, Tenant
from transporter.cli.terminal import Terminal

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
    import msgspec

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
    worst, typed = listed.exit_status, Typed()
    for one in ids:
        outcome = run_unlocking(terminal, home, msgspec.structs.replace(request, point=one), typed=typed)
        worst = outcome.exit_status or worst
    return worst

"""``transporter point``: what becomes of single restore points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from transporter.cli.approved import ApprovalFile
from transporter.cli.job_runner import check_job, run_request
from transporter.cli.retention import Repository, Source, Tenant
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

if TYPE_CHECKING:
    from transporter.home import Home

app = typer.Typer(name="point", help="What becomes of single restore points.", no_args_is_help=True)
Job = Annotated[str, typer.Argument(help="The job.")]
Points = Annotated[list[str], typer.Argument(metavar="POINT...", help="Ids, or their unique beginnings.")]


@app.command("remove")
def remove(
    context: typer.Context,
    job: Job,
    points: Points,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also those that are pinned; with --repository also what the provider keeps at least, and at once.",
        ),
    ] = False,
    approval: ApprovalFile = "",
    source: Source = "",
    repository: Repository = "",
    tenant: Tenant = "",
) -> int:
    """Remove restore points, into the provider's recycle bin where there is one. Nothing removes what is locked."""
    rows = _act(context, "remove", job, points, source, repository, tenant, force=force, approval=approval)
    terminal = Terminal.of(context)
    for row in rows:
        until = row.get("recycled_until")
        how = f"removed; it can be brought back until {until}" if until else "removed"
        terminal.result(row["point"] if terminal.quiet else f"{row['point'][:8]}: {how}", **row)
    return 0


@app.command("undelete")
def undelete(
    context: typer.Context,
    job: Job,
    points: Points,
    source: Source = "",
    repository: Repository = "",
    tenant: Tenant = "",
) -> int:
    """Bring restore points back from the recycle bin (`points --recycled`)."""
    rows = _act(context, "undelete", job, points, source, repository, tenant)
    _tell(context, rows, lambda _row: "it is there again")
    return 0


@app.command("pin")
def pin(
    context: typer.Context,
    job: Job,
    points: Points,
    reason: Annotated[str, typer.Option(help="Why it must stay; at most 200 characters.")],
    source: Source = "",
    repository: Repository = "",
    tenant: Tenant = "",
) -> int:
    """Have retention keep restore points until they are unpinned."""
    if not reason.strip() or len(reason) > 200 or not reason.isprintable():
        raise UsageError("a pin needs a reason of 1 to 200 characters on one line", "say why it must stay: --reason")
    rows = _act(context, "pin", job, points, source, repository, tenant, reason=reason)
    _tell(context, rows, lambda row: f"pinned: {row['pinned']}")
    return 0


@app.command("unpin")
def unpin(
    context: typer.Context,
    job: Job,
    points: Points,
    source: Source = "",
    repository: Repository = "",
    tenant: Tenant = "",
) -> int:
    """Take pins away; those that the provider set are the provider's to take away."""
    rows = _act(context, "unpin", job, points, source, repository, tenant)
    _tell(context, rows, lambda row: "unpinned" if row["was_pinned"] else "it was not pinned")
    return 0


@app.command("lock")
def lock(
    context: typer.Context,
    job: Job,
    points: Points,
    repository: Annotated[str, typer.Option(metavar="NAME", help="The repository of this node.")],
    span: Annotated[str, typer.Option("--for", metavar="SPAN", help="So long from now on, e.g. 30d.")],
    tenant: Tenant = "",
) -> int:
    """Let nobody remove restore points of a repository of this node for a while. A lock is never shortened."""
    from transporter.clock import SystemClock
    from transporter.quantities import parse_duration

    try:
        seconds = parse_duration(span)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from None
    until_ns = SystemClock().now_ns() + int(seconds * 1e9)
    rows = _act(context, "lock", job, points, "", repository, tenant, until_ns=until_ns)
    _tell(context, rows, lambda row: f"locked until {row['locked_until']}")
    return 0


def _act(
    context: typer.Context,
    action: Literal["remove", "undelete", "pin", "unpin", "lock"],
    job: str,
    points: list[str],
    source: str,
    repository: str,
    tenant: str,
    *,
    reason: str = "",
    until_ns: int = 0,
    force: bool = False,
    approval: str = "",
) -> list[dict[str, Any]]:
    from transporter.daemon.requests import PointRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if repository:
        config.repository(repository)
    else:
        check_job(config, job, source)
    if approval:
        _take_up(home, approval)
    request = PointRequest(
        action=action,
        job=job,
        points=points,
        reason=reason,
        until_ns=until_ns,
        force=force,
        source=source,
        repository=repository,
        tenant=tenant,
    )
    outcome = run_request(terminal, home, request)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)
    rows: list[dict[str, Any]] = outcome.result["points"]
    return rows


def _take_up(home: Home, file: str) -> None:
    """Store the approval, for the process that does it: a daemon, perhaps."""
    from transporter.cli.approved import read_approval_file
    from transporter.keys.database import KeyDatabase

    with KeyDatabase(home.keys_db) as keys:
        keys.apply_approval(read_approval_file(file))


def _tell(context: typer.Context, rows: list[dict[str, Any]], what: Callable[[dict[str, Any]], str]) -> None:
    terminal = Terminal.of(context)
    for row in rows:
        terminal.result(row["point"] if terminal.quiet else f"{row['point'][:8]}: {what(row)}", **row)

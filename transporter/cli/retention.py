"""``transporter retention``: which restore points stay, which go, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.job_runner import check_job, run_request
from transporter.cli.terminal import Terminal
from transporter.errors import PointsStay, UsageError

if TYPE_CHECKING:
    from transporter.retention import KeepPolicy

Source = Annotated[
    str, typer.Option("--from", metavar="PEER/REPOSITORY", help="Where they are, for jobs this home does not know.")
]
Repository = Annotated[str, typer.Option(metavar="NAME", help="They are in this repository of this node.")]
Tenant = Annotated[str, typer.Option(metavar="NAME", help="With --repository: whose job it is.")]
_Count = Annotated[int, typer.Option(min=0, max=1_000_000, metavar="N", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(retention)


def retention(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job.")],
    keep_last: _Count = 0,
    keep_hourly: _Count = 0,
    keep_daily: _Count = 0,
    keep_weekly: _Count = 0,
    keep_monthly: _Count = 0,
    keep_yearly: _Count = 0,
    keep_within: Annotated[str, typer.Option(metavar="SPAN", help="All of so long before the newest, e.g. 14d.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what stays and what goes, and why.")] = False,
    source: Source = "",
    repository: Repository = "",
    tenant: Tenant = "",
) -> int:
    """Remove the restore points of a job that no rule keeps. Without rules: by `keep` of the job in config.toml.

    Of each period its newest point counts, by the provider's clock. Pinned and locked ones stay, and what the provider
    keeps at least.
    """
    from transporter.daemon.requests import RetentionRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if repository:
        config.repository(repository)
    else:
        check_job(config, job, source)
    policy = _policy(
        {
            "last": keep_last,
            "hourly": keep_hourly,
            "daily": keep_daily,
            "weekly": keep_weekly,
            "monthly": keep_monthly,
            "yearly": keep_yearly,
        },
        keep_within,
    )
    request = RetentionRequest(
        job=job,
        policy=None if policy.empty else policy,
        dry_run=dry_run,
        source=source,
        repository=repository,
        tenant=tenant,
    )
    outcome = run_request(terminal, home, request)
    if outcome.exit_status:
        return outcome.exit_status
    if not outcome.result["points"]:
        # A name with a slip must not look like a policy that was carried out.
        raise UsageError(f"job {job!r} has no restore points there", "run the job first, or name the right job")
    _show(terminal, outcome.result)
    if outcome.result["refused"]:
        count, why = len(outcome.result["refused"]), next(iter(outcome.result["refused"].values()))
        raise PointsStay(f"{count} restore points were to go and stay: {why}", "the table says why of each")
    return 0


def _policy(counts: dict[str, int], within: str) -> KeepPolicy:
    from transporter.quantities import Duration, parse_duration
    from transporter.retention import KeepPolicy

    try:
        span = parse_duration(within) if within else Duration(0)
    except ValueError as error:
        raise UsageError(f"--keep-within: {error}") from None
    return KeepPolicy(within=span, **counts)


def _show(terminal: Terminal, report: dict[str, Any]) -> None:
    if terminal.json:
        terminal.object(report)
        return
    going = [row["point"] for row in report["points"] if not row["keep"]]
    if terminal.quiet:
        for point in going if report["dry_run"] else report["removed"]:
            terminal.result(point)
        return
    rows = [
        [row["point"][:8], row["committed"], "stays" if row["keep"] else "goes", "; ".join(row["reasons"])]
        for row in report["points"]
    ]
    if rows:
        terminal.table(["point", "committed", "", "why"], rows)
    if report["kept_by_provider"]:
        terminal.say(f"{report['kept_by_provider']} stay only because the provider keeps them")
    if report["dry_run"]:
        terminal.say(f"{report['policy']}: {report['kept']} stay, {len(going)} would go; nothing was removed")
        return
    until = next((moment for moment in report["removed"].values() if moment), None)
    more = f"; until {until} `transporter point undelete` brings them back" if until else ""
    terminal.say(f"{report['policy']}: {report['kept']} stay, {len(report['removed'])} were removed{more}")

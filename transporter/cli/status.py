"""``transporter status``: what is going on in this home."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from transporter.cli.job import last_backup, show_run, show_time
from transporter.cli.job_runner import run_request
from transporter.cli.peer import way_to
from transporter.cli.terminal import Terminal
from transporter.quantities import show_limit, show_rate, show_size

if TYPE_CHECKING:
    from transporter.catalog import Catalog
    from transporter.config import Config


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(context: typer.Context) -> int:
    """Show jobs, sessions, links and live throughput."""
    from transporter.catalog import Catalog
    from transporter.daemon.requests import StatusRequest
    from transporter.daemon.steer_client import runs_of_their_own

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    live = run_request(terminal, home, StatusRequest()).result
    live = {**live, "running": [*live.get("running", []), *runs_of_their_own(home)]}
    live.setdefault("limits", limits_now(config))
    with Catalog(home.catalog_db) as catalog:
        last = {name: next(iter(catalog.runs(name, limit=1)), None) for name in config.jobs}
        backups = {name: catalog.last_backup(name) for name in config.jobs}
        peers = catalog.peers()
        faults = _faults(catalog)
    if terminal.json:
        jobs = [
            {
                "job": name,
                "last_operation": run.operation if run else None,
                "last_started": show_time(run.started_ns) if run else None,
                "last_exit_status": run.exit_status if run else None,
                **last_backup(backups[name]),
            }
            for name, run in last.items()
        ]
        terminal.object({"node": config.node.name, "home": str(home.path), "jobs": jobs, "findings": faults, **live})
        return 0
    daemon = "running" if live.get("daemon") else "not running"
    where = f", listening on {config.node.listen}" if live.get("daemon") and config.node.listen else ""
    terminal.result(f"node {config.node.name} in {home.path}: daemon {daemon}{where}")
    for line in _live_lines("running", live.get("running", [])) + _live_lines("session", live.get("sessions", [])):
        terminal.result(f"  {line}")
    for row in live["limits"]:
        on = f"{row['on']} {row['name']}".strip()
        terminal.result(f"  limit on {on}: {show_limit(row['bytes_per_second'])}")
    for row in live.get("scheduled", []):
        terminal.result(f"  scheduled: {_scheduled(row)}")
    for row in live.get("links", []):
        parked = row["state"] == "parked"
        state = "connection parked there" if parked else f"not connected: {row['trouble'] or 'dialling'}"
        terminal.result(f"  link to {row['peer']}: {state}")
    for row in live.get("parked", []):
        terminal.result(f"  parked here: {row['peer']}")
    under_way = {row.get("job"): "paused" if row.get("paused") else "running" for row in live.get("running", [])}
    for name, run in last.items():
        terminal.result(f"  job {name}: {under_way.get(name) or show_run(run, backups[name])}")
    for row in faults:
        terminal.result(
            f"  finding: {row['count']} restore points of job {row['job']} are {row['state']} at {row['destination']}"
        )
    for peer in peers:
        terminal.result(f"  peer {peer.name}: {way_to(peer)}")
    for name in config.repositories:
        terminal.result(f"  repository {name}")
    return 0


def _faults(catalog: Catalog) -> list[dict[str, Any]]:
    """Return what is not in order with the points that this node committed, a row for each place, job and state."""
    counts = Counter((destination, job, point.state) for destination, job, point in catalog.chain_faults())
    return [
        {"destination": destination, "job": job, "state": state, "count": count}
        for (destination, job, state), count in sorted(counts.items())
    ]


def _scheduled(row: dict[str, Any]) -> str:
    last = "running now" if row["running"] else f"last {show_time(row['last_ns'])}" if row["last_ns"] else "not run yet"
    why = f": {row['last_error']}" if row.get("last_error") else ""
    failed = f" (exit status {row['last_exit_status']}{why})" if row["last_exit_status"] else ""
    return f"{row['task']}: {row['schedule']}; {last}{failed}, next {show_time(row['next_ns'])}"


def limits_now(config: Config) -> list[dict[str, Any]]:
    """Return the limits of a configuration that hold at this moment, as a daemon tells them."""
    from transporter.clock import SystemClock
    from transporter.throttle.limits import schedules

    now = SystemClock().local_time()
    return [
        {"on": on, "name": name, "bytes_per_second": int(rate)}
        for (on, name), schedule in schedules(config.throttle)
        if (rate := schedule.rate(now))
    ]


def _live_lines(kind: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each job or session under way; what a row does not tell is left out."""
    lines = []
    for row in rows:
        words = [str(row[name]) for name in ("peer", "operation", "purpose", "job", "repository") if row.get(name)]
        moved, seconds = row.get("bytes", 0), row.get("seconds", 0.0)
        if moved:
            words.append(f"{show_size(moved)} ({show_rate(moved, seconds)})")
        if row.get("paused"):
            words.append("paused")
        lines.append(f"{kind}: {' '.join(words)}")
    return lines

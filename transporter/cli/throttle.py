"""``transporter throttle``: how fast this node may send and receive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, UsageError
from transporter.quantities import parse_rate, show_limit
from transporter.throttle.windows import ALWAYS, REMEDY, parse_window

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.home import Home

app = typer.Typer(name="throttle", help="How fast this node may send and receive.")

Daemon = Annotated[bool, typer.Option("--daemon", help="All that this node sends, and all that it receives.")]
Peer = Annotated[str, typer.Option("--peer", metavar="NAME", help="What goes to a peer, and what comes from it.")]
Job = Annotated[str, typer.Option("--job", metavar="NAME", help="What a job of this home sends, and receives.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> int:
    """How fast this node may send and receive; without a command: show the limits."""
    return show(context) if context.invoked_subcommand is None else 0


@app.command()
def show(context: typer.Context) -> int:
    """Show the limits, and which of them hold now."""
    from transporter.clock import SystemClock
    from transporter.throttle.limits import schedules

    terminal = Terminal.of(context)
    _, config = terminal.home_and_config()
    now = SystemClock().local_time()
    rows = []
    for (on, name), schedule in schedules(config.throttle):
        holds = schedule.at(now)
        for rule in schedule.rules:
            if terminal.json:
                terminal.object(
                    {
                        "on": on,
                        "name": name,
                        "window": rule.text,
                        "bytes_per_second": int(rule.rate),
                        "in_force": rule is holds,
                    }
                )
            else:
                rows.append([f"{on} {name}".strip(), rule.text, show_limit(rule.rate), "now" if rule is holds else ""])
    if rows:
        terminal.table(["limit on", "window", "at most", ""], rows)
    elif not terminal.json:
        terminal.hint("there are no limits; for example: transporter throttle set --daemon 20Mbit")
    return 0


@app.command("set")
def set_limit(
    context: typer.Context,
    rate: Annotated[str, typer.Argument(help="20Mbit, 2.5MB/s or unlimited.")],
    daemon: Daemon = False,
    peer: Peer = "",
    job: Job = "",
    window: Annotated[str, typer.Option("--window", help="For example 'Mon-Fri 08:00-18:00'.")] = ALWAYS,
) -> int:
    """Limit what is sent and received, each, from now on; what runs adapts within a second or two."""
    from transporter.config_edit import put_limit

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    section = _section(home, config, daemon=daemon, peer=peer, job=job)
    try:
        per_second = parse_rate(rate)
    except ValueError as error:
        raise UsageError(str(error), "bits: 500kbit, 20Mbit, 1Gbit; bytes: 2.5MB/s, 4MiB/s") from None
    try:
        parse_window(window)
    except ValueError as error:
        raise UsageError(f"--window: {error}", REMEDY) from None
    put_limit(home.config_path, section, window, rate.strip())
    _say(terminal, section, window, per_second, f"{window}: {show_limit(per_second)}")
    return 0


@app.command("clear")
def clear_limit(
    context: typer.Context,
    daemon: Daemon = False,
    peer: Peer = "",
    job: Job = "",
    window: Annotated[str, typer.Option("--window", help="This window alone; without it all of them.")] = "",
) -> int:
    """Take a limit away."""
    from transporter import config_edit

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    section = _section(home, config, daemon=daemon, peer=peer, job=job, known=False)
    if not config_edit.clear_limit(home.config_path, section, window or None):
        what = f"there is no limit on {' '.join(section)}" + (f" for {window!r}" if window else "")
        raise UsageError(what, "`transporter throttle show` shows them")
    _say(terminal, section, window or None, 0, f"{window or 'all windows'}: cleared")
    return 0


def _section(home: Home, config: Config, *, daemon: bool, peer: str, job: str, known: bool = True) -> tuple[str, ...]:
    """Return the section of the configuration that the options name. ``known``: peer or job must be there."""
    if sum((daemon, bool(peer), bool(job))) != 1:
        raise UsageError("a limit is on one thing", "write --daemon, --peer NAME or --job NAME")
    if daemon:
        return ("daemon",)
    if job:
        if known:
            config.job(job)
        return ("jobs", job)
    if known:
        from transporter.catalog import Catalog

        with Catalog(home.catalog_db) as catalog:
            if catalog.peer(peer) is None:
                raise ConfigError(f"there is no peer {peer!r}", "`transporter peer list` shows them")
    return ("peers", peer)


def _say(terminal: Terminal, section: tuple[str, ...], window: str | None, rate: int, text: str) -> None:
    on = {"daemon": "daemon", "peers": "peer", "jobs": "job"}[section[0]]
    fields: dict[str, Any] = {"on": on, "name": section[1] if len(section) > 1 else ""}
    terminal.result(f"limit on {' '.join((on, *section[1:]))}, {text}", **fields, window=window, bytes_per_second=rate)

"""``transporter keys``: what opens a restore point."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from transporter.cli.job_runner import run_request
from transporter.cli.master_key import app as master_key
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

app = typer.Typer(name="keys", help="What opens a restore point.", no_args_is_help=True)
app.add_typer(master_key)
# Of an id of 32 digits: fewer name too many points.
_LEAST = 4


@app.callback()
def keys() -> None:
    """Keep the sub-commands a group, however many there are."""


@app.command("explain")
def explain(
    context: typer.Context, point: Annotated[str, typer.Argument(help="A restore point: its id, or how that begins.")]
) -> int:
    """Say which ways would open a restore point and which would not, without opening it."""
    from transporter.daemon.requests import ExplainRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    beginning = point.lower()
    if len(beginning) < _LEAST or any(sign not in "0123456789abcdef" for sign in beginning):
        raise UsageError(f"{point!r} is not the id of a restore point", "`transporter points` lists them")
    outcome = run_request(terminal, home, ExplainRequest(point=beginning))
    if outcome.exit_status:
        return outcome.exit_status
    found: list[dict[str, Any]] = outcome.result["points"]
    if not found:
        raise UsageError(f"no restore point begins with {point!r}", "`transporter points` lists them")
    for each in found:
        if terminal.json:
            terminal.object(each)
            continue
        terminal.say(f"{each['point']} of job {each['job']} in {each['repository']}")
        if not each["sealed"]:
            terminal.result("  it is not sealed: whoever has the repository can read it")
        elif not each["ways"]:
            terminal.result("  it has no slot left: nothing opens it")
        for way in each["ways"]:
            name = f" {way['name']}" if way["name"] else ""
            terminal.result(f"  {way['kind']}{name}: {way['state']} ({way['why']})")
    return 0

"""``transporter audit``: the trail of what was done to this home's keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from transporter.cli.terminal import Terminal

app = typer.Typer(name="audit", help="What was done to the keys of this home, and by whom.", no_args_is_help=True)
_OF_EVERY_ENTRY = ("n", "at", "by", "event", "prev", "hash")


@app.command("log")
def log(
    context: typer.Context, last: Annotated[int, typer.Option(help="Only so many, the newest; 0: all.")] = 0
) -> int:
    """Show the audit trail, oldest first; every entry is proved against the one before."""
    from collections import deque

    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        entries: deque[dict[str, Any]] = deque(keys.audit.entries(), maxlen=last if last > 0 else None)
    rows = []
    for entry in entries:
        if terminal.json:
            terminal.object(entry)
        else:
            facts = ", ".join(f"{name} {value}" for name, value in entry.items() if name not in _OF_EVERY_ENTRY)
            rows.append([str(entry["n"]), entry["at"][:19], entry["by"], entry["event"], facts])
    if terminal.quiet:
        for row in rows:
            terminal.result("\t".join(row))
    elif rows:
        terminal.table(["no.", "when (UTC)", "who", "what", "of"], rows)
    elif not entries:
        terminal.hint("the audit trail is empty")
    return 0


@app.command("verify")
def verify(context: typer.Context) -> int:
    """Prove that the audit trail is whole: nothing altered, taken out, put in, or cut off at its end."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        count = keys.audit.verify(keys.audit_head())
    terminal.result(f"the audit trail is whole: {count} entries", entries=count)
    return 0


@app.command("begin-anew")
def begin_anew(context: typer.Context) -> int:
    """Set a damaged audit trail aside and begin another, whose first entry says so. Look into it first."""
    from transporter.errors import DamagedData, UsageError
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        try:
            keys.audit.verify(keys.audit_head())
        except DamagedData:
            aside = keys.begin_audit_anew()
        else:
            raise UsageError("the audit trail is whole", "nothing to do")
    terminal.result(f"a new audit trail has begun; the old one lies in {aside}", old=str(aside) if aside else "")
    return 0

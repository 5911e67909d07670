"""``transporter audit``: a review of this installation, and the trail of what was done to its keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from transporter.cli.terminal import Terminal

app = typer.Typer(name="audit", help="Review this installation; and the trail of what was done to its keys.")
_OF_EVERY_ENTRY = ("n", "at", "by", "event", "prev", "hash")


FINDINGS = 8
"""Exit status: something was found that is as bad as --fail-on says, or worse."""


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    fail_on: Annotated[str, typer.Option(metavar="SEVERITY", help="serious, warning, note or never.")] = "serious",
) -> int:
    """Review this installation: what is not sealed, not copied, not proved, or open to others, and what to do."""
    if context.invoked_subcommand is not None:
        return 0
    from transporter.clock import SystemClock
    from transporter.errors import UsageError
    from transporter.review.finding import Severity
    from transporter.review.review import review

    bounds = {severity.word: severity for severity in Severity}
    if fail_on not in (*bounds, "never"):
        raise UsageError(f"{fail_on!r} is no severity", "--fail-on serious, warning, note or never")
    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    found = review(home, config, SystemClock())
    for each in found:
        if terminal.json:
            terminal.object(each.public())
        elif terminal.quiet:
            terminal.result(f"{each.severity.word}\t{each.code}\t{each.subject}")
        else:
            terminal.result(f"{each.severity.word}: {each.subject}: {each.reason}\n    {each.remedy}  [{each.code}]")
    if not found:
        terminal.say("nothing was found")
    return FINDINGS if fail_on != "never" and any(each.severity >= bounds[fail_on] for each in found) else 0


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
        approvals = keys.prove_approvals()
    proved = f", {approvals} approvals" if approvals else ""
    terminal.result(f"the audit trail is whole: {count} entries{proved}", entries=count, approvals=approvals)
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

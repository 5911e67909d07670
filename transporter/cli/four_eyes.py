"""``transporter four-eyes``: what needs the approval of two operators at this node."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.terminal import Terminal

app = typer.Typer(name="four-eyes", help="What needs the approval of two operators here.", no_args_is_help=True)
Kinds = Annotated[list[str], typer.Argument(metavar="KIND...", help="password, keyset, encryption, force, recovery.")]


@app.command("show")
def show(context: typer.Context) -> int:
    """Show which kinds of operation need two operators."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import KINDS
    from transporter.keys.operator_table import required
    from transporter.link.identity import fingerprint_text

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        policy = keys.policy()
        on = required(policy)
        operators = [each.public.name for each in keys.operators()]
    node = fingerprint_text(policy.pin) if policy else None
    if terminal.json:
        terminal.object({"required": on, "operators": operators, "node_fingerprint": node})
    elif terminal.quiet:
        for kind in on:
            terminal.result(kind)
    else:
        rows = [[kind, "two operators" if kind in on else "one", what] for kind, what in KINDS.items()]
        rows.append(["operators", "two operators" if on else "one", "add or remove an operator, or change this"])
        terminal.table(["kind", "needs", "what"], rows)
        terminal.say(f"operators: {', '.join(operators) or 'none yet (transporter operator add)'}")
        if node:
            terminal.say(f"this node, for requests made elsewhere (--node): {node}")
    return 0


@app.command("require")
def require(context: typer.Context, kinds: Kinds, approval: ApprovalFile = "") -> int:
    """Have kinds of operation need two operators. Two must approve of that, too: so both surely have their keys."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        on = keys.require_approval(kinds)
        keys.note_zones({name: job.encrypt for name, job in config.jobs.items()})
    _tell(terminal, on)
    return 0


@app.command("stop")
def stop(context: typer.Context, kinds: Kinds, approval: ApprovalFile = "") -> int:
    """Have kinds of operation need two operators no more."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        on = keys.stop_requiring(kinds)
    _tell(terminal, on)
    return 0


def _tell(terminal: Terminal, on: list[str]) -> None:
    text = f"two operators are needed for: {', '.join(on)}" if on else "nothing needs two operators any more"
    terminal.result("\n".join(on) if terminal.quiet else text, required=on)

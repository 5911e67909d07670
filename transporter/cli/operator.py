"""``transporter operator``: who may sign approvals, and their key pairs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.asking import read_line
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

app = typer.Typer(name="operator", help="Who may sign approvals at this node.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="What people call the operator.")]
MAX_LINE = 1024
"""Bytes of a file with a public line, which has 80 to 300."""


@app.command("create")
def create(
    context: typer.Context,
    name: Name,
    key: Annotated[str, typer.Option("--key", metavar="FILE", help="Where the private half goes; a new file.")],
    passphrase_file: Annotated[
        str, typer.Option("--passphrase-file", metavar="FILE", help="Its pass phrase, one line; - for stdin.")
    ] = "",
) -> int:
    """Make an operator's key pair, on the operator's own machine, and print its public line for `operator add`."""
    from transporter.cli.keyset import read_pass_phrase
    from transporter.given_path import check_new_file
    from transporter.keys.operator_key import check_operator_name, generate_operator, seal_operator
    from transporter.keys.private_file import create_private

    terminal = Terminal.of(context)
    check_operator_name(name)
    path = Path(os.path.abspath(key))
    if os.path.lexists(path):
        raise _exists(path)
    check_new_file(path)
    pass_phrase = read_pass_phrase(passphrase_file, f"pass phrase of the key of {name}", twice=True)
    made = generate_operator(name)
    try:
        create_private(path, seal_operator(made, pass_phrase).encode())
    except FileExistsError:
        raise _exists(path) from None
    public = made.public
    terminal.result(public.line, operator=name, public=public.line, fingerprint=public.fingerprint, key=str(path))
    terminal.hint(f"fingerprint: {public.fingerprint}")
    terminal.hint("next: `operator add` at the node, which asks for this fingerprint; keep the key file off the node")
    return 0


@app.command("add")
def add(
    context: typer.Context,
    name: Name,
    public: Annotated[str, typer.Argument(metavar="LINE|FILE", help="What `operator create` printed; - for stdin.")],
    fingerprint: Annotated[str, typer.Option(help="As the operator sees it. Default: it is asked.")] = "",
    approval: ApprovalFile = "",
) -> int:
    """Let somebody sign approvals of this node."""
    from transporter.cli.keyset import read_file
    from transporter.clock import SystemClock
    from transporter.errors import DamagedData
    from transporter.keys.database import KeyDatabase
    from transporter.keys.operator_key import PublicOperator, read_public
    from transporter.link.identity import load_identity

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    text = (
        public if public.startswith("transporter-operator-") else read_file(public, MAX_LINE).decode("utf-8", "replace")
    )
    operator = PublicOperator(name, read_public(text).key)
    if not fingerprint:
        terminal.warn(f"this key has the fingerprint {operator.fingerprint}")
        fingerprint = read_line("the fingerprint that the operator sees", "give it with --fingerprint")
    if re.sub("[^0-9a-f]", "", fingerprint.lower()) != operator.id.hex():
        raise DamagedData(
            f"this key has another fingerprint: {operator.fingerprint}",
            "somebody may have exchanged it: get it from the operator by another way",
        )
    identity = load_identity(home.path, config.node.name, SystemClock())
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.add_operator(operator, identity.pin)
    shown = name if terminal.quiet else f"{name!r} may sign approvals here, {operator.fingerprint}"
    terminal.result(shown, operator=name, fingerprint=operator.fingerprint)
    terminal.hint("with two or more of them: transporter four-eyes require KIND…")
    return 0


@app.command("list")
def list_operators(context: typer.Context) -> int:
    """List who may sign."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        infos = keys.operators()
    rows = []
    for info in infos:
        public, since = info.public, show_time(info.added_ns)
        if terminal.json:
            terminal.object({"operator": public.name, "fingerprint": public.fingerprint, "since": since})
        elif terminal.quiet:
            terminal.result(public.name)
        else:
            rows.append([public.name, public.fingerprint, since])
    if rows:
        terminal.table(["operator", "fingerprint", "since"], rows)
    elif not infos:
        terminal.hint("there are no operators: `operator create` on their machines, then `operator add` here")
    return 0


@app.command("remove")
def remove(context: typer.Context, name: Name, approval: ApprovalFile = "") -> int:
    """Let somebody sign no more; what was signed and is not used yet is worth nothing from now on."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.remove_operator(name)
    terminal.result(name if terminal.quiet else f"{name!r} signs no more", operator=name)
    return 0


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} is there already", "choose another file: a key that is overwritten is lost")

"""``transporter kms``: the key management services of this home."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.terminal import Terminal

app = typer.Typer(name="kms", help="The key management services of this home.", no_args_is_help=True)


@app.command("list")
def list_services(context: typer.Context) -> int:
    """List the services of config.toml, and what they open; nobody is asked."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        uses = keys.kms_uses()
    rows = []
    for name in sorted(config.kms):
        service, used = config.kms[name], uses.get(name, [])
        if terminal.json:
            terminal.object({"kms": name, "kind": service.kind, "key": service.key, "used_by": used})
        elif terminal.quiet:
            terminal.result(name)
        else:
            rows.append([name, service.kind, service.key, ", ".join(used) or "–"])
    if rows:
        terminal.table(["service", "kind", "key", "opens"], rows)
    elif not config.kms:
        terminal.hint("there are none: add [kms.NAME] to config.toml; the handbook shows one of each kind")
    for name in sorted(set(uses) - set(config.kms)):
        terminal.warn(f"{', '.join(uses[name])} needs [kms.{name}], which config.toml does not have")
    return 0


@app.command("check")
def check(context: typer.Context, name: Annotated[str, typer.Argument(help="As in [kms.NAME].")]) -> int:
    """Ask a service to wrap and unwrap a key that is thrown away: credentials, account, key, rights and network."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.derive import KEY_LENGTH
    from transporter.keys.secret import SYSTEM

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        key = keys.kms.key(name)
        keys.kms.wrap(name, SYSTEM.random_bytes(KEY_LENGTH), {"transporter-purpose": "check"}, prove=True)
    text = name if terminal.quiet else f"[kms.{name}] wraps and unwraps with {key.reference}"
    terminal.result(text, kms=name, key=key.reference)
    return 0


@app.command("apply")
def apply(context: typer.Context, name: Annotated[str, typer.Argument(help="As in [kms.NAME].")]) -> int:
    """Have a service open restore points that are there already, too: each gets a slot of its key."""
    from transporter.cli.job_runner import run_request
    from transporter.daemon.requests import ApplyKmsRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    outcome = run_request(terminal, home, ApplyKmsRequest(kms=name))
    if outcome.exit_status == 0:
        done = outcome.result
        terminal.result(f"{done['slots_added']:,} slots added to {done['points']:,} restore points", **done)
    return outcome.exit_status

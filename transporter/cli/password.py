"""``transporter password``: the passwords this home holds the hash of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.asking import read_password
from transporter.cli.terminal import Terminal

app = typer.Typer(name="password", help="The passwords of this home.", no_args_is_help=True)


@app.command("add")
def add_password(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What jobs call it.")],
    from_file: Annotated[
        str, typer.Option(metavar="FILE", help="Read it from a file (one line), or - for stdin.")
    ] = "",
    from_env: Annotated[str, typer.Option(metavar="NAME", help="Read it from an environment variable.")] = "",
    hint: Annotated[str, typer.Option(help="A reminder for whoever must type it one day. Stored in clear.")] = "",
) -> int:
    """Keep a password's hash, so that no one types it again. Keep the password itself somewhere safe."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        password = read_password(
            file=Path(from_file) if from_file else None, env=from_env, ask=f"password {name}", twice=True
        )
        keys.add_password(name, password, hint)
    terminal.result(name if terminal.quiet else f"the password {name!r} is kept as a hash", password_name=name)
    terminal.hint("write the password down where this machine's loss cannot reach it: without it the copies are lost")
    return 0


@app.command("list")
def list_passwords(context: typer.Context) -> int:
    """List the passwords by name, with the jobs and repositories that use each."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        infos = keys.list()
    rows = []
    for info in infos:
        jobs = [name for name, job in config.jobs.items() if job.encrypt == "source" and job.password == info.name]
        stores = [name for name, store in config.repositories.items() if store.encrypt_at_rest == info.name]
        if terminal.json:
            terminal.object(
                {
                    "password_name": info.name,
                    "hint": info.hint,
                    "created": show_time(info.created_ns),
                    "jobs": jobs,
                    "repositories": stores,
                }
            )
        elif terminal.quiet:
            terminal.result(info.name)
        else:
            rows.append([info.name, show_time(info.created_ns), ", ".join(jobs + stores) or "–", info.hint])
    if rows:
        terminal.table(["password", "since", "used by", "hint"], rows)
    elif not infos:
        terminal.hint("there are no passwords yet: transporter password add NAME")
    return 0

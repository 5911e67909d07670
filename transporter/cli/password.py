"""``transporter password``: the passwords this home holds the hash of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.asking import read_password
from transporter.cli.password_change import change, remove, rotate, sealed_for_tenants, use_in_config
from transporter.cli.password_recover import recover
from transporter.cli.refusals import refuse_escrow
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
    kms: Annotated[
        str, typer.Option(metavar="NAME", help="Have [kms.NAME] lock the hash, and open every point made with it.")
    ] = "",
    approval: ApprovalFile = "",
) -> int:
    """Keep a password's hash, so that no one types it again. Keep the password itself somewhere safe."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.password_table import deed_of_new

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    refuse_escrow(home)
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.check_approved(deed_of_new(name))
        if kms:
            keys.kms.key(kms)  # before anybody types anything
        password = read_password(
            file=Path(from_file) if from_file else None, env=from_env, ask=f"password {name}", twice=True
        )
        keys.add_password(name, password, hint, kms)
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
        theirs = {info.name: sealed_for_tenants(keys, info.name) for info in infos}
    rows = []
    for info in infos:
        used, sealed = use_in_config(config, info.name), theirs[info.name]
        if terminal.json:
            terminal.object(
                {
                    "password_name": info.name,
                    "hint": info.hint,
                    "created": show_time(info.created_ns),
                    "changed": show_time(info.changed_ns) if info.changed_ns else None,
                    "jobs": used.jobs,
                    "repositories": used.repositories,
                    "copies": used.copies,
                    "sealed_for": sealed,
                    "kms": info.kms,
                }
            )
        elif terminal.quiet:
            terminal.result(info.name)
        else:
            uses = ", ".join(words for words in (str(used), *sealed) if words)
            rows.append([info.name, show_time(info.changed_ns or info.created_ns), uses or "–", info.hint])
    if rows:
        terminal.table(["password", "since", "used by", "hint"], rows)
    elif not infos:
        terminal.hint("there are no passwords yet: transporter password add NAME")
    return 0


@app.command("show")
def show_password(context: typer.Context, name: Annotated[str, typer.Argument(help="What jobs call it.")]) -> int:
    """Show what is known of a password, and what hangs on it; never the password, which is not here."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        use = keys.use_of(name)
        info = next(info for info in keys.list() if info.name == name)
        unfinished = keys.count_unfinished(name)
        sealed = sealed_for_tenants(keys, name)
    used = use_in_config(config, name)
    price = info.params
    facts = {
        "password_name": name,
        "hint": info.hint,
        "created": show_time(info.created_ns),
        "changed": show_time(info.changed_ns) if info.changed_ns else None,
        "jobs": used.jobs,
        "repositories": used.repositories,
        "copies": used.copies,
        "sealed_for": sealed,
        "kms": info.kms,
        "points": use.points,
        "points_when_recovered": use.recovered,
        "interrupted_runs": use.runs,
        "argon2id": {"memory_kib": price.memory_kib, "iterations": price.iterations, "lanes": price.lanes},
        "unfinished_changes": unfinished,
    }
    if terminal.json:
        terminal.object(facts)
        return 0
    lines = {
        "since": info.created_ns and show_time(info.created_ns),
        "changed": show_time(info.changed_ns) if info.changed_ns else "never",
        "hint": info.hint or "–",
        "jobs": ", ".join(used.jobs) or "–",
        "repositories": ", ".join(used.repositories) or "–",
        "copies": ", ".join(used.copies) or "–",
        "sealed for": ", ".join(sealed) or "–",
        "locked by": f"[kms.{info.kms}]" if info.kms else "the master key",
        "points": f"{use.points:,} whose storage key is kept here"
        + (f"; {use.recovered:,} when it was recovered" if use.recovered else ""),
        "argon2id": f"{price.memory_kib // 1024} MiB, {price.iterations} passes, {price.lanes} lanes",
    }
    terminal.table([name, ""], [[key, str(value)] for key, value in lines.items()])
    if unfinished:
        terminal.warn(f"its last change is not finished: transporter password change {name} --resume")
    return 0


@app.command("kms")
def lock_by(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What jobs call it.")],
    service: Annotated[str, typer.Argument(help="As in [kms.NAME]; or none.")],
    approval: ApprovalFile = "",
) -> int:
    """Have a service lock a password that is kept already, another one, or (none) the master key alone.

    Both services must answer. Points made from now on get the new one's slot; those that are there keep what they have.
    """
    from transporter.keys.database import KeyDatabase
    from transporter.keys.password_table import NO_SERVICE

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        key = keys.set_password_kms(name, "" if service == NO_SERVICE else service)
    lock = f"[kms.{key.kms}]" if key.kms else "the master key alone"
    terminal.result(name if terminal.quiet else f"the password {name!r} is locked by {lock}", kms=key.kms)
    if key.kms:
        terminal.hint("points that are there already: transporter kms apply")
    return 0


app.command("change")(change)
app.command("rotate")(rotate)
app.command("remove")(remove)
app.command("recover")(recover)

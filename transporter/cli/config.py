"""``transporter config``: everything that makes this node, in one file, for the day it burns down."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.approved import ApprovalFile, read_approval_file
from transporter.cli.asking import TRIES, read_password
from transporter.cli.terminal import Terminal
from transporter.errors import WrongPassword

if TYPE_CHECKING:
    from transporter.bundle.importing import Imported
    from transporter.bundle.manifest import Manifest
    from transporter.bundle.reading import Bundle, OpenBundle

app = typer.Typer(
    name="config", help="This node as one file under a password of its own: a bundle.", no_args_is_help=True
)
File = Annotated[str, typer.Argument(metavar="FILE", help="The bundle.")]
PasswordFile = Annotated[
    str, typer.Option("--password-file", metavar="FILE", help="The bundle's password, one line; - for stdin.")
]
PasswordEnv = Annotated[
    str, typer.Option("--password-env", metavar="NAME", help="Read it from an environment variable.")
]


@app.command("export")
def export(
    context: typer.Context,
    file: File,
    password_file: PasswordFile = "",
    password_env: PasswordEnv = "",
    with_keysets: Annotated[
        bool, typer.Option("--with-keysets", help="Also the private halves of keysets, at an escrow.")
    ] = False,
    approval: ApprovalFile = "",
) -> int:
    """Write configuration, identity, keys, peers and history of this node to a new file. The daemon may run."""
    from transporter.bundle.export import export_bundle
    from transporter.clock import SystemClock
    from transporter.given_path import check_new_file

    terminal = Terminal.of(context)
    home = terminal.home()
    signed = read_approval_file(approval) if approval else ""
    if with_keysets:
        _check_approved(terminal, signed)
    path = Path(file).expanduser().absolute()
    if not os.path.lexists(path):  # one that is there is refused by its name
        check_new_file(path)
    password = _password(password_file, password_env, "password of the bundle", twice=True)
    done = export_bundle(home, path, password, with_keysets=with_keysets, clock=SystemClock(), approval=signed)
    facts = _facts(done.manifest)
    terminal.result(
        str(path) if terminal.quiet else f"wrote {path}: the whole of {done.manifest.node!r}, {done.length:,} bytes",
        file=str(path),
        bytes=done.length,
        bundle=done.bundle_id.hex(),
        **facts,
    )
    if path.is_relative_to(home.path):
        terminal.warn(f"{path} lies in the home itself, and would be lost with it: copy it somewhere else")
    if done.manifest.left_out:
        terminal.hint(f"not in it: private halves of keysets ({', '.join(done.manifest.left_out)}); --with-keysets")
    terminal.hint("keep its password apart from it; data of repositories is not in it")
    return 0


def _check_approved(terminal: Terminal, signed: str) -> None:
    """Ask before anybody types a password. Raises NeedsApproval, RefusedByPeer."""
    from transporter.bundle.export import giving_out_keysets
    from transporter.keys.database import KeyDatabase

    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        if signed:
            keys.present(signed)
        keys.check_approved(giving_out_keysets(config))


@app.command("show")
def show(context: typer.Context, file: File, password_file: PasswordFile = "", password_env: PasswordEnv = "") -> int:
    """Say of which node a bundle is, from when, and what is in it; every byte of it is proved."""
    from transporter.bundle.reading import open_bundle

    terminal = Terminal.of(context)
    with open_bundle(Path(file).expanduser()) as bundle:
        opened = _unlocked(terminal, bundle, password_file, password_env)
        opened.prove()
    facts = _facts(opened.manifest)
    if terminal.json:
        terminal.object({"bundle": opened.bundle_id.hex(), **facts})
    elif terminal.quiet:
        terminal.result(opened.manifest.node)
    else:
        terminal.result(f"the bundle is whole\n{_described(facts)}")
    return 0


@app.command("import")
def import_bundle_command(
    context: typer.Context,
    file: File,
    password_file: PasswordFile = "",
    password_env: PasswordEnv = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the home that is there aside, under a dated name.")
    ] = False,
) -> int:
    """Make the home of a node again from a bundle: all of it, or nothing. The home must be empty or not be there."""
    from transporter.bundle.importing import check_import, import_bundle
    from transporter.bundle.reading import open_bundle
    from transporter.clock import SystemClock
    from transporter.home import default_home

    terminal = Terminal.of(context)
    path = terminal.home_path or default_home()
    with open_bundle(Path(file).expanduser()) as bundle:
        check_import(path, replace=replace)
        opened = _unlocked(terminal, bundle, password_file, password_env)
        done = import_bundle(opened, path, replace=replace, clock=SystemClock())
    _report(terminal, done)
    return 0


def _report(terminal: Terminal, done: Imported) -> None:
    facts = _facts(done.manifest)
    missing = {name: str(path) for name, path in done.missing.items()}
    terminal.result(
        str(done.home)
        if terminal.quiet
        else f"made the home of {done.manifest.node!r} in {done.home}\n{_described(facts)}",
        home=str(done.home),
        aside=str(done.aside) if done.aside else "",
        missing_repositories=missing,
        missing_files=done.files,
        **facts,
    )
    terminal.warn(
        f"this is {done.manifest.node!r} itself, as of {facts['created']}: the old one must never run again beside it"
    )
    terminal.warn("what was changed or revoked since then is not: look at `peer list` and `password list`")
    for name, where in missing.items():
        terminal.warn(f"the data of repository {name!r} is not here: put {where} back before `serve`")
    for name in done.files:
        terminal.warn(f"{name}, which config.toml names, is not here")
    if done.aside:
        terminal.hint(f"what was there lies in {done.aside}; its repositories, too")
    if done.manifest.left_out:
        terminal.hint(f"import private halves again: {', '.join(done.manifest.left_out)} (`keyset import`)")
    terminal.hint("next: `check-config`, then `run` or `serve`; the first run of each job reads every file again")


def _unlocked(terminal: Terminal, bundle: Bundle, file: str, env: str) -> OpenBundle:
    """Return the bundle's contents; a person may try three times. Raises WrongPassword."""
    return _tried(
        terminal,
        lambda: bundle.unlock(_password(file, env, "password of the bundle", twice=False)),
        1 if file or env else TRIES,
    )


def _tried(terminal: Terminal, unlock: Callable[[], OpenBundle], tries: int) -> OpenBundle:
    for left in reversed(range(tries)):
        try:
            return unlock()
        except WrongPassword as error:
            if not left:
                raise
            terminal.warn(error.what)
    raise AssertionError("unreachable")


def _password(file: str, env: str, ask: str, *, twice: bool) -> bytes:
    options = ("--password-file", "--password-env")
    return read_password(file=Path(file) if file else None, env=env, ask=ask, twice=twice, options=options)


def _facts(manifest: Manifest) -> dict[str, Any]:
    from transporter.cli.job import show_time
    from transporter.link.identity import fingerprint_text

    return {
        "node": manifest.node,
        "fingerprint": fingerprint_text(manifest.pin),
        "created": show_time(manifest.created_ns),
        "program": manifest.program,
        "jobs": manifest.jobs,
        "peers": manifest.peers,
        "passwords": manifest.passwords,
        "repositories": manifest.repositories,
        "private_keysets": manifest.private_keysets,
        "left_out": manifest.left_out,
        "members": {member.name: member.length for member in manifest.members},
    }


def _described(facts: dict[str, Any]) -> str:
    repositories = ", ".join(f"{name} ({path or 'in the home'})" for name, path in facts["repositories"].items())
    rows = {
        "node": f"{facts['node']}, {facts['fingerprint']}",
        "exported": f"{facts['created']} by its clock, version {facts['program']}",
        "in it": f"{facts['jobs']} jobs, {facts['peers']} peers, {facts['passwords']} passwords",
        "keysets": ", ".join(facts["private_keysets"]) or "no private halves",
        "repositories": f"{repositories} (their data is not in it)" if repositories else "none",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())

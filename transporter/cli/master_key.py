"""``transporter keys master-key``: what locks the key database of this home."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, JobBusy, UsageError

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.home import Home

app = typer.Typer(name="master-key", help="What locks the key database of this home.", no_args_is_help=True)


@app.command("show")
def show(context: typer.Context) -> int:
    """Say where the master key lies, and whether a former one was left behind."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        lock, left = keys.lock(), keys.pending()
    terminal.result(lock.text(), master=lock.text(), left_behind=left.text() if left is not None else None)
    if left is not None:
        terminal.warn("a former master key may still lie where it was: transporter keys master-key clean")
    if config.keys.master != lock.text():
        terminal.warn(f"config.toml says {config.keys.master!r}; `keys master-key set` moves it and writes it there")
    return 0


@app.command("set")
def set_master(
    context: typer.Context,
    where: Annotated[str, typer.Argument(help="file, credential[:NAME], keyring, passphrase or kms:NAME.")],
    approval: ApprovalFile = "",
) -> int:
    """Lock the key database another way, under a new master key; the old one is destroyed last.

    The daemon must not run. A new pass phrase is asked for twice, or read from where `serve` would read it.
    """
    from transporter.config_edit import put_master
    from transporter.keys.database import KeyDatabase
    from transporter.keys.pass_phrase import PASS_PHRASES
    from transporter.kms_config import master_problem

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    wrong = master_problem(where, config.kms)
    if wrong:
        raise UsageError(*wrong)
    _refuse_beside_a_daemon(home)
    with KeyDatabase(home.keys_db) as keys:
        if keys.lock().kind == "passphrase" and where == "passphrase" and PASS_PHRASES.given() is not None:
            raise UsageError(
                "a pass phrase from a file cannot be both the old one and the new one",
                "change it at a terminal, or by way of another place",
            )
        present(keys, approval)
        lock = keys.move_master(where)
    put_master(home.config_path, where)
    terminal.result(where if terminal.quiet else f"the key database is locked by: {lock.text()}", master=lock.text())
    _tell_what_next(terminal, lock.kind)
    return 0


@app.command("clean")
def clean(context: typer.Context) -> int:
    """Remove what an interrupted `set` left behind."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        left = keys.clean_master()
        _write_down(home, config, keys.lock().text())
    terminal.result(
        f"removed what lay in: {left.text()}" if left is not None else "there is nothing to remove",
        removed=left.text() if left is not None else None,
    )
    return 0


@app.command("make")
def make(context: typer.Context) -> int:
    """Print a new master key, for `systemd-creds encrypt`: the only time that one is shown. Needs no home."""
    from transporter.keys.master_key import MasterKey, master_key_line

    terminal = Terminal.of(context)
    if os.isatty(1):
        raise UsageError(
            "a key does not belong on a screen",
            "pipe it: transporter keys master-key make | systemd-creds encrypt --name=transporter-master-key - FILE",
        )
    terminal.raw(master_key_line(MasterKey.generate()))
    return 0


def _tell_what_next(terminal: Terminal, kind: str) -> None:
    hints = {
        "file": "keep a copy of master.key apart from copies of the home",
        "credential": "the unit needs LoadCredentialEncrypted; without that credential nothing here opens",
        "keyring": "only this user's session opens it from now on; a daemon needs that session, too",
        "passphrase": "without it nothing here opens: write it down where this machine's loss cannot reach it",
        "kms": "without the service nothing here opens; points still open by their passwords",
    }
    terminal.hint(hints[kind])


def _write_down(home: Home, config: Config, master: str) -> None:
    from transporter.config_edit import put_master

    if config.keys.master != master:
        try:
            put_master(home.config_path, master)
        except ConfigError:
            pass  # a service that config.toml no longer has: `show` says so


def _refuse_beside_a_daemon(home: Home) -> None:
    handle = os.open(home.daemon_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobBusy(
            "the daemon of this home runs, and holds the old master key", "stop it first, and start it again afterwards"
        ) from None
    finally:
        os.close(handle)

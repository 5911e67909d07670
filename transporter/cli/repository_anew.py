"""``transporter repository make-anew``: an empty repository in the place of one whose disk is gone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.terminal import Terminal
from transporter.errors import JobBusy, UsageError

if TYPE_CHECKING:
    from transporter.home import Home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("make-anew")(make_anew)


def make_anew(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A repository of this home whose disk is gone for good.")],
    path: Annotated[str, typer.Option(metavar="DIR", help="Where it is to lie now. Default: where it lay.")] = "",
) -> int:
    """Make an empty repository in the place of one that is gone, with the settings and the tenants that it had.

    Is its disk only not mounted? Then mount it, and start the daemon anew. A disk that came back: `repository add`.
    """
    from msgspec import structs

    from transporter.clock import SystemClock
    from transporter.config_edit import put_repository
    from transporter.given_path import check_new_folder
    from transporter.keys.database import KeyDatabase
    from transporter.repository import Repository

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    before = home.repository_path(name, settings.path)
    place = Path(os.path.abspath(path)) if path else before
    for folder in {before, place}:
        if (folder / "format").exists():
            raise UsageError(
                f"there is a repository in {folder}: nothing has to be made anew",
                f"prove it instead: transporter scrub {name}",
            )
    check_new_folder(place)
    _refuse_beside_a_daemon(home)
    quota = None if settings.quota is None else int(settings.quota)
    with KeyDatabase(home.keys_db) as keys:
        if settings.encrypt_at_rest:
            keys.user_key(settings.encrypt_at_rest)
        Repository.create(place, quota=quota, clock=SystemClock(), encrypted=bool(settings.encrypt_at_rest)).close()
        if path:
            put_repository(home.config_path, name, structs.replace(settings, path=str(place)))
        keys.record("repository.make-anew", repository=name, path=str(place))
    terminal.result(
        name if terminal.quiet else f"made the repository {name!r} anew, empty, in {place}",
        repository=name,
        path=str(place),
    )
    terminal.hint(
        "next: `transporter serve`; at each node that backs up here: `transporter run JOB`, then `transporter copy JOB "
        "--from COPY --to …` where there is a copy, else `transporter points --job JOB --accept`"
    )
    return 0


def _refuse_beside_a_daemon(home: Home) -> None:
    """A daemon has the old repository open, though its files are gone, and would go on writing into the new one."""
    handle = os.open(home.daemon_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JobBusy("the daemon of this home runs", "stop it first, and start it again afterwards") from None
    finally:
        os.close(handle)

"""``transporter repository``: the repositories of this home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, DamagedData, UsageError
from transporter.quantities import show_size

if TYPE_CHECKING:
    from transporter.config import RepositoryConfig

app = typer.Typer(name="repository", help="The repositories of this home.", no_args_is_help=True)


@app.command("add")
def add_repository(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What peers call it.")],
    path: Annotated[str, typer.Option(metavar="DIR", help="Where it lies. Default: inside the home.")] = "",
    encrypt_at_rest: Annotated[
        str, typer.Option(metavar="PASSWORD_NAME", help="Seal what arrives unsealed under this password of this home.")
    ] = "",
    quota: Annotated[str, typer.Option(metavar="SIZE", help="What one tenant may store at most, e.g. 2TiB.")] = "",
) -> int:
    """Make a repository and add it to the configuration."""
    from transporter.config import NAME, NAME_REMEDY, RepositoryConfig
    from transporter.config_edit import put_repository
    from transporter.keys.database import KeyDatabase
    from transporter.quantities import parse_size

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if not NAME.match(name):
        raise UsageError(f"{name!r} is not a usable name", NAME_REMEDY)
    if name in config.repositories:
        raise ConfigError(f"there is a repository {name!r} already", "choose another name")
    try:
        limit = parse_size(quota) if quota else None
    except ValueError as error:
        raise UsageError(f"--quota: {error}") from None
    if encrypt_at_rest:
        with KeyDatabase(home.keys_db) as keys:
            keys.user_key(encrypt_at_rest)
    settings = RepositoryConfig(
        path=os.path.abspath(path) if path else "", quota=limit, encrypt_at_rest=encrypt_at_rest
    )
    place = Path(settings.path) if settings.path else home.repository_path(name)
    made = _make_or_adopt(place, settings)
    put_repository(home.config_path, name, settings)
    terminal.result(
        name if terminal.quiet else f"{'made' if made else 'took up'} the repository {name!r} in {place}",
        repository=name,
        path=str(place),
    )
    terminal.hint(f"next: start the daemon anew (`transporter serve`), then `transporter invite --repository {name}`")
    return 0


@app.command("list")
def list_repositories(context: typer.Context) -> int:
    """List the repositories."""
    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    rows = []
    for name, settings in config.repositories.items():
        path = settings.path or str(home.repository_path(name))
        if terminal.json:
            terminal.object(
                {
                    "repository": name,
                    "path": path,
                    "quota": settings.quota,
                    "encrypt_at_rest": settings.encrypt_at_rest,
                }
            )
        elif terminal.quiet:
            terminal.result(name)
        else:
            rows.append([name, path, show_size(settings.quota) if settings.quota else "–", _at_rest(settings)])
    if rows:
        terminal.table(["repository", "path", "quota", "at rest"], rows)
    elif not config.repositories:
        terminal.hint("there are no repositories yet: transporter repository add NAME")
    return 0


@app.command("rebuild-index")
def rebuild_index(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A repository of this home.")]
) -> int:
    """Make the index anew from the packs; the daemon must not be running."""
    from transporter.clock import SystemClock
    from transporter.repository import Repository, RepositoryBusy

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    place = Path(settings.path) if settings.path else home.repository_path(name)
    try:
        with Repository.open(place, SystemClock()) as repository:
            report = repository.rebuild_index()
    except RepositoryBusy:
        raise RepositoryBusy(f"the repository {name!r} is in use", "stop the daemon first, then try again") from None
    fields = {"packs": report.added, "damaged": report.damaged}
    terminal.result(f"made the index of {name!r} anew: {report.added:,} packs", repository=name, **fields)
    if report.damaged:
        raise DamagedData(f"{report.damaged} packs could not be read", f"find out more: transporter scrub {name}")
    return 0


def _make_or_adopt(place: Path, settings: RepositoryConfig) -> bool:
    """Make a repository, or take up one that lies there (as after the loss of a home); return whether it was made."""
    from transporter.clock import SystemClock
    from transporter.repository import Repository, RepositoryExists

    encrypted = bool(settings.encrypt_at_rest)
    quota = None if settings.quota is None else int(settings.quota)
    try:
        Repository.create(place, quota=quota, clock=SystemClock(), encrypted=encrypted).close()
    except RepositoryExists:
        if not (place / "format").exists():
            raise
    else:
        return True
    with Repository.open(place, SystemClock()) as repository:
        if repository.encrypted != encrypted:
            state = "sealed at rest" if repository.encrypted else "not sealed at rest"
            raise ConfigError(f"the repository in {place} is {state}", "say so: --encrypt-at-rest PASSWORD_NAME")
        repository.set_quota(quota)
    return False


def _at_rest(settings: RepositoryConfig) -> str:
    return f"sealed under {settings.encrypt_at_rest}" if settings.encrypt_at_rest else "as received"

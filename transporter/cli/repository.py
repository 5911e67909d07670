"""``transporter repository``: the repositories of this home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli import repository_anew
from transporter.cli.approved import ApprovalFile, present
from transporter.cli.refusals import refuse_escrow
from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, DamagedData, UsageError
from transporter.quantities import show_size

if TYPE_CHECKING:
    from transporter.config import RepositoryConfig
    from transporter.quantities import Duration

app = typer.Typer(name="repository", help="The repositories of this home.", no_args_is_help=True)
repository_anew.register(app)


@app.command("add")
def add_repository(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What peers call it.")],
    path: Annotated[str, typer.Option(metavar="DIR", help="Where it lies. Default: inside the home.")] = "",
    encrypt_at_rest: Annotated[
        str, typer.Option(metavar="PASSWORD_NAME", help="Seal what arrives unsealed under this password of this home.")
    ] = "",
    quota: Annotated[str, typer.Option(metavar="SIZE", help="What one tenant may store at most, e.g. 2TiB.")] = "",
    immutable: Annotated[
        str, typer.Option(metavar="SPAN", help="So long nobody removes a new point, not even this node.")
    ] = "",
    recycle: Annotated[str, typer.Option(metavar="SPAN", help="So long a removed point can be brought back.")] = "",
    keep_at_least: Annotated[str, typer.Option(metavar="SPAN", help="So long no tenant removes a point.")] = "",
) -> int:
    """Make a repository and add it to the configuration."""
    from transporter.config import NAME, NAME_REMEDY, RepositoryConfig
    from transporter.config_edit import put_repository
    from transporter.given_path import check_new_folder
    from transporter.keys.database import KeyDatabase
    from transporter.quantities import parse_size

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    refuse_escrow(home)
    if not NAME.match(name):
        raise UsageError(f"{name!r} is not a usable name", NAME_REMEDY)
    if name in config.repositories:
        raise ConfigError(
            f"there is a repository {name!r} already",
            f"choose another name; if its disk is gone for good: transporter repository make-anew {name}",
        )
    try:
        limit = parse_size(quota) if quota else None
    except ValueError as error:
        raise UsageError(f"--quota: {error}") from None
    if encrypt_at_rest:
        with KeyDatabase(home.keys_db) as keys:
            keys.user_key(encrypt_at_rest)
    settings = RepositoryConfig(
        path=os.path.abspath(path) if path else "",
        quota=limit,
        encrypt_at_rest=encrypt_at_rest,
        immutable=_span("--immutable", immutable),
        recycle=_span("--recycle", recycle),
        keep_at_least=_span("--keep-at-least", keep_at_least),
    )
    place = home.repository_path(name, settings.path)
    check_new_folder(place)
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
            rows.append([name, path, "–" if settings.quota is None else show_size(settings.quota), _at_rest(settings)])
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
    place = home.repository_path(name, settings.path)
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


@app.command("accept-clock")
def accept_clock(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A repository of this home.")],
    approval: ApprovalFile = "",
) -> int:
    """Confirm that this machine's clock is right, where it jumped too far for anything to be deleted by it.

    Look at it first: a clock that somebody put ahead would open locks before their date.
    """
    from transporter.clock import SystemClock
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import deed
    from transporter.repository import Repository
    from transporter.retention import show_moment

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    place = home.repository_path(name, settings.path)
    clock = SystemClock()
    with Repository.open(place, clock, writable=False) as repository, KeyDatabase(home.keys_db) as keys:
        before = repository.keeping.clock.now_ns()
        present(keys, approval)
        facts = {"repository": name, "before": show_moment(before), "after": show_moment(clock.now_ns())}
        with keys.approved(deed("repository.accept-clock", name), "repository.accept-clock", **facts):
            now = repository.keeping.clock.accept()
    terminal.result(f"the time of {name!r} is {show_moment(now)} now, it was {show_moment(before)}", repository=name)
    return 0


def _span(option: str, text: str) -> Duration:
    from transporter.quantities import Duration, parse_duration

    try:
        return parse_duration(text) if text else Duration(0)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


@app.command("show")
def show_repository(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A repository of this home.")]
) -> int:
    """Show how much a repository holds: logical and stored, by tenant and by job. Runs beside the daemon."""
    from transporter.cli.repository_show import facts, show
    from transporter.clock import SystemClock
    from transporter.repository import Repository

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    place = home.repository_path(name, settings.path)
    with Repository.open(place, SystemClock(), writable=False) as store:
        found = facts(name, place, settings, store)
    if terminal.json:
        terminal.object(found)
    else:
        show(terminal, found)
    return 0


@app.command("upgrade")
def upgrade_repository(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A repository of this home.")]
) -> int:
    """Bring a repository of an older format up to date; the daemon must not be running."""
    from transporter.repository import RepositoryBusy
    from transporter.repository.upgrade import upgrade

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    place = home.repository_path(name, settings.path)
    try:
        before, now = upgrade(place)
    except RepositoryBusy:
        raise RepositoryBusy(f"the repository {name!r} is in use", "stop the daemon first, then try again") from None
    text = f"is of format version {now}" + ("" if before != now else ", the newest")
    terminal.result(f"{name!r} {text}", repository=name, before=before, version=now)
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

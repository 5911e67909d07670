"""``transporter backup``: run a job, and define it first when it is new."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import ApprovalFile, apply_for_job
from transporter.cli.job_runner import run_request
from transporter.cli.refusals import refuse_escrow
from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, RefusedByPeer, UnknownPassword, UsageError

if TYPE_CHECKING:
    from transporter.config import Config, JobConfig
    from transporter.home import Home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(backup)


def backup(
    context: typer.Context,
    job: Annotated[str, typer.Option(help="The job's name. A new name defines the job in the configuration.")],
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Folders, files, one image, or - for stdin.")
    ] = None,
    to: Annotated[str, typer.Option(metavar="PEER/REPOSITORY", help="Where the copy goes.")] = "",
    encrypt: Annotated[
        str, typer.Option(metavar="source|target|none", help="Who seals the data. Default for new jobs: source.")
    ] = "",
    password: Annotated[
        str, typer.Option(metavar="NAME", help="A password of this home (source) or of the peer's (target).")
    ] = "",
    workload: Annotated[str, typer.Option("--as", metavar="tree|image|stream", help="What the path is.")] = "",
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not these. Repeatable.")] = None,
    stdin_name: Annotated[str, typer.Option(metavar="NAME", help="What the data from stdin is called.")] = "",
    compression: Annotated[
        str, typer.Option(metavar="adaptive|lz4|zstd", help="Default: adaptive, as the line wants it.")
    ] = "",
    network_acceleration: Annotated[
        bool,
        typer.Option("--network-acceleration", help="Share chunks with other such jobs. Only with --encrypt none."),
    ] = False,
    approval: ApprovalFile = "",
) -> int:
    """Copy paths to a repository at another node.

    The first run copies everything, each later one what has changed.
    """
    from transporter.config import load_config
    from transporter.daemon.requests import BackupRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    refuse_escrow(home)
    given: dict[str, object] = {
        "to": to,
        "encrypt": encrypt,
        "password": password,
        "paths": [absolute_path(path) for path in paths or []],
        "workload": workload,
        "exclude": exclude or [],
        "stdin_name": stdin_name,
        "compression": compression,
        "network_acceleration": network_acceleration,
    }
    given = {name: value for name, value in given.items() if value}
    if job in config.jobs:
        _must_agree(job, config.jobs[job], given)
    else:
        _define(home, config, job, given)
    if approval:
        apply_for_job(home, job, load_config(home.config_path).job(job).encrypt, approval)
    return run_request(terminal, home, BackupRequest(job=job)).exit_status


def absolute_path(path: str) -> str:
    """Return a path that means the same in the daemon; ``-`` is stdin. Links are kept as typed."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{path!r} is not UTF-8", "name a folder above it; names inside it may be anything") from None
    return path if path == "-" else os.path.abspath(path)


def _must_agree(name: str, job: JobConfig, given: dict[str, object]) -> None:
    """Refuse options that contradict the job: a copy must not change its zone or its paths by a slip of the hand."""
    for field, value in given.items():
        if getattr(job, field) != value:
            shown = {"workload": "--as", "paths": "PATH"}.get(field, f"--{field.replace('_', '-')}")
            raise UsageError(
                f"job {name!r} has another setting: {shown} is {_show(getattr(job, field))}, not {_show(value)}",
                "leave the option out, edit config.toml, or choose another --job",
            )


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(str(one) for one in value) if isinstance(value, list) else str(value or "not set")


def _define(home: Home, config: Config, name: str, given: dict[str, object]) -> None:
    import msgspec

    from transporter.config import NAME, NAME_REMEDY, JobConfig, job_problem
    from transporter.config_edit import put_job

    if not NAME.match(name):
        raise UsageError(f"--job {name!r} is not a usable name", NAME_REMEDY)
    if "to" not in given or "paths" not in given:
        lacks = "--to PEER/REPOSITORY" if "to" not in given else "PATH"
        known = f"the jobs are: {', '.join(config.jobs)}" if config.jobs else "there are no jobs yet"
        raise UsageError(f"there is no job {name!r}, and to define it {lacks} is missing", known)
    settings: dict[str, object] = {"encrypt": "source", **given}
    if settings["paths"] == ["-"]:
        settings.setdefault("workload", "stream")
    if "workload" in settings:
        settings["as"] = settings.pop("workload")
    try:
        job = msgspec.convert(settings, JobConfig)
    except msgspec.ValidationError:
        raise UsageError(
            f"--encrypt {settings['encrypt']}, --as {settings.get('as', 'tree')} or"
            f" --compression {settings.get('compression', 'adaptive')}: not one of the choices",
            "encrypt: source, target, none; as: tree, image, stream; compression: adaptive, lz4, zstd",
        ) from None
    problem = job_problem(job)
    if problem:
        raise UsageError(*problem[1:])
    _check_here(home, job)
    put_job(home.config_path, name, job)


def _check_here(home: Home, job: JobConfig) -> None:
    """Find out before the job is defined what would only fail later: peer, password, paths."""
    from transporter.catalog import Catalog
    from transporter.keys.database_schema import has_password

    with Catalog(home.catalog_db) as catalog:
        peers = {peer.name: peer for peer in catalog.peers()}
    if job.peer not in peers:
        known = f"the peers are: {', '.join(peers)}" if peers else "pair first: transporter join INVITATION"
        raise ConfigError(f"there is no peer {job.peer!r}", known)
    offers = peers[job.peer].offers
    if job.repository not in offers:
        raise RefusedByPeer(
            f"{job.peer} has not offered a repository {job.repository!r}",
            f"it has offered: {', '.join(offers) or 'none'}; for another one ask for an invitation",
        )
    if job.encrypt == "source" and not has_password(home.keys_db, job.password):
        raise UnknownPassword.of(job.password)
    for path in job.paths:
        if path != "-" and not os.path.lexists(path):
            raise UsageError(f"{path} does not exist", "check the path")

"""``transporter copy``: restore points from one repository to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from transporter.cli.job_runner import run_request
from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.daemon.requests import CopyRequest

PLACE = "PEER/REPOSITORY, or a repository of this home."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(copy)


def copy(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job whose restore points are copied.")] = "",
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning. Default: all new ones.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="The points of all jobs.")] = False,
    source: Annotated[str, typer.Option("--from", metavar="PLACE", help=PLACE)] = "",
    target: Annotated[str, typer.Option("--to", metavar="PLACE", help=PLACE)] = "",
    through: Annotated[
        bool,
        typer.Option("--through", help="Between two peers: through this node, if they cannot reach each other."),
    ] = False,
    removed_too: Annotated[
        bool, typer.Option("--removed-too", help="Also points that were removed from the target, by retention say.")
    ] = False,
    encrypt: Annotated[
        str,
        typer.Option(metavar="source|target", help="Seal what is not sealed: here, or at the target."),
    ] = "",
    password: Annotated[str, typer.Option(metavar="NAME", help="For --encrypt: of this home, or of the target.")] = "",
    reencrypt: Annotated[
        str, typer.Option(metavar="NAME", help="Open every point here, and seal it under this password of this home.")
    ] = "",
    name: Annotated[str, typer.Option("--name", metavar="COPY", help="Run [copies.COPY] of the configuration.")] = "",
) -> int:
    """Copy restore points to another repository, as they are; what is there already is not copied again."""
    from transporter.daemon.requests import configured_copy

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if name:
        if job or source or target or everything:
            raise UsageError("--name says it all", "change the copy in config.toml, or leave --name out")
        request = configured_copy(name, config.copy(name))
    else:
        sealing = _sealing(encrypt, password, reencrypt)
        there = sealing.get("seal") == "target"
        how = {"everything": everything, "through": through, "sealed_there": there}
        request = structs.replace(_request(config, job, point, source, target, **how), **sealing)
    request = structs.replace(request, removed_too=removed_too)
    return run_request(terminal, home, request).exit_status


def _sealing(encrypt: str, password: str, reencrypt: str) -> dict[str, str]:
    """Return what is sealed on the way, and under which password."""
    if encrypt not in ("", "source", "target"):
        raise UsageError(f"--encrypt {encrypt}: the source seals, or the target", "write --encrypt source, or target")
    if encrypt == "target" and not reencrypt:
        # Without a password it is the one of the target's repository (`encrypt_at_rest`).
        return {"seal": "target", "password": password}
    if bool(encrypt) != bool(password) or (encrypt and reencrypt):
        raise UsageError("--encrypt source needs --password NAME, and --reencrypt stands alone", "write one of the two")
    if reencrypt:
        return {"seal": "all", "password": reencrypt}
    return {"seal": "plain", "password": password} if encrypt else {}


def _request(
    config: Config,
    job: str,
    point: str,
    source: str,
    target: str,
    *,
    everything: bool,
    through: bool,
    sealed_there: bool,
) -> CopyRequest:
    from transporter.daemon.requests import CopyRequest

    if bool(job) == everything:
        raise UsageError("name a job, or say --all", "transporter copy JOB --from PLACE --to PLACE")
    if not target:
        raise UsageError("--to is missing", "name the repository that the points are copied to: --to PLACE")
    if not source:
        if not job:
            raise UsageError("--from is missing", "name the repository that the points are in: --from PLACE")
        source = _home_of(config, job)
    for place in (source, target):
        if "/" not in place:
            config.repository(place)
    if sealed_there and "/" not in target:
        raise UsageError("the target is this home: it seals on the way", "--encrypt source --password NAME")
    if source == target:
        raise UsageError("a repository is to be copied to itself", "name another one: --to PLACE")
    jobs = [job] if job else []
    return CopyRequest(job=job or "copy", source=source, target=target, jobs=jobs, point=point, through=through)


def _home_of(config: Config, job: str) -> str:
    """Return where a job of this home backs up to; of any other job somebody has to say where its points are."""
    try:
        return config.job(job).to
    except ConfigError as error:
        raise UsageError(
            f"{error.what}, and --from is missing", f"for a job of another home write --from PLACE; {error.remedy}"
        ) from None

"""``transporter restore``: bring files back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from transporter.cli.asking import read_password
from transporter.cli.job_runner import check_place, run_unlocking
from transporter.cli.path_list import read_paths
from transporter.cli.point_words import Source, Tenant
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

STAGING = ".transporter-restore-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(restore)


def restore(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job whose copy is wanted.")],
    point: Annotated[str, typer.Argument(help="latest, or a point's id or its beginning (see `points`).")] = "latest",
    output: Annotated[str, typer.Option(metavar="DIR", help="Where the files go; made when it does not exist.")] = "",
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only what matches; repeatable. Default: everything.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Not what matches; repeatable.")] = None,
    files_from: Annotated[
        str,
        typer.Option(metavar="FILE", help="Only the paths in FILE (- is stdin): one a line, or each ended by a NUL."),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist in DIR.")] = False,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Write only what differs, in DIR, or, without --output, where it was."),
    ] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="In place: compare contents, too, not only sizes and times.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="In place: remove what the point does not have.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="In place: only say what would be done.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out files whose content is lost at the target, and list them.")
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Restore what is left of them, with holes, as NAME.transporter-partial."),
    ] = False,
    stdout: Annotated[
        bool, typer.Option("--stdout", help="Write a stream, an image, or the one file that is included, to stdout.")
    ] = False,
    tar: Annotated[bool, typer.Option("--tar", help="Write a tree to stdout, as tar (PAX).")] = False,
    onto: Annotated[
        str,
        typer.Option(metavar="DEVICE", help="Write an image onto a block device, only what differs. With --overwrite."),
    ] = "",
    source: Source = "",
    tenant: Tenant = "",
    zone: Annotated[
        str,
        typer.Option(
            metavar="ZONE", help="source, target or none: what the point must be. Default: as configured, else source."
        ),
    ] = "",
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="The point's password, when this home does not hold it.")
    ] = "",
) -> int:
    """Restore a point, whole or in part, to a folder."""
    from transporter.daemon.requests import RestoreRequest

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    if not in_place and (checksum or delete or dry_run):
        word = "--checksum" if checksum else "--delete" if delete else "--dry-run"
        raise UsageError(f"{word} is for a restore in place", "add --in-place")
    to_stdout = stdout or tar
    if onto and (output or in_place or to_stdout or partial or include or exclude or files_from):
        raise UsageError("--onto takes a whole image and a device", "leave the other options out, but for --overwrite")
    if to_stdout and (output or in_place or overwrite or partial):
        raise UsageError("--stdout and --tar write no files", "leave --output, --in-place, --overwrite, --partial out")
    if tar and sys.stdout.isatty():
        raise UsageError("a tar stream is nothing for a terminal", "redirect it, or pipe it into tar -x")
    if not output and not in_place and not to_stdout and not onto:
        raise UsageError("--output is missing", "name the folder that receives the files: --output DIR")
    request = RestoreRequest(
        job=job,
        point=point,
        output=str(_output(output, overwrite=overwrite or in_place))
        if output
        else os.path.abspath(onto)
        if onto
        else "",
        onto=bool(onto),
        include=include or [],
        exclude=exclude or [],
        paths=read_paths(files_from) if files_from else [],
        overwrite=overwrite,
        in_place=in_place,
        compare=checksum,
        delete=delete,
        dry_run=dry_run,
        keep_going=keep_going,
        partial=partial,
        tar=tar,
        source=source,
        tenant=tenant,
        zone=zone,
        password=read_password(file=Path(password_file), env="", ask="", twice=False) if password_file else b"",
    )
    if not to_stdout:
        return run_unlocking(terminal, home, request).exit_status
    with _data_on_stdout() as fd:
        return run_unlocking(terminal, home, msgspec.structs.replace(request, to_fd=fd)).exit_status


@contextmanager
def _data_on_stdout() -> Iterator[int]:
    """Yield a descriptor of stdout; whatever else is printed there meanwhile goes to stderr, lest it be in the data."""
    sys.stdout.flush()
    fd = os.dup(1)
    try:
        os.dup2(2, 1)
        yield fd
    finally:
        sys.stdout.flush()
        os.dup2(fd, 1)
        os.close(fd)


def _output(text: str, *, overwrite: bool) -> Path:
    path = Path(os.path.abspath(text))
    if path.is_dir():
        if not overwrite and any(not inner.name.startswith(STAGING) for inner in path.iterdir()):
            raise UsageError(f"{path} is not empty", "choose another --output, or add --overwrite or --in-place")
    elif os.path.lexists(path):
        raise UsageError(f"{path} is not a folder", "choose another --output")
    return path

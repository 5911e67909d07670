"""``transporter mount``: a restore point, or all of a job, as a folder to look into."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.asking import TRIES, read_password
from transporter.cli.job_runner import check_place
from transporter.cli.point_words import Job, PasswordFile, Source, Tenant, ZoneWord, password_of
from transporter.cli.terminal import Terminal
from transporter.cli.watch import watching
from transporter.errors import NoKey, TransporterError, UsageError, WrongPassword

if TYPE_CHECKING:
    from transporter.home import Home
    from transporter.jobs.mount import MountOrder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(mount)


def mount(
    context: typer.Context,
    job: Job,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[POINT] MOUNTPOINT", help="latest (default), or the beginning of an id; a folder."),
    ],
    every: Annotated[bool, typer.Option("--all", help="All points of the job, a folder for each.")] = False,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Also other users, by the permissions of the files.")
    ] = False,
    source: Source = "",
    tenant: Tenant = "",
    zone: ZoneWord = "",
    password_file: PasswordFile = "",
) -> int:
    """Mount a restore point, read-only, until Ctrl-C, SIGTERM or `umount`.

    Nothing is restored beforehand: what is read is fetched. Needs the extra `mount` (pyfuse3).
    """
    from transporter.jobs.mount import MountOrder, check_fuse, check_mountpoint
    from transporter.jobs.point_order import PointOrder

    if len(words) > 2 or (every and len(words) > 1):
        raise UsageError("too many words", "mount JOB [POINT] MOUNTPOINT, or mount JOB --all MOUNTPOINT")
    *named, folder = words
    mountpoint = os.path.abspath(folder)
    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_place(config, job, source)
    check_fuse()
    check_mountpoint(mountpoint)
    where = PointOrder(job, named[0] if named else "latest", source, password_of(password_file), zone, tenant)
    return _mounted(terminal, home, MountOrder(where, mountpoint, every, allow_other))


def _mounted(terminal: Terminal, home: Home, order: MountOrder) -> int:
    """Mount; where the home lacks the key, ask for the password, three times at most."""
    try:
        _run(terminal, home, order)
    except NoKey:
        if order.where.password or terminal.json or not sys.stdin.isatty():
            raise
        _mounted_by_typing(terminal, home, order)
    return 0


def _mounted_by_typing(terminal: Terminal, home: Home, order: MountOrder) -> None:
    for left in reversed(range(TRIES)):
        password = read_password(file=None, env="", ask=f"password of job {order.where.job}", twice=False)
        try:
            return _run(terminal, home, replace(order, where=replace(order.where, password=password)))
        except WrongPassword as error:
            if not left:
                raise
            terminal.warn(error.what)
    raise AssertionError("unreachable")


def _run(terminal: Terminal, home: Home, order: MountOrder) -> None:
    import trio

    from transporter.daemon.execute_mount import execute_mount
    from transporter.daemon.tuning import tune_process

    tune_process()
    with watching(terminal) as bus:
        try:
            trio.run(execute_mount, home, order, bus)
        except BaseExceptionGroup as group:
            known = group.subgroup(TransporterError)
            if known is None:
                raise
            raise _first(known) from group


def _first(group: BaseExceptionGroup[TransporterError]) -> TransporterError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

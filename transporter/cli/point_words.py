"""What commands that look into a restore point have in common: their words, and how paths and entries are shown."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.asking import read_password
from transporter.cli.terminal import Terminal
from transporter.errors import ReaderGone

if TYPE_CHECKING:
    from transporter.events import ListedFile

Job = Annotated[str, typer.Argument(help="The job whose copy is looked into.")]
Point = Annotated[str, typer.Argument(help="latest, or a point's id or its beginning (see `points`).")]
Source = Annotated[
    str,
    typer.Option("--from", metavar="PEER/REPOSITORY", help="Where to look; a name alone: a repository of this node."),
]
Tenant = Annotated[
    str, typer.Option(metavar="TENANT", help="In a repository of this node: whose job, where several have that name.")
]
ZoneWord = Annotated[
    str,
    typer.Option(
        metavar="ZONE", help="source, target or none: what the point must be. Default: as configured, else source."
    ),
]
PasswordFile = Annotated[
    str, typer.Option(metavar="FILE", help="The point's password, when this home does not hold it.")
]

_SECOND = 1_000_000_000
_TYPES = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "c": stat.S_IFCHR, "b": stat.S_IFBLK
}  # fmt: skip


def password_of(file: str) -> bytes:
    """Return the password in a file; empty where none is named."""
    return read_password(file=Path(file), env="", ask="", twice=False) if file else b""


def show_lines(terminal: Terminal, lines: Iterable[str]) -> None:
    """Print results. A reader that has gone (`| head`) ends the command: any other error would drop the subscriber."""
    try:
        terminal.lines(list(lines))
    except BrokenPipeError:
        reader_gone()


def reader_gone() -> None:
    """End the command where it is: nobody wants the rest, and what a subscriber raises would only drop it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise ReaderGone from None


def path_fields(path: bytes, name: str = "path") -> dict[str, Any]:
    """Return a path for JSON: as it is shown and, where that is not what it is, its bytes in hex beside it."""
    from transporter.events import display_path

    shown = display_path(path)
    exact = shown.encode("utf-8", "surrogatepass") == path
    return {name: shown} if exact else {name: shown, f"{name}_hex": path.hex()}


def mode_word(kind: str, mode: int) -> str:
    """Return type and permissions as `ls -l` shows them."""
    return stat.filemode(_TYPES[kind] | mode)


# A time that no calendar has (a file's is whatever somebody set, ±292 years of 1970) is shown as its seconds.
def iso(time_ns: int) -> str:
    """Return a time for JSON."""
    try:
        return datetime.fromtimestamp(time_ns / _SECOND, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(time_ns // _SECOND)


def minute(time_ns: int) -> str:
    """Return a time for people, local, 16 signs long."""
    try:
        return datetime.fromtimestamp(time_ns // _SECOND).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns // _SECOND:>16}"


def public(file: ListedFile) -> dict[str, Any]:
    """Return an entry for JSON."""
    fields: dict[str, Any] = {
        **path_fields(file.path),
        "type": file.kind,
        "size": file.size,
        "mtime": iso(file.mtime_ns),
        "mtime_ns": file.mtime_ns,
    }
    if file.mode < 0:
        return fields
    fields |= {
        "mode": f"{file.mode:04o}",
        "uid": file.uid,
        "gid": file.gid,
        "user": file.user.decode("utf-8", "backslashreplace"),
        "group": file.group.decode("utf-8", "backslashreplace"),
    }
    if file.kind == "l":
        fields |= path_fields(file.target, "target")
    if file.link:
        fields |= path_fields(file.link, "link")
    if file.kind in "cb":
        fields["rdev"] = [os.major(file.rdev), os.minor(file.rdev)]
    if file.xattrs:
        fields["xattrs"] = [name.decode("utf-8", "backslashreplace") for name in file.xattrs]
    return fields


def long_line(file: ListedFile) -> str:
    """Return an entry as `ls -l` would."""
    from transporter.events import display_path

    owner = _owner(file.user, file.uid)
    group = _owner(file.group, file.gid)
    size = f"{os.major(file.rdev)}, {os.minor(file.rdev)}" if file.kind in "cb" else f"{file.size:,}"
    tail = f" -> {display_path(file.target)}" if file.kind == "l" else ""
    if file.link:
        tail = f" = {display_path(file.link)}"
    line = f"{mode_word(file.kind, file.mode)} {owner:<8} {group:<8} {size:>15}  {minute(file.mtime_ns)}  "
    return f"{line}{display_path(file.path)}{tail}"


def _owner(name: bytes, number: int) -> str:
    from transporter.events import display_path

    return display_path(name) if name else str(number)

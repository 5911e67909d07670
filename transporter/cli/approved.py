"""What every command shares that two operators may have to approve: the option, and what it hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transporter.errors import UsageError

if TYPE_CHECKING:
    from transporter.home import Home
    from transporter.keys.database import KeyDatabase

ApprovalFile = Annotated[
    str,
    typer.Option("--approval", metavar="FILE", help="What `approval sign` printed, where two operators must agree."),
]

MAX_ARMOURED = 64 << 10
"""Bytes of a request or an approval at most: they have some 2 KiB."""


def present(keys: KeyDatabase, file: str) -> None:
    """Hold the approval in ``file`` ready for the deed that comes next; nothing where no file is named."""
    if file:
        keys.present(read_approval_file(file))


def apply_for_job(home: Home, job: str, zone: str, file: str) -> None:
    """Take up the approval in ``file``, which must be the one for ``job`` in ``zone``: the run itself uses it."""
    if not file:
        return
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import deed

    with KeyDatabase(home.keys_db) as keys:
        text = read_approval_file(file)
        keys.present(text)
        keys.check_approved(deed("job.weaken", job, zone))
        keys.apply_approval(text)


def read_approval_file(file: str) -> str:
    """Return an armoured file, or standard input for ``-``. Raises UsageError."""
    from transporter.cli.keyset import read_file

    try:
        return read_file(file, MAX_ARMOURED).decode("ascii")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is neither a request nor an approval", "give the file as it was printed") from None

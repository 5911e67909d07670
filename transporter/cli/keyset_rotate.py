"""``transporter keyset rotate``: another keyset once the newest is old enough; for a timer at the escrow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.keyset import PassPhrase, app, make_keyset, show_made
from transporter.cli.refusals import refuse_backup_node
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

if TYPE_CHECKING:
    from transporter.keys.keyset_table import KeysetInfo

KEEP_ACTIVE: Final = 2
"""Keysets in use after a rotation: nodes that have not got the newest yet wrap for the one before."""


@app.command("rotate")
def rotate(
    context: typer.Context,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Only if the newest is older: 365d.")] = "365d",
    passphrase_file: PassPhrase = "",
    kms: Annotated[str, typer.Option(metavar="NAME", help="A service keeps it, [kms.NAME], and no pass phrase.")] = "",
    approval: ApprovalFile = "",
) -> int:
    """Make another keyset, named by the day, if the newest is old enough; retire all but it and the one before.

    Retired ones stay, and go on opening what was wrapped for them.
    """
    from transporter.clock import SystemClock
    from transporter.keys.database import KeyDatabase
    from transporter.quantities import parse_duration

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    try:
        age = int(float(parse_duration(older_than)) * 1e9)
    except ValueError as error:
        raise UsageError(f"--older-than {older_than}: {error}", "write 365d, for example") from None
    refuse_backup_node(home, config)
    now = SystemClock().now_ns()
    with KeyDatabase(home.keys_db) as keys:
        active = _newest_first(keys.keysets())
        if active and now - active[0].public.created_ns < age:
            days = (now - active[0].public.created_ns) // (86400 * 10**9)
            terminal.say(f"keyset {active[0].public.name!r} is {days} days old: nothing to do")
            return 0
        present(keys, approval)
        keys.check_approved(keys.rotation())  # before the dear making of a key
        # Where the new one cannot be made (no pass phrase), nothing has changed.
        name = _name(now, {info.public.name for info in keys.keysets()})
        public, private = make_keyset(keys, name, passphrase_file, kms)
        old = [info.public.name for info in active[KEEP_ACTIVE - 1 :]]
        made = keys.rotate_keyset(public, private, old).public
    show_made(terminal, made)
    for name in old:
        terminal.hint(f"keyset {name!r} is retired: `keyset retire {name}` at the nodes, too")
    return 0


def _newest_first(infos: list[KeysetInfo]) -> list[KeysetInfo]:
    own = [info for info in infos if info.active and info.private is not None]
    return sorted(own, key=lambda info: -info.public.created_ns)


def _name(now_ns: int, taken: set[str]) -> str:
    day = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%d")
    return next(name for number in range(1, 1000) if (name := day if number == 1 else f"{day}.{number}") not in taken)

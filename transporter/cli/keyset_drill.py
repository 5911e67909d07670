"""``transporter keyset drill``: does a keyset open every restore point? Tried by the escrow; nothing is released."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.keyset import Name, PassPhrase, app, read_pass_phrase
from transporter.cli.terminal import Terminal
from transporter.errors import NoKey, UsageError

if TYPE_CHECKING:
    from transporter.keys.database import KeyDatabase
    from transporter.keys.keyset import PrivateKeyset
    from transporter.keys.keyset_drill import Drilled


@app.command("drill-request")
def drill_request(
    context: typer.Context, output: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")]
) -> int:
    """Write the slots of every restore point of this node to a file, for `keyset drill` at the escrow. No secret."""
    from transporter.cli.job_runner import run_request
    from transporter.daemon.requests import KeysetDrillRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    outcome = run_request(terminal, home, KeysetDrillRequest(output=str(output.absolute())))
    if outcome.exit_status == 0:
        count = outcome.result["points"]
        terminal.result(f"{count:,} restore points are in {output}", points=count, file=str(output))
    return outcome.exit_status


@app.command("drill")
def drill(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `keyset drill-request` wrote.")],
    passphrase_file: PassPhrase = "",
) -> int:
    """Prove, at the escrow, that a keyset opens every restore point in a file. Exit status 6, and a list, if not."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        info = keys.keyset(name)
        keyset = keys.open_keyset(info, read_pass_phrase(passphrase_file, f"pass phrase of keyset {name}", twice=False))
        count, closed = _tried(keys, keyset, file)
        keys.record("keyset.drill", keyset=name, points=count, closed=len(closed))
    for each in closed:
        facts = {"point": each.point.point.hex(), "job": each.point.job, "repository": each.point.place}
        text = "\t".join((*facts.values(), each.problem))
        terminal.result(text, **facts, problem=each.problem)
    if closed:
        raise NoKey(
            f"{len(closed):,} of {count:,} restore points do not open by keyset {name!r}",
            "`transporter keyset apply` there gives them its slot, as long as their password opens them",
        )
    terminal.say(f"keyset {name!r} opens every one of {count:,} restore points")
    return 0


def _tried(keys: KeyDatabase, keyset: PrivateKeyset, path: Path) -> tuple[int, list[Drilled]]:
    """Try every point. Whose file it is stands at its end: so it is read twice, and proved before anything is tried."""
    from transporter.keys.keyset_drill import DrillEnd, DrillPoint, drill_point, read_drill
    from transporter.keys.node_key import pin_of

    closed: list[Drilled] = []
    count = 0
    try:
        with path.open("rb") as file:
            end = next(each for each in read_drill(file) if isinstance(each, DrillEnd))
            keys.check_registered(end.node)
            pin = pin_of(end.node)
            file.seek(0)
            for point in read_drill(file):
                if isinstance(point, DrillPoint):
                    count += 1
                    tried = drill_point(point, keyset, lambda maker: keys.may_open(pin, maker))
                    closed += [tried] if tried.problem else []
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    return count, closed

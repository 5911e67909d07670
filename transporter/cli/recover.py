"""``transporter recover``: open a restore point whose password is lost, with the help of an escrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.escrow import read_text
from transporter.cli.job_runner import run_request
from transporter.cli.terminal import Terminal
from transporter.errors import DamagedData, NoKey, RefusedByPeer

if TYPE_CHECKING:
    from transporter.keys.database import KeyDatabase

app = typer.Typer(name="recover", help="Open a point whose password is lost, by an escrow.", no_args_is_help=True)


@app.command("request")
def request(
    context: typer.Context,
    point: Annotated[str, typer.Argument(help="A restore point: its id, or how that begins.")],
    keyset: Annotated[str, typer.Option(help="Which keyset, where there are several. Default: the newest.")] = "",
    place: Annotated[str, typer.Option("--from", metavar="PLACE", help="The repository where it lies.")] = "",
) -> int:
    """Print a request, for `escrow answer`. It is signed by this node, good for a week and for one point."""
    from transporter.daemon.requests import RecoverRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    outcome = run_request(terminal, home, RecoverRequest(point=point.lower(), keyset=keyset, place=place))
    if outcome.exit_status == 0:
        terminal.raw(outcome.result["request"])
        terminal.hint("next: `escrow answer` there, then `recover apply` here")
    return outcome.exit_status


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `escrow answer` printed; - for stdin.")],
) -> int:
    """Take the key of the restore point out of a response; from then on the point opens at this node."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    text = read_text(file)
    with KeyDatabase(home.keys_db) as keys:
        try:
            point = _applied(keys, text).hex()
        except (DamagedData, NoKey, RefusedByPeer) as error:
            keys.record_bad_response(error.code)
            raise
    terminal.result(point if terminal.quiet else f"restore point {point} opens here now", point=point)
    terminal.hint("by this key alone: `recover keep` gives it a slot of a password")
    return 0


def _applied(keys: KeyDatabase, text: str) -> bytes:
    from transporter.keys.key_ring import check_opens
    from transporter.keys.recovery import open_response, read_response

    response = read_response(text, keys.keyset_of_request)
    asked = keys.open_request(response.request)
    key = open_response(response, asked.one_time)
    try:
        check_opens(key, asked.ring.first, asked.ring.length, asked.ring.context)
    except NoKey:
        raise DamagedData(
            "the response holds no key of the restore point that was asked for", "make a new request, and be wary"
        ) from None
    keys.keep_recovered(asked, key)
    return asked.point


@app.command("keep")
def keep(
    context: typer.Context,
    point: Annotated[str, typer.Argument(help="A restore point: its id, or how that begins.")],
    password: Annotated[str, typer.Option(metavar="NAME", help="A password of this home; `password add` makes one.")],
    place: Annotated[str, typer.Option("--from", metavar="PLACE", help="The repository where it lies.")] = "",
) -> int:
    """Give a restore point whose key came by a recovery a slot of a password of today: then that opens it, too."""
    from transporter.daemon.requests import RecoverKeepRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    order = RecoverKeepRequest(point=point.lower(), password_name=password, place=place)
    outcome = run_request(terminal, home, order)
    if outcome.exit_status == 0:
        done = outcome.result
        text = f"restore point {done['point']} opens by the password {password!r}"
        shown = done["point"] if terminal.quiet else text if done["added"] else f"{text} already"
        terminal.result(shown, password_name=password, **done)
        terminal.hint("the key that came by the recovery is not needed any more: transporter recover forget")
    return outcome.exit_status


@app.command("forget")
def forget(
    context: typer.Context,
    point: Annotated[str, typer.Argument(help="A restore point: its whole id.")],
) -> int:
    """Forget the key of a restore point that came by a recovery."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        keys.forget_recovered(point.lower())
    terminal.result(point if terminal.quiet else f"the key of restore point {point} is forgotten", point=point)
    return 0

"""``transporter join``: accept an invitation."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from transporter.cli.refusals import refuse_escrow
from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(join)


def join(
    context: typer.Context,
    invitation: Annotated[str, typer.Argument(help="The line that `transporter invite` printed at the other node.")],
    reverse: Annotated[
        bool, typer.Option("--reverse", help="From now on the other node dials this one, which needs `serve` for it.")
    ] = False,
    repository: Annotated[
        str, typer.Option(help="For an invitation that asks for one: the repository of this home that it may use.")
    ] = "",
) -> int:
    """Pair with the node that made the invitation."""
    import trio

    from transporter.catalog import PROXY_HOST, WE_DIAL, Catalog
    from transporter.link.pairing import join as pair

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    refuse_escrow(home)
    name = trio.run(functools.partial(pair, home, invitation.strip(), reverse=reverse, repository=repository))
    with Catalog(home.catalog_db) as catalog:
        peer = catalog.peer(name)
    offers = list(peer.offers) if peer else []
    if terminal.quiet and not terminal.json:
        terminal.result(name)
        return 0
    link = peer.link if peer else ""
    if link == PROXY_HOST:
        terminal.result(f"joined the proxy host {name}", peer=name, repositories=[])
        terminal.hint(f"next: `serve` keeps a connection there; then `invite --repository NAME --via {name}` or `join`")
        return 0
    if link == WE_DIAL:
        terminal.result(f"paired with {name}; it may use {repository}", peer=name, repositories=[])
        terminal.hint(f"next: `serve` dials {name} and stays connected")
        return 0
    there = ", ".join(f"{name}/{offer}" for offer in offers)
    terminal.result(f"paired with {name}; its repositories: {there}", peer=name, repositories=offers)
    if reverse:
        terminal.hint(f"{name} dials this node from now on: run `transporter serve` here, jobs are handed to it")
    terminal.hint(f"next: transporter backup --job NAME --to {name}/… --encrypt source --password NAME PATH…")
    return 0

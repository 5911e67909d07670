"""``transporter join``: accept an invitation."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(join)


def join(
    context: typer.Context,
    invitation: Annotated[str, typer.Argument(help="The line that `transporter invite` printed at the other node.")],
) -> int:
    """Pair with the node that made the invitation."""
    import trio

    from transporter.catalog import Catalog
    from transporter.link.pairing import join as pair

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    name = trio.run(functools.partial(pair, home, invitation.strip()))
    with Catalog(home.catalog_db) as catalog:
        peer = catalog.peer(name)
    offers = list(peer.offers) if peer else []
    if terminal.quiet and not terminal.json:
        terminal.result(name)
        return 0
    there = ", ".join(f"{name}/{offer}" for offer in offers)
    terminal.result(f"paired with {name}; its repositories: {there}", peer=name, repositories=offers)
    terminal.hint(f"next: transporter backup --job NAME --to {name}/… --encrypt source --password NAME PATH…")
    return 0

"""``transporter peer``: the nodes this one is paired with."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.terminal import Terminal

app = typer.Typer(name="peer", help="The nodes this one is paired with.", no_args_is_help=True)


@app.command("list")
def list_peers(context: typer.Context) -> int:
    """List the peers."""
    from transporter.catalog import Catalog
    from transporter.link.identity import fingerprint_text

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog:
        peers = catalog.peers()
    if terminal.json:
        for peer in peers:
            terminal.object(
                {
                    "peer": peer.name,
                    "address": peer.address,
                    "fingerprint": fingerprint_text(peer.pin),
                    "offers": list(peer.offers),
                    "rights": list(peer.rights),
                    "tenant": peer.tenant,
                }
            )
        return 0
    if terminal.quiet:
        for peer in peers:
            terminal.result(peer.name)
        return 0
    rows = [
        [
            peer.name,
            peer.address or "dials us",
            ", ".join(peer.offers) or "–",
            ", ".join(peer.rights) or "–",
            fingerprint_text(peer.pin)[:26] + "…",
        ]
        for peer in peers
    ]
    if rows:
        terminal.table(["peer", "address", "we may use", "it may use", "fingerprint"], rows)
    else:
        terminal.hint("there are no peers yet: see `transporter invite` and `transporter join`")
    return 0


@app.command("remove")
def remove_peer(context: typer.Context, name: Annotated[str, typer.Argument(help="The peer.")]) -> int:
    """Forget a peer: it can no longer connect. Its restore points stay."""
    from transporter.catalog import Catalog
    from transporter.errors import ConfigError

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog:
        if not catalog.remove_peer(name):
            raise ConfigError(f"there is no peer {name!r}", "`transporter peer list` shows them")
    terminal.result(f"removed {name}", peer=name, removed=True)
    users = [job for job, settings in config.jobs.items() if settings.peer == name]
    if users:
        terminal.warn(f"these jobs still name {name}: {', '.join(users)}")
    return 0

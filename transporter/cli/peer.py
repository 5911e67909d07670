"""``transporter peer``: the nodes this one is paired with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.terminal import Terminal

if TYPE_CHECKING:
    from transporter.catalog import Peer

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
                    "link": peer.link,
                    "via": peer.via,
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
            way_to(peer),
            ", ".join(peer.offers) or "–",
            ", ".join(map(_right, peer.rights)) or "–",
            fingerprint_text(peer.pin)[:26] + "…",
        ]
        for peer in peers
    ]
    if rows:
        terminal.table(["peer", "address", "we may use", "it may use", "fingerprint"], rows)
    else:
        terminal.hint("there are no peers yet: see `transporter invite` and `transporter join`")
    return 0


def way_to(peer: Peer) -> str:
    """Return how the link to a peer comes about, for people."""
    from transporter.catalog import PEER_DIALS, PROXY_HOST

    through = f" through {peer.via}" if peer.via else ""
    if peer.link == PEER_DIALS:
        return f"dials us{through}"
    if peer.link == PROXY_HOST:
        return f"{peer.address} (proxy host)"
    return f"{peer.address}{through}".strip() or "dials us"


def _right(name: str) -> str:
    return "this proxy host" if name.startswith("@") else name


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

"""``transporter peer``: the nodes this one is paired with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.terminal import Terminal

if TYPE_CHECKING:
    from transporter.catalog import Catalog, Peer
    from transporter.config import Config
    from transporter.home import Home
    from transporter.keys.database import KeyDatabase

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
                    "removes": list(peer.removes),
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
            ", ".join(_right(right) + " (and remove)" * (right in peer.removes) for right in peer.rights) or "–",
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


@app.command("allow-remove")
def allow_remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The peer.")],
    repository: Annotated[str, typer.Argument(help="A repository of this home that it may use.")],
    no: Annotated[bool, typer.Option("--no", help="No more: from now on it only adds.")] = False,
) -> int:
    """Let a peer remove its own restore points, by retention or by hand. Without it a stolen identity deletes nothing.

    What is locked, or what `keep_at_least` keeps, it cannot remove with it either.
    """
    from transporter.catalog import Catalog
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db) as keys:
        catalog.set_may_remove(name, repository, allowed=not no)
        keys.record("peer.allow-remove", peer=name, repository=repository, allowed=not no)
    text = f"{name} may {'only add to' if no else 'remove its restore points from'} {repository}"
    terminal.result(text, peer=name, repository=repository, may_remove=not no)
    return 0


@app.command("replace")
def replace_peer(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="The peer that is gone.")],
    new: Annotated[str, typer.Argument(help="The one that was made anew and has just joined.")],
    force: Annotated[bool, typer.Option("--force", help="Also when NEW has restore points, which it loses.")] = False,
    approval: ApprovalFile = "",
) -> int:
    """Let a node that was lost and made anew have its restore points again. The old one can no longer connect.

    Make sure that NEW is who it says: from now on it sees what OLD saw, as far as it has the passwords.
    """
    from transporter.catalog import Catalog
    from transporter.clock import SystemClock
    from transporter.errors import UsageError
    from transporter.keys.database import KeyDatabase
    from transporter.repository import Repository

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db) as keys:
        known = catalog.peer(new)
        for name, settings in config.repositories.items() if known is not None and not force else ():
            place = home.repository_path(name, settings.path)
            with Repository.open(place, SystemClock(), writable=False) as store:
                if known is not None and known.tenant and store.points(known.tenant):
                    raise UsageError(f"{new} has points of its own in {name}", "with --force it loses sight of them")
        present(keys, approval)
        tenant = _replace(catalog, keys, old, new, force=force)
    terminal.result(f"{new} takes the place of {old}: tenant {tenant}", peer=new, replaced=old, tenant=tenant)
    return 0


def _replace(catalog: Catalog, keys: KeyDatabase, old: str, new: str, *, force: bool) -> str:
    """Do it, once two operators approved of it where ``force`` needs that; return the tenant."""
    from transporter.keys.deeds import deed

    known = catalog.peer(old)
    if not force or known is None or not known.tenant or catalog.peer(new) is None or old == new:
        # The second half of that fails.
        tenant = catalog.replace_peer(old, new)
        keys.record("peer.replace", old=old, new=new, tenant=tenant)
        return tenant
    what = deed("peer.replace-force", old, new)
    with keys.approved(what, "peer.replace", old=old, new=new, tenant=known.tenant):
        return catalog.replace_peer(old, new)


@app.command("adopt")
def adopt(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The peer that has just joined.")],
    tenant: Annotated[str, typer.Argument(help="Whose points it shall have; needed where there are several.")] = "",
) -> int:
    """Let a peer have restore points whose owner this home never knew: of a repository that came here on a disk.

    Make sure that the peer is who it says: from now on it sees these points, as far as it has the passwords.
    """
    from dataclasses import replace

    from transporter.catalog import Catalog
    from transporter.errors import ConfigError, UsageError
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with Catalog(home.catalog_db) as catalog, KeyDatabase(home.keys_db) as keys:
        known = catalog.peer(name)
        if known is None:
            raise ConfigError(f"there is no peer {name!r}", "`transporter peer list` shows them")
        stored = _tenants(home, config)
        if known.tenant in stored:
            raise UsageError(f"{name} has restore points of its own here", "let a node that has just joined adopt them")
        ours = {peer.tenant for peer in catalog.peers() if peer.tenant}
        orphans = sorted(stored - ours)
        if tenant in ours:
            raise UsageError(
                f"tenant {tenant} is a peer of this home", "to let another one take its place: peer replace"
            )
        if (tenant or len(orphans) != 1) and tenant not in orphans:
            shown = ", ".join(orphans) or "none"
            raise UsageError("it is not clear whose points it shall have", f"tenants that no peer stands for: {shown}")
        chosen = tenant or orphans[0]
        keys.record("peer.adopt", peer=name, tenant=chosen)
        catalog.put_peer(replace(known, tenant=chosen))
    terminal.result(f"{name} is tenant {chosen} from now on", peer=name, tenant=chosen)
    return 0


def _tenants(home: Home, config: Config) -> set[str]:
    """Return every tenant that has points in a repository of this home."""
    from transporter.clock import SystemClock
    from transporter.repository import Repository

    found: set[str] = set()
    for name, settings in config.repositories.items():
        place = home.repository_path(name, settings.path)
        with Repository.open(place, SystemClock(), writable=False) as store:
            found.update(store.tenants())
    return found

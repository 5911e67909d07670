"""``transporter invite``: one line that lets another node use a repository of this one."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.terminal import Terminal
from transporter.config import Config
from transporter.errors import ConfigError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(invite)


def invite(
    context: typer.Context,
    repository: Annotated[str, typer.Option(help="The repository of this home that the other node may use.")] = "",
    proxy: Annotated[bool, typer.Option("--proxy", help="Let the other node use this one as its proxy host.")] = False,
    via: Annotated[
        str, typer.Option(metavar="PROXY_HOST", help="The other node reaches this one through that proxy host.")
    ] = "",
    reverse: Annotated[
        bool,
        typer.Option("--reverse", help="Ask for a repository of the other node, which then dials this one, always."),
    ] = False,
    allow_remove: Annotated[
        bool, typer.Option("--allow-remove", help="It may remove its restore points, too; else it only adds.")
    ] = False,
) -> int:
    """Print an invitation for one node.

    It holds address, pin and a secret that works once.
    """
    from transporter.link.pairing import Kind
    from transporter.link.pairing import invite as make_invitation

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    if sum((bool(repository), proxy, reverse)) != 1:
        raise UsageError("what is the other node invited to?", "give one of --repository NAME, --proxy, --reverse")
    if via and proxy:
        raise UsageError("a proxy host is not reached through another one", "leave --via out")
    if allow_remove and not repository:
        raise UsageError("--allow-remove is about a repository of this node", "give --repository NAME")
    kind: Kind = "proxy" if proxy else "source" if reverse else "repository"
    if kind == "repository":
        config.repository(repository)
    if not via:
        _check_address(config)
    invitation = make_invitation(home, repository, kind=kind, via=via, may_remove=allow_remove)
    terminal.result(invitation, invitation=invitation, repository=repository)
    more = " --repository NAME" if kind == "source" else ""
    terminal.hint(f"hand this line over on a way you trust; the other side types: transporter join INVITATION{more}")
    return 0


def _check_address(config: Config) -> None:
    listen = config.node.listen
    if not config.node.address and listen.startswith(("0.0.0.0:", "[::]:")):
        raise ConfigError(
            f"this node listens on every address ({listen}); an invitation needs one that the other side can dial",
            'set address = "HOST:6180" in [node] of config.toml',
        )

"""``transporter invite``: one line that lets another node use a repository of this one."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.terminal import Terminal
from transporter.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(invite)


def invite(
    context: typer.Context,
    repository: Annotated[str, typer.Option(help="The repository of this home that the other node may use.")],
) -> int:
    """Print an invitation for one node.

    It holds address, pin and a secret that works once.
    """
    from transporter.link.pairing import invite as make_invitation

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    config.repository(repository)
    listen = config.node.listen
    if not config.node.address and listen.startswith(("0.0.0.0:", "[::]:")):
        raise ConfigError(
            f"this node listens on every address ({listen}); an invitation needs one that the other side can dial",
            'set address = "HOST:6180" in [node] of config.toml',
        )
    invitation = make_invitation(home, repository)
    terminal.result(invitation, invitation=invitation, repository=repository)
    terminal.hint("hand this line over on a way you trust; the other side types: transporter join INVITATION")
    return 0

"""``transporter init``: make a home with an identity and a first configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What peers will call this node. Default: the host's name.")] = "",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where `serve` listens; leave out for outbound connections only.")
    ] = "",
) -> int:
    """Make a home: identity, configuration, folders."""
    import socket

    from transporter.clock import SystemClock
    from transporter.config import NAME, NAME_REMEDY
    from transporter.config_edit import write_skeleton
    from transporter.errors import UsageError
    from transporter.home import Home, default_home
    from transporter.link.address import parse_address
    from transporter.link.identity import create_identity, fingerprint_text

    terminal = Terminal.of(context)
    chosen = name or socket.gethostname().partition(".")[0]
    if not NAME.match(chosen):
        raise UsageError(f"--name {chosen!r} is not a usable name", NAME_REMEDY)
    address = str(parse_address(listen)) if listen else ""
    home = Home.create(terminal.home_path or default_home())
    identity = create_identity(home.path, chosen, SystemClock())
    write_skeleton(home.config_path, chosen, address)
    fingerprint = fingerprint_text(identity.pin)
    if terminal.quiet and not terminal.json:
        terminal.result(fingerprint)
        return 0
    terminal.result(
        f"made the home of {chosen!r} in {home.path}\nfingerprint {fingerprint}",
        name=chosen,
        home=str(home.path),
        listen=address,
        fingerprint=fingerprint,
    )
    terminal.hint("next: `transporter repository add` and `serve` to receive, or `transporter join` to send")
    return 0

"""``transporter identity``: what others know this node by."""

from __future__ import annotations

import typer

from transporter.cli.terminal import Terminal

app = typer.Typer(name="identity", help="What others know this node by.", no_args_is_help=True)


@app.callback()
def identity() -> None:
    """Keep the sub-commands a group, however many there are."""


@app.command("export")
def export(context: typer.Context) -> int:
    """Print this node's name and public key, for `escrow register`. No secret."""
    from transporter.clock import SystemClock
    from transporter.link.identity import fingerprint_text, load_identity
    from transporter.link.identity_file import encode_identity

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    identity = load_identity(home.path, config.node.name, SystemClock())
    terminal.raw(encode_identity(identity))
    terminal.hint(f"fingerprint: {fingerprint_text(identity.pin)}")
    return 0

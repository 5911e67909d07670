"""``transporter serve``: the daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from transporter.cli.terminal import Terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    context: typer.Context,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Serve as a proxy host, too: join nodes that both only dial out.")
    ] = False,
    passphrase_file: Annotated[
        str, typer.Option(metavar="FILE", help="The pass phrase of the key database, where one locks it; one line.")
    ] = "",
) -> int:
    """Run the daemon of this home until it is told to stop."""
    import trio

    from transporter import logs
    from transporter.daemon.serve import serve as run_daemon
    from transporter.keys.pass_phrase import PASS_PHRASES

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    logs.configure(terminal.log_format)
    if passphrase_file:
        PASS_PHRASES.file = Path(passphrase_file)

    def ready(listen: str) -> None:
        where = f"listening on {listen}" if listen else "outbound connections only"
        terminal.warn(f"ready, {where}")
        notify_service_manager("READY=1")

    async def run() -> None:
        await run_daemon(home, ready=ready, proxy=proxy)

    trio.run(run)
    return 0


def notify_service_manager(state: str) -> None:
    """Tell systemd, where it asked for it with NOTIFY_SOCKET (sd_notify(3)); a failure is of no consequence."""
    import socket

    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        try:
            notify.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            pass

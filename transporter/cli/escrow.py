"""``transporter escrow``: the home that holds keysets, and answers those who ask for a recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.asking import read_line
from transporter.cli.keyset import PassPhrase, read_file, read_pass_phrase
from transporter.cli.terminal import Terminal
from transporter.errors import NoKey, RefusedByPeer, TransporterError, UsageError

if TYPE_CHECKING:
    from transporter.clock import Clock
    from transporter.keys.database import KeyDatabase
    from transporter.keys.keyset import PublicKeyset
    from transporter.keys.recovery import Request

MAX_ARMOURED: Final = 64 << 10
"""Bytes of a request or a response at most: they have some 12 KiB."""

app = typer.Typer(name="escrow", help="The home that holds keysets and answers who asks.", no_args_is_help=True)


@app.command("register")
def register(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `identity export` printed there; - for stdin.")],
    name: Annotated[str, typer.Option(help="What it is called here. Default: what it calls itself.")] = "",
    instead_of: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="It stands for this node too (name or fingerprint).")
    ] = None,
    approval: ApprovalFile = "",
) -> int:
    """Let a node ask for recoveries of what it sealed itself."""
    from transporter.keys.database import KeyDatabase
    from transporter.link.identity import fingerprint_text
    from transporter.link.identity_file import MAX_FILE, decode_identity

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    own_name, spki = decode_identity(read_file(file, MAX_FILE))
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        node = keys.register_node(name or own_name, spki, instead_of or ())
    text = fingerprint_text(node.pin)
    shown = node.name if terminal.quiet else f"registered {node.name!r}, {text}"
    terminal.result(shown, node=node.name, fingerprint=text)
    terminal.hint("compare the fingerprint with what `transporter identity export` says there")
    return 0


@app.command("nodes")
def nodes(context: typer.Context) -> int:
    """List the nodes that may ask."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase
    from transporter.link.identity import fingerprint_text

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        found = keys.registered_nodes()
    rows = []
    for node in found:
        if terminal.json:
            stands_for = list(node.stands_for)
            terminal.object({"node": node.name, "fingerprint": fingerprint_text(node.pin), "stands_for": stands_for})
        elif terminal.quiet:
            terminal.result(node.name)
        else:
            others = ", ".join(node.stands_for)
            rows.append([node.name, fingerprint_text(node.pin), show_time(node.registered_ns), others])
    if rows:
        terminal.table(["node", "fingerprint", "since", "stands for"], rows)
    return 0


@app.command("remove")
def remove(context: typer.Context, name: Annotated[str, typer.Argument(help="A registered node.")]) -> int:
    """Let a node ask no more."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        keys.remove_node(name)
    terminal.result(name if terminal.quiet else f"{name!r} may ask no more", node=name)
    return 0


@app.command("answer")
def answer(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `recover request` printed there; - for stdin.")],
    passphrase_file: PassPhrase = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is to be opened.")] = False,
    approval: ApprovalFile = "",
) -> int:
    """Open the one restore point that a registered node asks for, for that node alone, once. Prints the response."""
    from transporter.clock import SystemClock
    from transporter.keys.database import KeyDatabase
    from transporter.keys.recovery import read_request

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    request, asked = read_request(read_text(file))
    with KeyDatabase(home.keys_db) as keys:
        try:
            present(keys, approval)
            response = _answered(terminal, keys, request, asked, passphrase_file, yes=yes, clock=SystemClock())
        except TransporterError as error:
            keys.record_refusal(request, asked, error.code)
            raise
    terminal.raw(response)
    return 0


def _answered(
    terminal: Terminal,
    keys: KeyDatabase,
    request: Request,
    asked: bytes,
    passphrase_file: str,
    *,
    yes: bool,
    clock: Clock,
) -> str:
    from transporter.keys.escrow_table import deed_of_answer
    from transporter.keys.node_key import pin_of
    from transporter.keys.recovery import answer_request, check_time

    node, pin = keys.registered_as(request), pin_of(request.node)
    check_time(request, clock)
    keys.check_unanswered(request, asked)
    keys.check_approved(deed_of_answer(request, asked))
    info = keys.keyset_by_id(request.keyset)
    if info is None:
        raise NoKey("the restore point was wrapped for a keyset that is not here", "ask the escrow that has it")
    _show(terminal, request, node, info.public)
    if not yes and read_line("open it? yes or no", "say --yes").lower() not in ("y", "yes"):
        raise RefusedByPeer("nothing was opened", "the request can still be answered")
    by_service = info.private is not None and bool(info.private.kms)
    ask = f"pass phrase of keyset {info.public.name}"
    pass_phrase = b"" if by_service else read_pass_phrase(passphrase_file, ask, twice=False)
    opened = keys.open_keyset(info, pass_phrase)
    response = answer_request(request, asked, opened, lambda maker: keys.may_open(pin, maker), clock)
    # Before it leaves: what was answered once is not answered again, whatever becomes of the answer.
    keys.remember_answer(request, asked, node)
    return response


def _show(terminal: Terminal, request: Request, node: str, keyset: PublicKeyset) -> None:
    """Say what is to be decided on. On stderr, also when quiet: it must not be missed."""
    from transporter.cli.job import show_time

    terminal.warn(f"{node!r} asks for the key of one restore point, made {show_time(request.created_ns)}")
    terminal.warn(f"  restore point {request.point.hex()} of tenant {request.tenant!r}")
    terminal.warn(f"  in repository {request.repository_id.hex()}, by keyset {keyset.name!r}")
    terminal.warn(f"  it says that the job is {request.job!r} (which nothing proves)")


def read_text(file: str) -> str:
    """Return an armoured file. Raises UsageError."""
    try:
        return read_file(file, MAX_ARMOURED).decode("ascii")
    except UnicodeDecodeError:
        raise UsageError(f"{file} is neither a request nor a response", "give the file as it was printed") from None

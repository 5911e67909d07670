"""``transporter approval``: how two operators sign for one operation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import read_approval_file
from transporter.cli.asking import read_line
from transporter.cli.terminal import Terminal
from transporter.errors import RefusedByPeer, UsageError

if TYPE_CHECKING:
    from transporter.keys.approval import Request
    from transporter.keys.deeds import Deed
    from transporter.keys.operator_key import OperatorKey

app = typer.Typer(name="approval", help="How two operators sign for one operation.", no_args_is_help=True)
Key = Annotated[str, typer.Option("--key", metavar="FILE", help="Your private half, as `operator create` made it.")]
PassPhrase = Annotated[
    str, typer.Option("--passphrase-file", metavar="FILE", help="Its pass phrase, one line; - for stdin.")
]


@app.command("request")
def request(
    context: typer.Context,
    operation: Annotated[str, typer.Argument(help="For example password.change; the refused command names it.")],
    subject: Annotated[list[str], typer.Argument(metavar="SUBJECT...", help="What it is about, word for word.")],
    key: Key,
    passphrase_file: PassPhrase = "",
    hours: Annotated[int, typer.Option(help="How long it may be used: 1 to 168.")] = 24,
    node: Annotated[str, typer.Option(metavar="FINGERPRINT", help="Of the node it is for. Default: this one.")] = "",
) -> int:
    """Ask a second operator to approve of one operation at one node. Prints the request, signed with your key."""
    from transporter.clock import SystemClock
    from transporter.keys.approval import make_request
    from transporter.keys.deeds import deed

    terminal = Terminal.of(context)
    what = _answer_to(subject[0]) if operation == "recovery.answer" and len(subject) == 1 else deed(operation, *subject)
    name, pin = _node(terminal, node)
    operator = _open_key(key, passphrase_file)
    terminal.raw(make_request(operator, what, node=name, pin=pin, clock=SystemClock(), hours=hours))
    terminal.hint("next: another operator, anywhere: transporter approval sign FILE --key FILE")
    return 0


@app.command("sign")
def sign(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `approval request` printed; - for stdin.")],
    key: Key,
    passphrase_file: PassPhrase = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is approved.")] = False,
) -> int:
    """Approve of what another operator asks for. Shows it first. Needs no home. Prints the approval."""
    from transporter.clock import SystemClock
    from transporter.keys.approval import approve, check_time, read_request

    terminal = Terminal.of(context)
    asked = read_request(read_approval_file(file))
    check_time(asked.request, SystemClock())
    _show(terminal, asked.request)
    if not yes and read_line("approve it? yes or no", "say --yes").lower() not in ("y", "yes"):
        raise RefusedByPeer("nothing was approved", "the request can still be approved")
    terminal.raw(approve(_open_key(key, passphrase_file), asked, SystemClock()))
    terminal.hint("next, at the node: the command itself with --approval FILE, or: transporter approval apply FILE")
    return 0


@app.command("show")
def show(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A request or an approval; - for stdin.")],
) -> int:
    """Show what a request or an approval is about, and who signed it. Needs no home."""
    from transporter.cli.job import show_time
    from transporter.keys.approval import read_approval, read_request

    terminal = Terminal.of(context)
    text = read_approval_file(file)
    if "APPROVAL REQUEST" in text[:100]:
        request, approver = read_request(text).request, None
    else:
        signed = read_approval(text)
        request, approver = signed.request, signed.approver
    if terminal.json:
        terminal.object(
            {
                "operation": request.operation,
                "subject": request.subject,
                "node": request.node,
                "node_fingerprint": _fingerprint(request.pin),
                "created": show_time(request.created_ns),
                "expires": show_time(request.expires_ns),
                "asked_by": [request.name, request.asker.fingerprint],
                "approved_by": [approver.name, approver.fingerprint] if approver else None,
            }
        )
        return 0
    for line in _lines(request):
        terminal.result(line)
    if approver is not None:
        terminal.result(f"approved by {approver.name!r}, {approver.fingerprint}")
    return 0


@app.command("apply")
def apply(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `approval sign` printed; - for stdin.")],
) -> int:
    """Take up an approval for an operation that comes later: a run of a job by the daemon, for example."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    text = read_approval_file(file)
    with KeyDatabase(home.keys_db) as keys:
        info = keys.apply_approval(text)
    until = show_time(info.expires_ns)
    shown = str(info.deed) if terminal.quiet else f"`{info.deed}` may be done once until {until}"
    terminal.result(shown, operation=info.deed.operation, subject=list(info.deed.subject), expires=until)
    return 0


@app.command("list")
def list_approvals(context: typer.Context) -> int:
    """List the approvals that this node took up, and whether they were used."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        infos = keys.approvals()
    rows = []
    for info in infos:
        used = show_time(info.used_ns) if info.used_ns else None
        if terminal.json:
            terminal.object(
                {
                    "operation": info.deed.operation,
                    "subject": list(info.deed.subject),
                    "approved_by": list(info.approved_by),
                    "approval": info.hash.hex(),
                    "expires": show_time(info.expires_ns),
                    "used": used,
                }
            )
        elif terminal.quiet:
            terminal.result(str(info.deed))
        else:
            state = f"used {used}" if used else f"waits until {show_time(info.expires_ns)}"
            rows.append([str(info.deed), ", ".join(info.approved_by), state, info.hash.hex()[:16]])
    if rows:
        terminal.table(["what", "approved by", "state", "approval"], rows)
    elif not infos:
        terminal.hint("no approval was ever taken up here")
    return 0


@app.command("verify")
def verify(context: typer.Context) -> int:
    """Prove every approval that the audit trail names: signed by two operators of then, for that very deed."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        keys.audit.verify(keys.audit_head())
        count = keys.prove_approvals()
    terminal.result(f"all approvals in the audit trail are proved: {count}", approvals=count)
    return 0


def _answer_to(file: str) -> Deed:
    """Return what it is to answer the request for recovery in ``file``: nobody types a hash."""
    from transporter.keys.escrow_table import deed_of_answer
    from transporter.keys.recovery import read_request

    return deed_of_answer(*read_request(read_approval_file(file)))


def _node(terminal: Terminal, fingerprint: str) -> tuple[str, bytes]:
    """Return name and pin of the node that is meant."""
    import re

    if fingerprint:
        digits = re.sub("[^0-9a-f]", "", fingerprint.lower().removeprefix("sha256"))
        if len(digits) != 64:
            raise UsageError(
                f"--node {fingerprint}: not a node's fingerprint", "`transporter four-eyes show` there has it"
            )
        return "not named", bytes.fromhex(digits)
    from transporter.clock import SystemClock
    from transporter.link.identity import load_identity

    home, config = terminal.home_and_config()
    return config.node.name, load_identity(home.path, config.node.name, SystemClock()).pin


def _open_key(file: str, passphrase_file: str) -> OperatorKey:
    from transporter.cli.keyset import read_file, read_pass_phrase
    from transporter.keys.operator_key import MAX_FILE, name_in, open_operator
    from transporter.keys.private_file import check_private

    if not check_private(Path(file)):
        raise UsageError(f"{file} is not there", "give the file that `transporter operator create` made")
    data = read_file(file, MAX_FILE)
    return open_operator(
        data, read_pass_phrase(passphrase_file, f"pass phrase of the key of {name_in(data)}", twice=False)
    )


def _show(terminal: Terminal, request: Request) -> None:
    """Say what is to be decided on. On stderr, also when quiet: it must not be missed."""
    for line in _lines(request):
        terminal.warn(line)


def _lines(request: Request) -> list[str]:
    from transporter.cli.job import show_time
    from transporter.keys.deeds import OPERATIONS

    return [
        f"{request.name!r} ({request.asker.fingerprint}) asks for: {request.deed}",
        f"  at the node {request.node!r}, {_fingerprint(request.pin)}",
        f"  kind: {', '.join(OPERATIONS[request.operation])}",
        f"  asked {show_time(request.created_ns)}, may be used once until {show_time(request.expires_ns)}",
    ]


def _fingerprint(pin: bytes) -> str:
    from transporter.link.identity import fingerprint_text

    return fingerprint_text(pin)

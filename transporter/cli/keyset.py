"""``transporter keyset``: a second way to open every restore point, kept by an escrow."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.asking import read_line, read_password
from transporter.cli.refusals import refuse_backup_node
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError

if TYPE_CHECKING:
    from transporter.keys.database import KeyDatabase
    from transporter.keys.keyset import PublicKeyset, SealedPrivate

app = typer.Typer(name="keyset", help="A second way to open every point, kept by an escrow.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="What people call it, for example the year.")]
PassPhrase = Annotated[
    str, typer.Option("--passphrase-file", metavar="FILE", help="Its pass phrase, one line; - for stdin.")
]


@app.command("create")
def create(
    context: typer.Context,
    name: Name,
    passphrase_file: PassPhrase = "",
    kms: Annotated[str, typer.Option(metavar="NAME", help="A service keeps it, [kms.NAME], and no pass phrase.")] = "",
    approval: ApprovalFile = "",
) -> int:
    """Make a keyset, at the escrow: a home that is no backup node, normally on another machine."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import deed
    from transporter.keys.keyset_table import check_keyset_name

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    check_keyset_name(name)
    refuse_backup_node(home, config)
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.check_approved(deed("keyset.create", name))
        public, private = make_keyset(keys, name, passphrase_file, kms)
        made = keys.add_keyset(public, private, event="keyset.create").public
    show_made(terminal, made)
    return 0


def make_keyset(keys: KeyDatabase, name: str, passphrase_file: str, kms: str) -> tuple[PublicKeyset, SealedPrivate]:
    """Make a keyset whose private half is to be kept under a pass phrase or by a service; nothing is kept yet."""
    from transporter.keys.keyset import generate_keyset, seal_private
    from transporter.keys.keyset_kms import seal_private_by_kms
    from transporter.keys.secret import SYSTEM

    if kms:
        if passphrase_file:
            raise UsageError("a keyset has a pass phrase or a service", "give --passphrase-file or --kms, not both")
        keys.kms.key(kms)  # before the dear making of a key
        made = generate_keyset(name)
        half = seal_private_by_kms(made, keys.kms, kms, SYSTEM)
    else:
        pass_phrase = read_pass_phrase(passphrase_file, f"pass phrase of keyset {name}", twice=True)
        made = generate_keyset(name)
        half = seal_private(made, pass_phrase)
    return made.public, half


def show_made(terminal: Terminal, made: PublicKeyset) -> None:
    """Say what was made, and what is to be done with it."""
    name, text = made.name, made.fingerprint
    terminal.result(name if terminal.quiet else f"made keyset {name!r}, {text}", keyset=name, fingerprint=text)
    terminal.hint(f"next: `keyset export {name} --public` here, and `keyset import` at every backup node,")
    terminal.hint("which asks for this fingerprint: take it there by another way than the file")


@app.command("list")
def list_keysets(context: typer.Context) -> int:
    """List the keysets that this home knows."""
    from transporter.cli.job import show_time
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        infos = keys.keysets()
    rows = []
    for info in infos:
        public, retired = info.public, None if info.active else show_time(info.retired_ns)
        if terminal.json:
            terminal.object(
                {
                    "keyset": public.name,
                    "fingerprint": public.fingerprint,
                    "created": show_time(public.created_ns),
                    "retired": retired,
                    "private": info.private is not None,
                    "kms": info.private.kms if info.private is not None else "",
                }
            )
        elif terminal.quiet:
            terminal.result(public.name)
        else:
            half = "both halves" if info.private is not None else "public half"
            state = f"retired {retired}" if retired else "active"
            rows.append([public.name, public.fingerprint, show_time(public.created_ns), state, half])
    if rows:
        terminal.table(["keyset", "fingerprint", "made", "state", "here"], rows)
    elif not infos:
        terminal.hint("there are no keysets: `keyset create` at the escrow, then `keyset import` here")
    return 0


@app.command("export")
def export(
    context: typer.Context,
    name: Name,
    public: Annotated[bool, typer.Option("--public", help="The half that backup nodes need; no secret.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Both, under its pass phrase: for an escrow.")] = False,
    approval: ApprovalFile = "",
) -> int:
    """Print a keyset, for `keyset import`."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.keyset_file import encode_keyset

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    if public == private:
        raise UsageError("say which half is wanted", "--public for backup nodes, --private for another escrow")
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        info = keys.give_out(name, private=private)
    terminal.raw(encode_keyset(info.public, info.private if private else None))
    terminal.hint(f"fingerprint: {info.public.fingerprint}")
    return 0


@app.command("import")
def import_keyset(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `keyset export` printed; - for stdin.")],
    fingerprint: Annotated[str, typer.Option(help="As the escrow shows it. Default: it is asked.")] = "",
    passphrase_file: PassPhrase = "",
    approval: ApprovalFile = "",
) -> int:
    """Take up a keyset: from now on new storage keys are wrapped for it too. A private half needs its pass phrase."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.keyset_file import MAX_FILE, decode_keyset

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    public, private = decode_keyset(read_file(file, MAX_FILE))
    if private is None:
        _check_fingerprint(terminal, public.fingerprint, fingerprint)
    else:
        refuse_backup_node(home, config)
        # Nobody shall find out years later that a pass phrase never fitted, or a service never had the key.
        ask = f"pass phrase of {public.name}"
        pass_phrase = b"" if private.kms else read_pass_phrase(passphrase_file, ask, twice=False)
        with KeyDatabase(home.keys_db) as keys:
            keys.open_half(public, private, pass_phrase)
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        name = keys.add_keyset(public, private, event="keyset.import").public.name
    text = public.fingerprint
    terminal.result(name if terminal.quiet else f"took up keyset {name!r}, {text}", keyset=name, fingerprint=text)
    if private is None:
        terminal.hint("restore points that are there already: transporter keyset apply")
    return 0


def _check_fingerprint(terminal: Terminal, found: str, given: str) -> None:
    """Have somebody vouch for a public half: whoever exchanged it would get every storage key from now on."""
    from transporter.errors import DamagedData

    if not given:
        terminal.warn(f"the keyset in this file has the fingerprint {found}")
        given = read_line("the fingerprint that the escrow shows", "give it with --fingerprint")
    if re.sub("[^0-9a-f]", "", given.lower()) != found.replace("-", ""):
        raise DamagedData(
            f"the keyset in this file has another fingerprint: {found}",
            "somebody may have exchanged it: get it from the escrow by another way",
        )


@app.command("retire")
def retire(context: typer.Context, name: Name, approval: ApprovalFile = "") -> int:
    """Wrap no more storage keys for a keyset; points that it opens keep their slots."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.retire_keyset(name)
    terminal.result(name if terminal.quiet else f"keyset {name!r} is retired", keyset=name)
    return 0


@app.command("remove")
def remove(
    context: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also a private half, which is lost then.")] = False,
    approval: ApprovalFile = "",
) -> int:
    """Forget a keyset; points keep their slots of it."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.remove_keyset(name, private=force)
    terminal.result(name if terminal.quiet else f"keyset {name!r} is not known here any more", keyset=name)
    return 0


@app.command("apply")
def apply(context: typer.Context) -> int:
    """Wrap the keys of restore points that are there already for every active keyset."""
    from transporter.cli.job_runner import run_request
    from transporter.daemon.requests import ApplyKeysetsRequest

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    outcome = run_request(terminal, home, ApplyKeysetsRequest())
    if outcome.exit_status == 0:
        done = outcome.result
        text = f"{done['slots_added']:,} slots added; {done['points']:,} restore points gone through"
        terminal.result(text, **done)
    return outcome.exit_status


def read_file(name: str, most: int) -> bytes:
    """Return a file's content, or standard input's for ``-``, if it has no more than ``most`` bytes.

    Raises UsageError.
    """
    try:
        if name == "-":
            found = sys.stdin.buffer.read(most + 1)
        else:
            with open(name, "rb") as file:
                found = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", "check the path and its permissions") from None
    if len(found) > most:
        raise UsageError(f"{name} is too long to be what is wanted", "give the file as it was printed")
    return found


def read_pass_phrase(file: str, ask: str, *, twice: bool) -> bytes:
    """Read a pass phrase from a file, or from the keyboard. Raises UsageError."""
    if not file and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the pass phrase", "give --passphrase-file FILE")
    return read_password(file=Path(file) if file else None, env="", ask=ask, twice=twice)


# These commands have modules of their own; they are in this group.
from transporter.cli import keyset_drill, keyset_rotate  # noqa: E402, F401

"""``transporter password recover``: keep again a password that restore points were made with, after a home was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.approved import ApprovalFile, present
from transporter.cli.asking import TRIES, read_password
from transporter.cli.job_runner import run_request
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError, WrongPassword

if TYPE_CHECKING:
    from transporter.keys.password import PasswordHash

# Each costs an Argon2id; a hostile target could name any number.
TRIED_AT_MOST = 16


def recover(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What jobs call it.")],
    from_file: Annotated[
        str, typer.Option(metavar="FILE", help="Read it from a file (one line), or - for stdin.")
    ] = "",
    from_env: Annotated[str, typer.Option(metavar="NAME", help="Read it from an environment variable.")] = "",
    approval: ApprovalFile = "",
) -> int:
    """Keep again a password that restore points were made with, after this home was lost and made anew.

    `password add` would not do: the same words with another salt open nothing.
    """
    from transporter.daemon.requests import SaltsRequest
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import deed

    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        keys.check_approved(deed("password.recover", name))
    outcome = run_request(terminal, home, SaltsRequest())
    if outcome.exit_status:
        return outcome.exit_status
    salts: list[dict[str, Any]] = outcome.result["salts"]
    if not salts:
        raise UsageError("no restore point was made with a password that is not kept here already", "nothing to do")
    found = _found(terminal, name, from_file, from_env, salts[:TRIED_AT_MOST])
    with KeyDatabase(home.keys_db) as keys:
        present(keys, approval)
        # One password may have been stretched with several salts; jobs use the one that most points have.
        keys.recover_password(name, [key for _facts, key in found], [facts["points"] for facts, _key in found])
    points = sum(facts["points"] for facts, _key in found)
    terminal.result(
        name if terminal.quiet else f"the password {name!r} is kept again: {points:,} restore points open by it",
        password_name=name,
        points=points,
    )
    return 0


def _found(
    terminal: Terminal, name: str, from_file: str, from_env: str, salts: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], PasswordHash]]:
    """Return what a password opens, with its hash; who types it has three tries. Raises WrongPassword, UsageError."""
    file = Path(from_file) if from_file else None
    for left in reversed(range(1 if from_file or from_env else TRIES)):
        password = read_password(file=file, env=from_env, ask=f"password {name}", twice=False)
        found = [(facts, key) for facts in salts if (key := _fits(password, facts)) is not None]
        if found:
            return found
        if left:
            terminal.warn("no restore point was made with this password")
    raise WrongPassword("no restore point was made with this password", "try another")


def _fits(password: bytes, facts: dict[str, Any]) -> PasswordHash | None:
    from transporter.errors import DamagedData
    from transporter.keys.password import KdfParameters, hash_password

    try:
        price = KdfParameters(facts["memory_kib"], facts["iterations"], facts["lanes"])
    except DamagedData:
        return None
    key = hash_password(password, bytes.fromhex(facts["salt"]), price)
    return key if key.verifies(bytes.fromhex(facts["verifier"])) else None

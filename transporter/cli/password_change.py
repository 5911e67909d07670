"""``transporter password change | rotate | remove``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter.cli.approved import ApprovalFile, present, read_approval_file
from transporter.cli.asking import TRIES, read_password
from transporter.cli.terminal import Terminal
from transporter.errors import UsageError, WrongPassword

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.home import Home
    from transporter.keys.database import KeyDatabase

NAMED_AT_MOST = 8
Name = Annotated[str, typer.Argument(help="What jobs call it.")]
FromFile = Annotated[str, typer.Option(metavar="FILE", help="Read it from a file (one line), or - for stdin.")]
FromEnv = Annotated[str, typer.Option(metavar="NAME", help="Read it from an environment variable.")]
GiveUp = Annotated[bool, typer.Option("--give-up", help="Finish although points are damaged or places out of reach.")]


def change(
    context: typer.Context,
    name: Name,
    from_file: FromFile = "",
    from_env: FromEnv = "",
    hint: Annotated[str, typer.Option(help="A reminder for whoever must type it one day. Stored in clear.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a change that missed some points.")] = False,
    give_up: GiveUp = False,
    approval: ApprovalFile = "",
) -> int:
    """Put a new password in the place of an old one, on every restore point that this node can reach.

    The old one need not be known: its hash is kept here. Nothing of the backups is read or sent again.
    """
    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()
    if resume and (from_file or from_env or hint):
        raise UsageError("--resume goes on with a change whose password is known already", "leave out the new one")
    if not resume:

        def put(keys: KeyDatabase) -> None:
            password = _read(from_file, from_env, f"new password {name}", twice=True)
            keys.change_password(name, password, hint)

        _begin(home, name, put, approval)
    else:
        _check_unfinished(home, name, approval if give_up else "")
    return _replace_slots(terminal, home, name, give_up=give_up)


def rotate(
    context: typer.Context,
    name: Name,
    from_file: FromFile = "",
    from_env: FromEnv = "",
    give_up: GiveUp = False,
    approval: ApprovalFile = "",
) -> int:
    """Keep the password, and stretch it anew: with a new salt, at the price that is asked for today."""
    terminal = Terminal.of(context)
    home, _ = terminal.home_and_config()

    def put(keys: KeyDatabase) -> None:
        keys.change_password(name, _known_password(keys, name, from_file, from_env))

    _begin(home, name, put, approval)
    return _replace_slots(terminal, home, name, give_up=give_up)


def remove(
    context: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also when in use; what is lost is listed.")] = False,
    approval: ApprovalFile = "",
) -> int:
    """Forget a password. Its restore points stay, for whoever still knows it."""
    from transporter.keys.database import KeyDatabase

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    with KeyDatabase(home.keys_db) as keys:
        lost = _hanging_on(config, keys, name)
        if lost and not force:
            raise UsageError(
                f"the password {name!r} is in use: {'; '.join(lost)}",
                "change the jobs first, or say --force: then whoever needs these points must know the password",
            )
        present(keys, approval)
        keys.remove_password(name, in_use=bool(lost))
    for line in lost:
        terminal.warn(line)
    terminal.result(name if terminal.quiet else f"the password {name!r} is forgotten", password_name=name, lost=lost)
    return 0


@dataclass(frozen=True, slots=True)
class ConfigUse:
    """What the configuration uses a password for: jobs and copies that seal here, repositories encrypted at rest."""

    jobs: list[str]
    repositories: list[str]
    copies: list[str]

    def __str__(self) -> str:
        return ", ".join(self.jobs + self.repositories + [f"copy {name}" for name in self.copies])


def use_in_config(config: Config, name: str) -> ConfigUse:
    """Return it. What a peer seals is sealed under a password of the peer's, whatever it is called."""
    return ConfigUse(
        [job for job, settings in config.jobs.items() if settings.encrypt == "source" and settings.password == name],
        [store for store, settings in config.repositories.items() if settings.encrypt_at_rest == name],
        [copy for copy, settings in config.copies.items() if settings.sealed_here and settings.password == name],
    )


def sealed_for_tenants(keys: KeyDatabase, name: str) -> list[str]:
    """Return the jobs (TENANT/JOB) whose chunks this end seals under a password for those who send them."""
    return [job for job in keys.jobs_sealed(name) if job.count("/") == 1]


def _hanging_on(config: Config, keys: KeyDatabase, name: str) -> list[str]:
    used, use = use_in_config(config, name), keys.use_of(name)
    lines = [f"job {job} cannot run any more" for job in used.jobs]
    lines += [f"copy {copy} cannot run any more" for copy in used.copies]
    lines += [f"repository {store} cannot take in or give out anything any more" for store in used.repositories]
    # At the end that seals what others send nothing else is kept of their points, and nobody can type it there.
    theirs = sealed_for_tenants(keys, name)
    if theirs:
        lines.append(f"what was sealed here under it for {_some(theirs)} opens for nobody any more")
    elif use.domains and not used.jobs and not use.points:
        lines.append(f"what was sealed here under it ({use.domains} jobs) opens for nobody any more")
    if use.points:
        lines.append(f"{use.points} restore points open only for who types the password")
    if use.recovered:
        lines.append(f"{use.recovered} restore points, which it opened when it was recovered, likewise")
    if use.runs:
        lines.append(f"{use.runs} interrupted runs send again what they had sent")
    return lines


def _some(names: list[str]) -> str:
    """Return names for one line; of many the first ones and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _begin(home: Home, name: str, put: Callable[[KeyDatabase], None], approval: str) -> None:
    """The first half. What an earlier change left behind comes first: two old hashes are two old passwords at large."""
    from transporter.keys.database import KeyDatabase
    from transporter.keys.deeds import deed
    from transporter.keys.password_changes import unfinished_change

    with KeyDatabase(home.keys_db) as keys:
        keys.user_key(name)
        if keys.unfinished_changes(name):
            raise unfinished_change(name)  # before somebody types; asked again with the deed
        present(keys, approval)
        keys.check_approved(deed("password.change", name))
        put(keys)


def _check_unfinished(home: Home, name: str, approval: str) -> None:
    """``approval``: of giving up, which is done where the slots are replaced."""
    from transporter.keys.database import KeyDatabase

    with KeyDatabase(home.keys_db) as keys:
        keys.user_key(name)
        if not keys.unfinished_changes(name):
            raise UsageError(f"no change of the password {name!r} waits to be finished", "nothing to do")
        if approval:
            keys.apply_approval(read_approval_file(approval))


def _replace_slots(terminal: Terminal, home: Home, name: str, *, give_up: bool) -> int:
    """The second half, by the daemon where one runs: peers that dial have their connections there."""
    from transporter.cli.job_runner import run_request
    from transporter.daemon.requests import RewrapRequest

    outcome = run_request(terminal, home, RewrapRequest(password_name=name, give_up=give_up))
    if outcome.exit_status:
        return outcome.exit_status
    done = outcome.result
    terminal.result(
        name if terminal.quiet else f"the password {name!r} is changed: {done['slots_replaced']} slots replaced",
        password_name=name,
        **done,
    )
    for place, why in done["unreached"].items():
        terminal.warn(f"left out: {place}: {why}")
    if done["old_slots_kept_until_ns"]:
        until = datetime.fromtimestamp(done["old_slots_kept_until_ns"] / 1e9, UTC).isoformat(timespec="minutes")
        terminal.hint(
            f"the provider keeps the replaced slots until {until}, hidden, against theft of this node's identity: "
            "until then whoever has the provider's disk can try the old password on them"
        )
    terminal.hint("write the new password down where this machine's loss cannot reach it")
    return 0


def _read(from_file: str, from_env: str, ask: str, *, twice: bool) -> bytes:
    return read_password(file=Path(from_file) if from_file else None, env=from_env, ask=ask, twice=twice)


def _known_password(keys: KeyDatabase, name: str, from_file: str, from_env: str) -> bytes:
    """Return the password that is kept as ``name``, asked for up to three times at a terminal."""
    from transporter.keys.password import hash_password

    kept = keys.user_key(name)
    tries = TRIES if not from_file and not from_env and sys.stdin.isatty() else 1
    for left in reversed(range(tries)):
        password = _read(from_file, from_env, f"password {name}", twice=False)
        if hash_password(password, kept.salt, kept.params).verifies(kept.hash.verifier):
            return password
        if left:
            sys.stderr.write("that is not it\n")
    raise WrongPassword(f"this is not the password that is kept as {name!r}", "try another, or `password change`")

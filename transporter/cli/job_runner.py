"""What every command that runs a job shares: hand it over, show its events, ask for a password that is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec

from transporter import quantities
from transporter.cli.asking import TRIES, read_password
from transporter.cli.terminal import Terminal
from transporter.cli.watch import watching
from transporter.errors import Interrupted, NoKey, ReaderGone, UsageError, WrongPassword

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.daemon.requests import (
        CatRequest,
        DiffRequest,
        FindRequest,
        JobOutcome,
        JobRequest,
        ListRequest,
        RestoreRequest,
        VerifyRequest,
    )
    from transporter.events import Event, Subscriber
    from transporter.home import Home

    Unlocking = TypeVar("Unlocking", RestoreRequest, VerifyRequest, ListRequest, FindRequest, DiffRequest, CatRequest)


def run_request(terminal: Terminal, home: Home, request: JobRequest, also: Subscriber | None = None) -> JobOutcome:
    """Run a request, by the home's daemon where one runs, and show its events; ``also`` hears them, too."""
    from transporter.daemon.hand_over import run_job

    with watching(terminal) as bus:
        if also is not None:
            bus.subscribe(also)
        try:
            return run_job(home, request, bus)
        except ReaderGone:
            # As in any other command whose reader has gone, not as in one that was stopped: nobody has to run it again.
            raise BrokenPipeError from None
        except KeyboardInterrupt:
            from transporter.daemon.requests import after_a_stop

            raise Interrupted("interrupted", after_a_stop(request)) from None


def run_unlocking(
    terminal: Terminal,
    home: Home,
    request: Unlocking,
    also: Subscriber | None = None,
) -> JobOutcome:
    """Run a request that opens sealed data; where the home lacks the key, ask for the password, three times at most."""
    heard = _Failure(also)
    outcome = run_request(terminal, home, request, heard)
    if outcome.exit_status != NoKey.exit_status or request.password or terminal.json or not sys.stdin.isatty():
        return outcome
    for _ in range(TRIES):
        password = read_password(file=None, env="", ask=f"password of job {request.job}", twice=False)
        terminal.failure_shown, heard.code = False, ""
        outcome = run_request(terminal, home, msgspec.structs.replace(request, password=password), heard)
        if heard.code != WrongPassword.code:
            break
    return outcome


class _Failure:
    """Remembers the code that a request failed with, and passes all events on."""

    def __init__(self, also: Subscriber | None) -> None:
        self.code = ""
        self._also = also

    def __call__(self, event: Event) -> None:
        from transporter.events import JobFailed

        if isinstance(event, JobFailed):
            self.code = event.code
        if self._also is not None:
            self._also(event)


def parse_share(text: str) -> float:
    """Parse ``10%`` or ``0.1`` as a share, 0 < share <= 1."""
    try:
        return quantities.parse_share(text)
    except ValueError:
        raise UsageError(f"--sample {text}: not a share", "write for example 10%") from None


def check_place(config: Config, job: str, source: str) -> None:
    """Refuse, as `check_job` does; ``source`` may also name a repository of this node."""
    if source and "/" not in source:
        if source not in config.repositories:
            raise UsageError(
                f"--from {source}: not a repository of this node, nor one at a peer",
                "`transporter repository list` shows those of this node; at a peer it is PEER/REPOSITORY",
            )
    else:
        check_job(config, job, source)


def check_job(config: Config, job: str, source: str) -> None:
    """Refuse a job that is neither in the configuration nor said to be at another repository."""
    if not source:
        config.job(job)
    elif not all(source.partition("/")):
        raise UsageError(f"--from {source}: not a repository at a peer", "write --from PEER/REPOSITORY")

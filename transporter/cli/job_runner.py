"""What every command that runs a job shares: hand it over, show its events, ask for a password that is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import msgspec

from transporter.cli.asking import read_password
from transporter.cli.terminal import Terminal
from transporter.cli.watch import watching
from transporter.errors import Interrupted, NoKey, UsageError

if TYPE_CHECKING:
    from transporter.config import Config
    from transporter.daemon.requests import JobOutcome, JobRequest, RestoreRequest, VerifyRequest
    from transporter.home import Home

    Unlocking = TypeVar("Unlocking", RestoreRequest, VerifyRequest)


def run_request(terminal: Terminal, home: Home, request: JobRequest) -> JobOutcome:
    """Run a request, by the home's daemon where one runs, and show its events."""
    from transporter.daemon.hand_over import run_job

    with watching(terminal) as bus:
        try:
            return run_job(home, request, bus)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", "run it again: what was sent already is used") from None


def run_unlocking(terminal: Terminal, home: Home, request: Unlocking) -> JobOutcome:
    """Run a request that opens sealed data; where the home lacks the key, ask for the password once."""
    outcome = run_request(terminal, home, request)
    if outcome.exit_status != NoKey.exit_status or request.password or terminal.json or not sys.stdin.isatty():
        return outcome
    password = read_password(file=None, env="", ask=f"password of job {request.job}", twice=False)
    terminal.failure_shown = False
    return run_request(terminal, home, msgspec.structs.replace(request, password=password))


def parse_share(text: str) -> float:
    """Parse ``10%`` or ``0.1`` as a share, 0 < share <= 1."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample {text}: not a share", "write for example 10%")
    return share


def check_job(config: Config, job: str, source: str) -> None:
    """Refuse a job that is neither in the configuration nor said to be at another repository."""
    if not source:
        config.job(job)
    elif not all(source.partition("/")):
        raise UsageError(f"--from {source}: not a repository at a peer", "write --from PEER/REPOSITORY")

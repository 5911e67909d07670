"""Run a request by the home's daemon where one runs, else in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transporter.daemon.client import ask_daemon, connect_to_daemon
from transporter.daemon.requests import BackupRequest, JobOutcome, JobRequest, RestoreRequest, SearchRequest
from transporter.errors import ReaderGone
from transporter.events import EventBus
from transporter.home import Home


def run_job(home: Home, request: JobRequest, bus: EventBus) -> JobOutcome:
    """Run a request; its events arrive on ``bus``. Raises JobFailed when the daemon ends meanwhile."""
    if not _needs_this_process(home, request):
        with connect_to_daemon(home) as sock:
            if sock is not None:
                return ask_daemon(sock, request, bus)
    # Imported here: a command that is handed over must not pay for what it does not use.
    import trio

    if isinstance(request, SearchRequest):
        from transporter.daemon.execute_search import execute_search_here

        with _interrupt_alone():
            return trio.run(execute_search_here, home, request, bus)
    from transporter.daemon.execute import execute_here
    from transporter.daemon.tuning import tune_process

    tune_process()
    with _interrupt_alone():
        return trio.run(execute_here, home, request, bus)


@contextmanager
def _interrupt_alone() -> Iterator[None]:
    """Have Ctrl-C (or a reader that has gone) leave as itself: it may meet a task, and then comes in company."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise (ReaderGone if group.subgroup(ReaderGone) else KeyboardInterrupt) from None


def _needs_this_process(home: Home, request: JobRequest) -> bool:
    """Standard input and output belong to the command line's process, so a job that uses them stays there."""
    if isinstance(request, RestoreRequest) and request.to_fd >= 0:
        return True
    if not isinstance(request, BackupRequest):
        return False
    from transporter.config import load_config

    job = load_config(home.config_path).jobs.get(request.job)
    return job is not None and job.workload == "stream"

"""``transporter search``: files in restore points, by name, size, time and type."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transporter.cli.job_runner import run_request
from transporter.cli.point_words import reader_gone
from transporter.cli.search_words import parse_kinds, parse_sizes, parse_time
from transporter.cli.terminal import Terminal, as_json
from transporter.clock import SystemClock
from transporter.errors import UsageError
from transporter.quantities import show_size

if TYPE_CHECKING:
    from transporter.events import Event, FoundFile

_SECOND = 1_000_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    context: typer.Context,
    glob: Annotated[str, typer.Argument(help="A name ('*.pdf'), or a path with / in it ('docs/**/*.odt', '/etc/*').")],
    job: Annotated[str, typer.Option(help="Only the points of this job.")] = "",
    point: Annotated[str, typer.Option(help="Only this point: latest, or an id or its beginning.")] = "",
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="Only points made then or later.")] = "",
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="Only points made then or earlier.")] = "",
    size: Annotated[list[str], typer.Option(metavar="BOUND", help="'>10M', '<1k', '=0'; again for both.")] = [],  # noqa: B006
    after: Annotated[str, typer.Option("--modified-after", metavar="TIME", help="Only files changed since.")] = "",
    before: Annotated[
        str, typer.Option("--modified-before", metavar="TIME", help="Only files not changed since.")
    ] = "",
    kind: Annotated[list[str], typer.Option("--type", metavar="f|d|l|p|c|b", help="Only files, folders, links …")] = [],  # noqa: B006
    latest: Annotated[bool, typer.Option("--latest", help="Of each path only the newest version.")] = False,
    each: Annotated[
        bool, typer.Option("--each", help="A line for each point, also where a file did not change.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many lines.")] = 0,
    at: Annotated[
        str, typer.Option(metavar="PEER/REPOSITORY", help="Where to look; a name alone: a repository of this node.")
    ] = "",
    zone: Annotated[
        str,
        typer.Option(
            metavar="ZONE", help="source, target or none: what points of a job that is not configured must be."
        ),
    ] = "",
) -> int:
    """Find files in restore points, by their encrypted file-system indexes; nobody types a password.

    TIME: 2026-03-04, 2026-03-04T12:30, or 14d for so long ago. A version of a file is shown once, with the number of
    points that have it.
    """
    from transporter.daemon.requests import SearchRequest
    from transporter.jobs.search_report import SearchReport

    terminal = Terminal.of(context)
    # The configuration is read by whoever searches: a command that hands over to a daemon starts faster without.
    home = terminal.home()
    now = datetime.fromtimestamp(SystemClock().now_ns() / 1e9, UTC)
    least, most = parse_sizes(size)
    request = SearchRequest(
        glob=os.fsencode(glob),
        job=job,
        at=at,
        point=point,
        from_ns=parse_time("--from", since, now),
        to_ns=parse_time("--to", until, now, end=True),
        size_at_least=least,
        size_at_most=most,
        after_ns=parse_time("--modified-after", after, now),
        before_ns=parse_time("--modified-before", before, now, end=True),
        kinds=parse_kinds(kind),
        each=each,
        latest=latest,
        limit=limit,
        zone=zone,
    )
    _check_order("--from", request.from_ns, "--to", request.to_ns)
    _check_order("--modified-after", request.after_ns, "--modified-before", request.before_ns)
    outcome = run_request(terminal, home, request, Lines(terminal))
    if outcome.exit_status:
        return outcome.exit_status
    report = SearchReport.of(outcome.result)
    error = report.error()
    if error is not None:
        return terminal.fail(error)
    if job and not report.points and request.from_ns is None and request.to_ns is None:
        raise UsageError(f"no restore point of job {job!r} is anywhere", "`transporter points` lists what there is")
    if not report.hits:
        terminal.hint(f"nothing found in {report.points:,} restore points")
    return 0


def _check_order(first: str, earlier: int | None, second: str, later: int | None) -> None:
    """Refuse a time range that nothing can be in."""
    if earlier is not None and later is not None and earlier > later:
        raise UsageError(f"{first} is later than {second}", f"exchange them: {first} comes first in time")


class Lines:
    """Shows findings as they come."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __call__(self, event: Event) -> None:
        """Show the findings of an event; any other is somebody else's."""
        from transporter.events import SearchHits

        if not isinstance(event, SearchHits):
            return
        terminal = self._terminal
        try:
            if terminal.json:
                terminal.lines([as_json(_public(hit)) for hit in event.hits])
            else:
                terminal.lines([hit.path if terminal.quiet else _line(hit) for hit in event.hits])
        except BrokenPipeError:
            reader_gone()


def _public(hit: FoundFile) -> dict[str, Any]:
    return {
        "point": hit.point,
        "time": _iso(hit.created_ns),
        "job": hit.job,
        "repository": hit.repository,
        "path": hit.path,
        "size": hit.size,
        "mtime": _iso(hit.mtime_ns),
        "type": hit.kind,
        "points": hit.points,
        "oldest": _iso(hit.oldest_ns),
    }


def _line(hit: FoundFile) -> str:
    size = show_size(hit.size) if hit.kind == "f" else ""
    if hit.points == 1:
        where = f"in {hit.point[:8]}, {_day(hit.created_ns)}"
    else:
        where = f"in {hit.points} points, {_day(hit.oldest_ns)} .. {_day(hit.created_ns)}"
    return f"{hit.kind} {size:>9}  {_minute(hit.mtime_ns)}  {hit.path}  ({hit.job}: {where})"


# A time that no calendar has (a file's is whatever somebody set, ±292 years of 1970) is shown as its seconds.
@lru_cache(maxsize=1024)  # of points, mostly
def _iso(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns / _SECOND, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(time_ns // _SECOND)


def _minute(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns // _SECOND).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns // _SECOND:>16}"


def _day(time_ns: int) -> str:
    return _minute(time_ns)[:10]

"""Subscribers that show a running job: rich progress on a terminal, plain lines elsewhere, JSON when asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transporter import events
from transporter.cli.summary import summary
from transporter.cli.terminal import Terminal
from transporter.events import EventBus
from transporter.quantities import show_duration, show_limit, show_rate, show_size

JSON_INTERVAL = 0.5
"""Seconds between two progress objects: enough for a graph, little enough for a log."""

LINE_INTERVAL = 10.0
"""Seconds between two progress lines where there is no terminal."""


@contextmanager
def watching(terminal: Terminal) -> Iterator[EventBus]:
    """Yield a bus whose events are shown while the ``with`` lasts."""
    bus = EventBus()
    if terminal.json:
        bus.subscribe(JsonLines(terminal))
        yield bus
        return
    words = Words(terminal)
    if terminal.quiet:
        bus.subscribe(words)
        yield bus
    elif sys.stderr.isatty():
        with _bar() as show:
            # The bar hears first: it has gone from the screen when the last words come.
            bus.subscribe(show)
            bus.subscribe(words)
            yield bus
    else:
        bus.subscribe(ProgressLines(terminal))
        bus.subscribe(words)
        yield bus


class JsonLines:
    """One object a line; progress thinned out."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._last = float("-inf")

    def __call__(self, event: events.Event) -> None:
        """Show the event."""
        if isinstance(event, events.RESULT_EVENTS):
            return  # the command shows these itself
        if isinstance(event, events.PROGRESS_EVENTS):
            now = self._clock()
            if now - self._last < JSON_INTERVAL:
                return
            self._last = now
        if isinstance(event, events.JobFailed):
            self._terminal.failure_shown = True
            self._terminal.warn(f"{event.what} ({event.remedy})" if event.remedy else event.what)
        self._terminal.object(events.event_to_dict(event))


class Words:
    """Everything that is not progress, in sentences."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __call__(self, event: events.Event) -> None:
        """Show the event."""
        say = self._terminal
        match event:
            case events.FileSkipped():
                say.warn(f"left out: {event.path}: {event.reason}")
            case events.FileNote():
                say.hint(f"note: {event.path}: {event.note}")
            case events.RangeLost():
                end = event.offset + event.length
                say.warn(f"lost: {event.path}: bytes {event.offset} to {end}: {event.reason}")
            case events.FilePlanned():
                say.result(f"{event.what:8}  {event.path}")
            case events.Note():
                say.hint(f"note: {event.text}")
            case events.DamageFound():
                say.warn(f"damaged: {event.where}: {event.what}")
            case events.LinkLost():
                say.warn(f"the link to {event.peer} was lost: {event.reason}")
            case events.Redialling():
                say.hint(f"dialling {event.peer} again in {show_duration(event.delay)} (attempt {event.attempt})")
            case events.LimitInForce():
                say.hint(limit_words(event))
            case events.Mounted():
                what = f"restore point {event.point[:8]}" if event.point else f"all restore points of {event.job}"
                say.result(f"{what} mounted at {event.mountpoint}; Ctrl-C unmounts")
            case events.PointCopied():
                say.hint(f"point {event.point} of job {event.job} is at {event.target}")
            case events.JobPaused():
                say.hint(f"job {event.job} is paused; go on with: transporter job resume {event.job}")
            case events.JobResumed():
                say.hint(f"job {event.job} goes on")
            case events.SecurityEvent():
                say.warn(f"SECURITY: {event.peer}: {event.what}")
            case events.JobFailed():
                say.failure_shown = True
                say.warn(f"{event.what} ({event.remedy})" if event.remedy else event.what)
            case events.JobFinished():
                if not say.quiet:
                    say.say(summary(event))
                elif event.operation == "backup":
                    say.result(event.point)
            case _:
                pass


def limit_words(event: events.LimitInForce) -> str:
    """Return a change of limits as a sentence."""
    doing = {"send": "sending", "receive": "receiving"}.get(event.direction, event.direction)
    if not event.bytes_per_second:
        return f"{doing} is not limited any more"
    whose = "the other side asks for it" if event.by == "asked" else f"limit on the {event.by}"
    return f"{doing} at most {show_limit(event.bytes_per_second)} ({whose})"


class ProgressLines:
    """A line now and then, for logs and pipes."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._start = self._last = clock()

    def __call__(self, event: events.Event) -> None:
        """Show the event."""
        if not isinstance(event, events.PROGRESS_EVENTS):
            return
        now = self._clock()
        if now - self._last >= LINE_INTERVAL:
            self._last = now
            done, total, words = measure(event)
            share = f" of {show_size(total)}" if total else ""
            self._terminal.hint(f"{show_size(done)}{share}, {show_rate(done, now - self._start)}, {words}")


def measure(event: events.Event) -> tuple[int, int | None, str]:
    """Return a progress event as bytes done, bytes in all where known, and a few words more."""
    match event:
        case events.Progress():
            return event.bytes_read, event.bytes_total, f"{event.files:,} files, {show_size(event.bytes_sent)} sent"
        case events.RestoreProgress():
            return event.bytes_written, event.bytes_total, f"{event.files:,} files"
        case events.VerifyProgress():
            return event.bytes_verified, event.bytes_total, f"{event.chunks:,} chunks"
        case events.ScrubProgress():
            return event.bytes_checked, event.bytes_total, f"{event.packs:,} packs"
        case events.PruneProgress():
            total = f" of {event.total:,}" if event.total else ""
            return 0, None, f"{event.step}: {event.done:,}{total}"
        case _:
            return 0, None, ""


@contextmanager
def _bar() -> Iterator[Callable[[events.Event], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[words]}"),
    )
    # stdout stays what it is: results must reach a pipe even while the bar is on the screen.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("connecting", total=None, words="")

        def show(event: events.Event) -> None:
            match event:
                case events.JobStarted():
                    progress.update(task, description=f"{event.operation} {event.job}")
                case events.LinkLost():
                    progress.update(task, words="link lost")
                case events.JobFinished() | events.JobFailed():
                    progress.stop()
                case _ if isinstance(event, events.PROGRESS_EVENTS):
                    done, total, words = measure(event)
                    progress.update(task, completed=done, total=total, words=words)
                case _:
                    pass

        yield show

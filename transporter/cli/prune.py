"""``transporter prune``: give back the room of what no restore point needs."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transporter import events
from transporter.cli.terminal import Terminal
from transporter.cli.watch import watching
from transporter.errors import DamagedData, UsageError
from transporter.quantities import show_size

if TYPE_CHECKING:
    from transporter.events import EventBus
    from transporter.repository import PruneOptions, PruneReport

# The daemon and whatever else runs here come first: nobody waits for a prune.
NICE = 15


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(prune)


def prune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="REPOSITORY", help="A repository of this home.")],
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="Keep for so long what no point needs any more, e.g. 24h, 7d, 0s.")
    ] = "24h",
    compact: Annotated[
        str, typer.Option(metavar="SHARE", help="Rewrite packs of which less than this is needed; 100%: all.")
    ] = "75%",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be freed.")] = False,
) -> int:
    """Give back the room of chunks that no restore point needs; needs no keys.

    Runs beside the daemon and its jobs, in this process, at low priority. What is found first is kept for the grace
    period: a second prune after it frees the room. It may be stopped at any moment, and goes on when it is run again.
    """
    from transporter.repository import PruneOptions

    terminal = Terminal.of(context)
    home, config = terminal.home_and_config()
    settings = config.repository(name)
    place = home.repository_path(name, settings.path)
    options = PruneOptions(_seconds(grace), _share(compact), dry_run)
    with watching(terminal) as bus:
        report = _prune(name, place, options, bus, float(settings.clock_jump))
        for pack in report.damaged_packs:
            where = f"packs/{pack.hex()[:2]}/{pack.hex()}"
            bus.publish(events.DamageFound(where=where, what="a record that is needed cannot be read; left as it is"))
    _show(terminal, name, options, report)
    if report.damaged_packs:
        raise DamagedData(
            f"repository {name}: {len(report.damaged_packs)} packs are damaged and were left as they are",
            f"find out more: transporter scrub {name}",
        )
    return 0


def _prune(name: str, place: Path, options: PruneOptions, bus: EventBus, clock_jump: float) -> PruneReport:
    """Prune in a thread of low priority: Ctrl-C ends it between two units of its work, not within one."""
    from transporter.clock import SystemClock
    from transporter.repository import PruneHooks, PruneProgress, prune_beside

    stopping = threading.Event()

    def show(progress: PruneProgress) -> None:
        bus.publish(events.PruneProgress(repository=name, step=progress.step, done=progress.done, total=progress.total))

    def work() -> PruneReport:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        hooks = PruneHooks(progress=show, stop=stopping.is_set)
        return prune_beside(place, SystemClock(), options, hooks, clock_jump)

    with ThreadPoolExecutor(1) as threads:
        pruning = threads.submit(work)
        try:
            return pruning.result()
        except KeyboardInterrupt:
            stopping.set()
            return pruning.result()


def _seconds(text: str) -> float:
    from transporter.quantities import parse_duration

    try:
        return float(parse_duration(text))
    except ValueError as error:
        raise UsageError(f"--grace: {error}") from None


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(
            f"--compact {text}: not a share", "write for example 75%; 0% rewrites nothing, 100% everything"
        )
    return share


def _show(terminal: Terminal, name: str, options: PruneOptions, report: PruneReport) -> None:
    fields = asdict(report)
    fields["damaged_packs"] = [pack.hex() for pack in report.damaged_packs]
    terminal.result(_words(name, report), event="prune_finished", repository=name, **fields)
    if report.missing_chunks:
        terminal.warn(
            f"{report.missing_chunks:,} chunks that restore points need are not in the index:"
            f" find out more: transporter scrub {name}"
        )
    if report.waiting_chunks:
        why = f"its grace is over ({options.grace_seconds / 3600:g} hours)" if options.grace_seconds else "they ended"
        sessions = f", and {report.sessions} sessions that run now" if report.sessions else ""
        terminal.hint(
            f"{report.waiting_chunks:,} chunks ({show_size(report.waiting_bytes)}) wait until {why}{sessions}:"
            " run it again then"
        )


def _words(name: str, report: PruneReport) -> str:
    would = "would free" if report.dry_run else "freed"
    return (
        f"repository {name}: {would} {show_size(max(0, report.freed_bytes))};"
        f" packs: {report.packs_removed:,} removed, {report.packs_rewritten:,} rewritten;"
        f" chunks: {report.live_chunks:,} needed ({show_size(report.live_bytes)}),"
        f" {report.doomed_chunks:,} not ({show_size(report.doomed_bytes)})"
    )

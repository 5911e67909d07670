"""The bench itself: rounds of every work, the contenders taking turns within each."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import corpus, figures, machine, report
from .measure import BenchError, Sample
from .peers.base import IMAGE_FIRST, RESTORES, TREE_FIRST, TREE_RESTORE, WORKS, Peer
from .peers.registry import CONTENDERS, ON_REQUEST, missing_programs
from .site import LOOPBACK, Site
from .ssh import SshServer, ssh_server

QUICK_RUNS = 1
QUIET_SECONDS = 65.0


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    out: Path
    runs: int = 3
    quick: bool = False
    only: tuple[str, ...] = ()  # names of contenders or parts of them; empty: all
    works: tuple[str, ...] = WORKS
    tree: Path | None = None
    image: Path | None = None
    cache: Path = Path("/var/tmp/transporter-loadtest")
    work: Path | None = None
    keep: bool = False
    cipher: str | None = None
    sections: tuple[str, ...] = ()  # the other benches that follow


def say(text: str) -> None:
    """Tell what is going on, on stderr."""
    print(text, file=sys.stderr, flush=True)


def named(name: str, text: str) -> bool:
    """Tell whether `text` selects the contender `name`: by its beginning; those run on request by the whole of it."""
    return name == text or (name.startswith(text) and all(peer.name != name for peer in ON_REQUEST))


def choose(
    options: Options, contenders: Sequence[type[Peer]] = CONTENDERS, on_request: Sequence[type[Peer]] = ON_REQUEST
) -> tuple[list[type[Peer]], dict[str, list[str]]]:
    """Return the contenders that run, and those that cannot with what they miss."""
    everyone = [*contenders, *on_request]
    wanted = list(contenders)
    if options.only:
        wanted = [peer for peer in everyone if any(named(peer.name, text) for text in options.only)]
    if not wanted:
        raise BenchError(f"no contender is called so; there are: {', '.join(peer.name for peer in everyone)}")
    missing = {peer.name: lacking for peer in wanted if (lacking := missing_programs(peer))}
    return [peer for peer in wanted if peer.name not in missing], missing


@contextlib.contextmanager
def work_folder(options: Options) -> Iterator[Path]:
    """Make the one folder below which everything temporary lives, and remove it at the end."""
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="transporter-bench-", dir=options.work or "/var/tmp"))
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        if options.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


class QuietTime:
    """Keeps trees from being written soon after trees were removed.

    ext4 does not hand out an inode within a minute of its deletion (five more while its block is dirty), and looks at
    each such inode every time a file is made: whoever comes first after a removal would pay for it.
    """

    def __init__(self) -> None:
        """Nothing has been removed yet."""
        self._until = 0.0

    def removed(self) -> None:
        """Note that much has just been removed."""
        os.sync()
        self._until = time.monotonic() + QUIET_SECONDS

    def wait(self) -> None:
        """Return when the time is over."""
        rest = self._until - time.monotonic()
        if rest > 0:
            say(f"  waiting {rest:.0f} s: trees were removed a moment ago")
            time.sleep(rest)


def clear(folder: Path) -> None:
    """Remove what a round has made."""
    shutil.rmtree(folder, ignore_errors=True)


def after_restore(contender: Peer, work: str, *, check: bool) -> None:
    """Compare what was restored, if asked; remove it unless it is a tree (see `QuietTime`)."""
    output = contender.folder / f"out-{work}"
    if check:
        contender.check("tree" if work == TREE_RESTORE else "image", output)
    if work != TREE_RESTORE:
        clear(output)


def warm_up(contender: Peer, work: str, corpora: corpus.Corpora) -> None:
    """Read what the work will read, so that every contender finds it in the page cache.

    Right before each measurement, because some systems let go of pages that lie idle for a minute. What a work writes
    begins cold for all alike.
    """
    if work in RESTORES:
        corpus.warm(contender.folder, leave_out="out-")
    else:
        corpus.warm(corpora.image if work == IMAGE_FIRST else corpora.tree)


def turns(peers: Sequence[Peer], work: str, number: int) -> list[Peer]:
    """Return who does `work` in this round, in an order that moves on by one each round."""
    able = [peer for peer in peers if work in peer.works]
    start = number % len(able) if able else 0
    return able[start:] + able[:start]


def one_round(
    number: int,
    peers: Sequence[type[Peer]],
    corpora: corpus.Corpora,
    options: Options,
    folder: Path,
    ssh: SshServer | None,
    quiet: QuietTime,
    failures: list[str],
    site: Site = LOOPBACK,
    before: Callable[[], object] = bool,
) -> Iterator[Sample]:
    """Do every work once with every contender. Between two measurements the file systems are flushed.

    A work that fails is noted in `failures` and left out; the others go on. `before` is called right before each.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(quiet.removed)
        stack.callback(clear, folder)
        ready: list[Peer] = []
        for peer in peers:
            place = folder / f"{len(ready)}"
            place.mkdir(parents=True)
            ready.append(stack.enter_context(peer(place, corpora, ssh, site)))
        for work in options.works:
            if work in (TREE_FIRST, TREE_RESTORE):
                quiet.wait()
            for contender in turns(ready, work, number):
                warm_up(contender, work, corpora)
                os.sync()
                before()
                try:
                    sample = contender.do(work).sample(contender.name, work, number)
                    say(report.sample_line(sample))
                    if work in RESTORES:
                        after_restore(contender, work, check=number == 0)
                except (BenchError, OSError) as error:  # OSError: a daemon that has ended cannot be measured
                    failures.append(f"{contender.name}, {work}, round {number + 1}: {error}")
                    say(f"  FAILED {failures[-1]}")
                else:
                    yield sample


def run(options: Options) -> list[figures.Verdict]:
    """Run the bench, write the report, return the verdicts. Raises `BenchError` at the end if some work failed."""
    runs = QUICK_RUNS if options.quick else options.runs
    peers, missing = choose(options)
    say("corpora…")
    corpora = corpus.prepare(options.cache, options.tree, options.image, quick=options.quick)
    samples: list[Sample] = []
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(work_folder(options))
        quiet = QuietTime()
        ssh = None
        if any(peer.needs_ssh for peer in peers):
            ssh = stack.enter_context(ssh_server(folder / "ssh", options.cipher))
        for number in range(runs):
            say(f"round {number + 1} of {runs}")
            samples.extend(one_round(number, peers, corpora, options, folder / "round", ssh, quiet, failures))
        facts = machine.describe(folder)
    notes = {peer.name: peer.note for peer in peers}
    result = report.Result(
        facts, corpora, samples, missing, notes, comparable=not options.quick, runs=runs, failed=len(failures)
    )
    report.write(result, options.out)
    if failures:
        raise BenchError(f"{len(failures)} measurements failed, the first: {failures[0]}")
    return figures.judge(figures.summarize(samples)) if result.comparable else []

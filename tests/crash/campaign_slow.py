"""Run the tests where anything may be slow at any moment: a test that passes by luck fails here.

With ``--freeze``, random processes of the run (tests, daemons, commands, workers) are stopped for up to so many
seconds, a quarter of them at a time. With ``--delay``, threads, sockets and syncs are delayed by up to so many seconds
(delays.py). Give one of them; together they make a run of half an hour. What follows ``--`` is for the test runner.

    python tests/crash/campaign_slow.py --freeze 1
    python tests/crash/campaign_slow.py --delay 0.4 -- tests/endtoend
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVERY_SECONDS = 0.03
"""Between two stops at most."""
SHARE = 4
"""One process of so many is stopped at a time, but always one."""


def state(pid: int) -> tuple[str, int] | None:
    """The state of a process (man 5 proc_pid_stat) and its parent; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    now, parent, *_ = text.rpartition(")")[2].split()
    return now, int(parent)


def descendants(root: int) -> Iterator[tuple[int, str]]:
    """Every process below ``root`` with its state, but for those that have ended."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := state(int(name))) is not None and found[0] not in "ZX":
            children.setdefault(found[1], []).append((int(name), found[0]))
    waiting = [root]
    while waiting:
        for pid, now in children.get(waiting.pop(), ()):
            yield pid, now
            waiting.append(pid)


class Freezer:
    """Stops processes of a run and lets them go on."""

    def __init__(self, longest: float, seed: int) -> None:
        self.longest = longest
        self.times = 0
        self._random = random.Random(seed)
        self._stopped: dict[int, float] = {}

    def beside(self, run: subprocess.Popen[bytes]) -> None:
        """Go on until the run has ended."""
        try:
            while run.poll() is None:
                self._let_go(time.monotonic())
                self._stop_one(run.pid)
                time.sleep(self._random.uniform(0, EVERY_SECONDS))
        finally:
            self._let_go(float("inf"))

    def _stop_one(self, root: int) -> None:
        every = list(descendants(root))
        # What a test has stopped itself is the test's own business.
        going = [pid for pid, now in every if now not in "Tt"]
        if not going or len(self._stopped) >= max(1, len(every) // SHARE):
            return
        pid = self._random.choice(going)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            # Mostly short, at times long.
            self._stopped[pid] = time.monotonic() + self._random.random() * self._random.random() * self.longest
            self.times += 1

    def _let_go(self, now: float) -> None:
        for pid in [pid for pid, until in self._stopped.items() if until <= now]:
            del self._stopped[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--freeze", type=float, default=0.0, metavar="SECONDS", help="stop processes for so long at most"
    )
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="delay calls by so much")
    parser.add_argument("--seed", type=int, default=1, help="of who is stopped when (default: 1)")
    parser.add_argument("tests", nargs="*", help="options and tests, for the test runner (default: all, 8 at a time)")
    options = parser.parse_args()
    if not options.freeze and not options.delay:
        parser.error("give --freeze or --delay")
    words = [sys.executable, "-m", "pytest", "-q", *(options.tests or ["-n", "8", "--dist", "worksteal"])]
    environment = dict(os.environ)
    if options.delay:
        words += ["-p", "delays"]
        environment |= {"PYTHONPATH": str(Path(__file__).parent), "DELAYS_LONGEST": str(options.delay)}
    freezer = Freezer(options.freeze, options.seed)
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL) as run:
        if options.freeze:
            freezer.beside(run)
            print(f"{freezer.times:,} times a process was stopped for up to {options.freeze:g} s")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())

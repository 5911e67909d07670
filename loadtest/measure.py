"""What is measured: wall time, CPU seconds and peak memory of each end, bytes stored and sent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

WRAPPER = Path(__file__).with_name("usage_wrapper.py")
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.1  # how often worker processes are looked at; a look costs well under a millisecond


class BenchError(Exception):
    """The bench cannot go on; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """What one end used: CPU seconds (user + system) and peak resident memory in bytes."""

    cpu: float = 0.0
    peak: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Two processes of one end: their CPU adds up; so does their memory (an upper bound of the real peak)."""
        return Usage(self.cpu + other.cpu, self.peak + other.peak)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One piece of work done once by one contender."""

    peer: str
    work: str
    round: int
    seconds: float
    source: Usage
    target: Usage
    stored: int | None = None  # bytes on the target's disk that this work added
    sent: int | None = None  # bytes on the wire, where the contender tells
    flush: float = 0.0  # how many of the seconds are the bench's own flush at the end
    job_seconds: float | None = None  # what the contender itself says it took, without starting up


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended with status 0."""

    seconds: float
    usage: Usage
    output: str
    flush: float = 0.0


def wrapped(log: Path, command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` and appends its usage to `log`."""
    return [sys.executable, "-I", "-S", str(WRAPPER), str(log), *command]


def read_log(log: Path) -> list[Usage]:
    """Return what the wrapped commands of `log` used, in the order they ended."""
    if not log.exists():
        return []
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [Usage(row["cpu"], row["peak"]) for row in rows]


def end_group(process: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End a process started with ``start_new_session`` and its children, by its own id: politely, then firmly."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    settle: Path | None = None,
    good: tuple[int, ...] = (0,),
) -> Finished:
    """Run a command to its end and measure it.

    `settle` names a folder whose file system is flushed (``syncfs``) inside the measured time, so that tools that
    leave this to the kernel are compared with tools that do it themselves. `good` lists the statuses taken as success.
    Raises `BenchError` with the end of the command's error output otherwise. Ctrl-C ends the command's process group.
    """
    with tempfile.TemporaryDirectory(prefix="measure-") as scratch, tempfile.TemporaryFile() as errors:
        log = Path(scratch, "usage")
        output = Path(scratch, "output")
        with output.open("wb") as sink:
            started = time.monotonic()
            process = subprocess.Popen(
                wrapped(log, command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=errors,
                env=None if environment is None else {**os.environ, **environment},
                cwd=folder,
                start_new_session=True,
            )
            try:
                status = process.wait()
            finally:
                end_group(process)
        ended = time.monotonic()
        flush = 0.0
        if settle is not None and status in good:
            sync_file_system(settle)
            flush = time.monotonic() - ended
        seconds = ended + flush - started
        if status not in good:
            errors.seek(0)
            tail = errors.read()[-2000:].decode(errors="replace").strip()
            raise BenchError(f"{Path(command[0]).name} ended with status {status}: {tail}")
        (usage,) = read_log(log)
        return Finished(seconds, usage, output.read_text(errors="replace"), flush)


def sync_file_system(path: Path) -> None:
    """Make everything written to the file system of `path` durable (``sync -f``)."""
    subprocess.run(["sync", "-f", str(path)], check=True)


def disk_usage(path: Path) -> int:
    """Return the bytes that the regular files under `path` take (their lengths; holes and slack do not count)."""
    total = 0
    for root, _, files in os.walk(path):
        for name in files:
            total += os.lstat(os.path.join(root, name)).st_size
    return total


# --- processes that run on: daemons and sshd -------------------------------------------------------------------------


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


def process_tree(pid: int) -> list[int]:
    """Return `pid` and all its living descendants."""
    tree = [pid]
    for member in tree:
        with contextlib.suppress(OSError):
            tree += _children(member)
    return tree


def cpu_seconds(pid: int, *, reaped: bool = True) -> float:
    """Return the CPU seconds a process has used, with those of the children it has waited for if `reaped`."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    last = 15 if reaped else 13
    return sum(map(int, fields[11:last])) / _TICKS


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a process in bytes: now, at its peak, and the part of it that may be mapped elsewhere, too."""

    now: int = 0
    peak: int = 0
    shared: int = 0


def memory_of(pid: int) -> Memory:
    """Return the memory of a process; all 0 when it has just ended."""
    fields = {"VmRSS": 0, "VmHWM": 0, "RssShmem": 0}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value.split()[0]) * 1024
    return Memory(fields["VmRSS"], fields["VmHWM"], fields["RssShmem"])


class DaemonMeter:
    """Measures what a running daemon and its worker processes use between entering and leaving the context.

    The peak is a bound from above: the greatest sum that was seen, memory that several map counted once, and on top of
    it what each process' own high-water mark says was not seen.
    """

    def __init__(self, pid: int) -> None:
        """Prepare to measure the process `pid` and its descendants."""
        self._pid = pid
        self._seen: dict[int, int] = {}
        self._peaks: dict[int, int] = {}
        self._sum = 0
        self._before = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"meter-{pid}", daemon=True)
        self.usage = Usage()

    def _cpu(self) -> float:
        total = 0.0
        for pid in process_tree(self._pid):
            with contextlib.suppress(OSError):  # a worker may end while it is looked at
                total += cpu_seconds(pid)
        return total

    def _look(self) -> None:
        total, shared = 0, []
        for pid in process_tree(self._pid):
            with contextlib.suppress(OSError):
                memory = memory_of(pid)
                self._seen[pid] = max(self._seen.get(pid, 0), memory.now)
                self._peaks[pid] = max(self._peaks.get(pid, 0), memory.peak)
                total += memory.now
                shared.append(memory.shared)
        self._sum = max(self._sum, total - sum(shared) + max(shared, default=0))

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._look()

    def __enter__(self) -> DaemonMeter:
        """Reset the peaks and start."""
        for pid in process_tree(self._pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # 5: reset the high-water mark
        self._before = self._cpu()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and leave the result in `usage`."""
        self._stop.set()
        self._thread.join()
        self._look()
        unseen = sum(peak - self._seen[pid] for pid, peak in self._peaks.items())
        self.usage = Usage(self._cpu() - self._before, self._sum + unseen)


@contextlib.contextmanager
def background(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon while the context lasts; its output goes to `log`. It is ended by its own id."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield process
    finally:
        end_group(process)

"""Homes and daemons for tests: commands run in this process (fast), daemons and whatever is killed in their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transporter.catalog import Catalog
from transporter.cli.main import run_command

PATIENCE = 90.0
"""Seconds that anything may take before a test gives up; a shared machine can be slow, a healthy one never waits."""

PASSWORD = b"correct horse battery staple"


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Return the first true value of ``condition``; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.005)
    return value


def start_really(command: Sequence[str], before: Sequence[str] = (), **how: Any) -> subprocess.Popen[bytes]:
    """Start a process, with words in front of its command."""
    return subprocess.Popen([*before, *command], **how)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON lines of stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def finished(self) -> dict[str, Any]:
        """The one ``job_finished`` object."""
        (one,) = [each for each in self.objects if each.get("event") == "job_finished"]
        return one

    @property
    def failed(self) -> dict[str, Any]:
        """The one object that says how it failed."""
        (one,) = [each for each in self.objects if each.get("event") in {"job_failed", "failed"}]
        return one

    def events(self, name: str) -> list[dict[str, Any]]:
        """All objects of one kind."""
        return [each for each in self.objects if each.get("event") == name]


class Node:
    """One home. ``node("points", "--job", "docs")`` runs a command with ``--json`` in this process."""

    start: Callable[..., Any] = staticmethod(start_really)
    """Starts commands and daemons; tests have them forked."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.with_name(f"{home.name}.log")
        self.daemon: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._spawned: list[subprocess.Popen[bytes]] = []

    # --- commands ---------------------------------------------------------------------------------------------

    def __call__(self, *arguments: str | Path, options: Sequence[str] = ("--json",)) -> Done:
        """Run a command here and now."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run_command(["--home", str(self.home), *options, *map(str, arguments)])
        return Done(status, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str | Path, options: Sequence[str] = ("--json",)) -> Done:
        """Run a command that must end well."""
        done = self(*arguments, options=options)
        assert done.status == 0, f"{arguments}: {done}"
        return done

    def job(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a job that must end well; return its last event."""
        return self.ok(*arguments).finished

    def points(self, job: str) -> list[dict[str, Any]]:
        """The restore points of a job."""
        return self.ok("points", "--job", job).objects

    def command(self, *arguments: str | Path, options: Sequence[str] = ("--json",)) -> list[str]:
        """The words that run a command in a process of its own."""
        return [sys.executable, "-m", "transporter", "--home", str(self.home), *options, *map(str, arguments)]

    def spawn(self, *arguments: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own."""
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        process = self.start(self.command(*arguments), **how)
        self._spawned.append(process)
        return process

    def outside(self, *arguments: str | Path, **how: Any) -> Done:
        """Run a command in a process of its own, to its end."""
        return ended(self.spawn(*arguments, **how))

    # --- the daemon -------------------------------------------------------------------------------------------

    def serve(self, before: Sequence[str] = (), **how: Any) -> None:
        """Start the daemon; return when it is ready. ``before``: words in front of the command."""
        assert self.daemon is None
        with self.log.open("ab") as log:
            start = log.tell()
            words = self.command("serve", options=("--log-format", "json"))
            self.daemon = self.start(words, before, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **how)
        try:
            line = wait_until(lambda: self._ready_line(start), f"{self.home.name} to be ready")
        except BaseException:
            self.kill()
            raise
        self.port = int(line.rpartition(b":")[2]) if b":" in line.partition(b"ready")[2] else 0

    def _ready_line(self, start: int) -> bytes:
        assert self.daemon is not None
        text = self.log.read_bytes()[start:]
        assert self.daemon.poll() is None, text.decode(errors="replace")
        lines = [line for line in text.split(b"\n")[:-1] if line.startswith(b"transporter: ready")]
        return lines[0] if lines else b""

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The daemon's process."""
        assert self.daemon is not None
        return self.daemon

    def stop(self) -> None:
        """Stop the daemon in order."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            status, self.daemon = self.daemon.returncode, None
            assert status == 0, self.log_text()

    def kill(self) -> None:
        """Kill the daemon, as a power cut would, and every command that still runs."""
        for process in self._spawned:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._spawned.clear()
        self.kill_daemon()

    def kill_daemon(self) -> None:
        """Kill the daemon alone."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def log_text(self) -> str:
        """What the daemon said."""
        return self.log.read_text(errors="replace")

    # --- its files --------------------------------------------------------------------------------------------

    @property
    def repository(self) -> Path:
        """The repository ``main`` of this home."""
        return self.home / "repositories" / "main"

    @property
    def stored(self) -> int:
        """Bytes of packs, published or not."""
        return sum(path.stat().st_size for name in ("journal/*", "packs/*/*") for path in self.files(name))

    def files(self, pattern: str) -> list[Path]:
        """Files of the repository, by glob."""
        return sorted(path for path in self.repository.glob(pattern) if path.is_file())

    @property
    def catalog(self) -> Catalog:
        """The catalog, to be used in a ``with``."""
        return Catalog(self.home / "catalog.db")

    def configure(self, old: str, new: str) -> None:
        """Edit config.toml as a person would."""
        path = self.home / "config.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def limit(self, line: str) -> None:
        """Add a line to [limits]."""
        with (self.home / "config.toml").open("a") as file:
            file.write(f"\n[limits]\n{line}\n")

    def dials(self, peer: str, port: int) -> None:
        """Make this node dial its peer on another port."""
        with self.catalog as catalog:
            known = catalog.peer(peer)
            assert known is not None
            catalog.put_peer(replace(known, address=f"127.0.0.1:{port}"))


@dataclass
class Pair:
    """``source`` sends, ``target`` stores. ``folder`` is theirs to work in."""

    source: Node
    target: Node
    folder: Path

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both."""
        return self.source, self.target

    def serve(self, **how: Any) -> None:
        """Start the target's daemon, and tell the source where it listens."""
        self.target.serve(**how)
        self.source.dials("offsite", self.target.port)

    def stop(self) -> None:
        """Stop whatever runs."""
        try:
            self.source.stop()
        finally:
            self.target.stop()

    def kill(self) -> None:
        """Kill whatever runs."""
        self.source.kill()
        self.target.kill()

    def copy(self, folder: Path) -> Pair:
        """Copy both homes (their daemons must not run)."""
        folder.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            shutil.copytree(node.home, folder / node.home.name)
        return Pair(Node(folder / self.source.home.name), Node(folder / self.target.home.name), folder)


def set_up_pair(folder: Path) -> Pair:
    """Two homes, paired as people do it; each with a password. Their daemons are stopped again."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(Node(folder / "A"), Node(folder / "B"), folder)
    secret = folder / "password"
    secret.write_bytes(PASSWORD + b"\n")
    source, target = pair.nodes
    target.ok("init", "--name", "offsite", "--listen", "127.0.0.1:0")
    target.ok("repository", "add", "main")
    target.ok("password", "add", "vault", "--from-file", secret)
    target.ok("repository", "add", "rest", "--encrypt-at-rest", "vault")
    source.ok("init", "--name", "office")
    source.ok("password", "add", "office", "--from-file", secret)
    target.serve()
    try:
        address = f"127.0.0.1:{target.port}"
        target.configure('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:0"\naddress = "{address}"')
        for repository in ("main", "rest"):
            (made,) = target.ok("invite", "--repository", repository).objects
            source.ok("join", made["invitation"])
    finally:
        target.stop()
    return pair


def ended(process: subprocess.Popen[bytes], seconds: float = PATIENCE) -> Done:
    """Wait for a process and return how it ended."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"a command did not end; {out.decode()} {err.decode()}") from None
    return Done(process.returncode, out.decode() if out else "", err.decode() if err else "")


def sealed(password: str = "office", to: str = "offsite/main") -> tuple[str, ...]:
    """Options of a job of zone ``source``."""
    return ("--to", to, "--encrypt", "source", "--password", password)


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))

"""This pair, through its public command line only: two homes, two daemons, one link."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..corpus import Corpora
from ..measure import BenchError, DaemonMeter, Finished, Usage, background, disk_usage, run
from ..site import LOOPBACK, Site
from ..ssh import SshServer, free_port, wait_for_line
from .base import COPIES, Peer, Result

PASSWORD = "office"


def program() -> list[str]:
    """Return how to call the ``transporter`` that belongs to the running Python."""
    beside = Path(sys.executable).with_name("transporter")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "transporter"]


class Transporter(Peer):
    """One mode of the pair. The job runs in the source's daemon; with `in_daemon` False in the command itself."""

    mode: ClassVar[str]
    in_daemon: ClassVar[bool] = True
    needs_ssh: ClassVar[bool] = False
    # The home whose daemon counts as the target.
    other_end: ClassVar[str] = "B"

    def __init__(self, folder: Path, corpora: Corpora, ssh: SshServer | None, site: Site = LOOPBACK) -> None:
        """Name the two homes."""
        super().__init__(folder, corpora, ssh, site)
        self._homes = {"A": folder / "A", "B": folder / "B"}
        self._stack = contextlib.ExitStack()
        self._daemons: dict[str, int] = {}

    def line(self, home: str, *arguments: str) -> list[str]:
        """Return the command line of a command at one of the homes."""
        return self._line(home, *arguments)

    def daemon(self, home: str) -> int:
        """Return the process id of the daemon of one of the homes."""
        return self._daemons[home]

    def _line(self, home: str, *arguments: str) -> list[str]:
        prefix = self.site.source if home == "A" else self.site.target
        return [*prefix, *program(), "--home", str(self._homes[home]), *arguments]

    def _call(self, home: str, *arguments: str) -> str:
        return run(self._line(home, *arguments)).output.strip()

    def _serve(self, home: str, *arguments: str, until: bytes = b"ready") -> None:
        log = self.folder / f"log-{home}"
        process = self._stack.enter_context(background(self._line(home, "serve", *arguments), log))
        wait_for_line(log, until, process)
        self._daemons[home] = process.pid

    def __enter__(self) -> Transporter:
        """Set up the pair as a person would, and start the daemons."""
        addresses = {"A": self.site.source_address, "B": self.site.target_address}
        password = self._new_password()
        try:
            for home, name in (("B", "offsite"), ("A", "office")):
                self._call(home, "init", "--name", name, "--listen", f"{addresses[home]}:{free_port()}")
            self._call("B", "repository", "add", "main", "--path", str(self._repository))
            for home in self._homes:
                self.configure(home)
            keeper = {"source": "A", "target": "B"}.get(self.mode)
            if keeper:
                self._call(keeper, "password", "add", PASSWORD, "--from-file", str(password))
            self._serve("B")
            self._call("A", "join", self._call("B", "--quiet", "invite", "--repository", "main"))
            if self.in_daemon:
                self._serve("A")
        except BaseException:
            self._stack.close()
            raise
        return self

    def _new_password(self) -> Path:
        password = self.folder / "password"
        password.write_text(secrets.token_urlsafe(16))
        password.chmod(0o600)
        return password

    def __exit__(self, *_: object) -> None:
        """End both daemons."""
        self._stack.close()

    def configure(self, home: str) -> None:
        """Change the configuration of a new home, where a bench wants another one than a person gets."""

    @property
    def _repository(self) -> Path:
        return self.folder / "repository"

    def _measured(self, arguments: Sequence[str], settle: Path | None = None) -> Result:
        with contextlib.ExitStack() as stack:
            meters = {home: stack.enter_context(DaemonMeter(pid)) for home, pid in self._daemons.items()}
            done = run(self._line("A", "--json", *arguments), settle=settle)
        source = self._source_usage(done, meters.get("A"))
        finished = job_finished(done.output)
        seconds, sent = finished.get("seconds"), finished.get("bytes_sent")
        return Result(done.seconds, source, meters[self.other_end].usage, None, sent, done.flush, seconds)

    def _source_usage(self, done: Finished, daemon: DaemonMeter | None) -> Usage:
        """CPU of the command and of the daemon; memory of the one that does the work."""
        if daemon is None:
            return done.usage
        return Usage(done.usage.cpu + daemon.usage.cpu, max(done.usage.peak, daemon.usage.peak))

    def copy(self, what: str, source: Path) -> Result:
        """Run the job; its first run defines it."""
        before = disk_usage(self._repository)
        arguments = ["backup", "--job", what, "--to", "offsite/main", "--encrypt", self.mode]
        if self.mode != "none":
            arguments += ["--password", PASSWORD]
        if what == "image":
            arguments += ["--as", "image"]
        result = self._measured([*arguments, str(source)])
        return dataclasses.replace(result, stored=disk_usage(self._repository) - before)

    def restore(self, what: str, output: Path) -> Result:
        """Restore the latest point."""
        return self._measured(["restore", what, "latest", "--output", str(output)], settle=output)

    def restore_with(self, what: str, output: Path, *options: str) -> tuple[float, float, int]:
        """Restore the latest point with some options.

        Returns seconds, processor seconds of the command and of both daemons, and bytes that came over the line.
        """
        with contextlib.ExitStack() as stack:
            meters = [stack.enter_context(DaemonMeter(pid)) for pid in self._daemons.values()]
            done = run(self._line("A", "--json", "restore", what, "latest", "--output", str(output), *options))
        cpu = done.usage.cpu + sum(meter.usage.cpu for meter in meters)
        return done.seconds, cpu, int(job_finished(done.output).get("bytes_received", 0))

    def check(self, what: str, output: Path) -> None:
        """Compare a restore with its original: every byte and every attribute; `BenchError` on any difference."""
        if what == "image":
            (restored,) = output.iterdir()
            command = ["cmp", str(self.corpora.image), str(restored)]
        else:
            if shutil.which("rsync") is None:
                return
            options = ["-aHAXn", "--checksum", "--itemize-changes", "--delete"]
            command = ["rsync", *options, f"{self.corpora.tree}/", f"{output}/"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode or answer.stdout:
            raise BenchError(f"{self.name}: the restored {what} differs: {(answer.stdout + answer.stderr)[:2000]}")


def job_finished(output: str) -> dict[str, Any]:
    """Return the ``job_finished`` object of a ``--json`` output, an empty one where there is none."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("event") == "job_finished":
                return row
    return {}


class SourceMode(Transporter):
    """Keys at the source only: the mode that the figures are about."""

    name: ClassVar[str] = "transporter (source)"
    mode: ClassVar[str] = "source"
    note: ClassVar[str] = "mode `source`: the target is blind; job in the source's daemon"


class TargetMode(Transporter):
    """Keys at the target."""

    name: ClassVar[str] = "transporter (target)"
    mode: ClassVar[str] = "target"
    works: ClassVar[tuple[str, ...]] = COPIES
    note: ClassVar[str] = "mode `target`: encrypted at rest by the target; job in the source's daemon; copies only"


class NoneMode(Transporter):
    """No encryption at rest; the link is encrypted as always."""

    name: ClassVar[str] = "transporter (none)"
    mode: ClassVar[str] = "none"
    works: ClassVar[tuple[str, ...]] = COPIES
    note: ClassVar[str] = "mode `none`: stored unencrypted, link encrypted; job in the source's daemon; copies only"


class SourceModeInCommand(SourceMode):
    """As `SourceMode`, without a daemon at the source; only run when asked for with --only."""

    name: ClassVar[str] = "transporter (source, no daemon)"
    in_daemon: ClassVar[bool] = False
    note: ClassVar[str] = "mode `source`; no daemon at the source, the job runs in the command"


OURS: tuple[type[Transporter], ...] = (SourceMode, TargetMode, NoneMode)
ON_REQUEST: tuple[type[Transporter], ...] = (SourceModeInCommand,)

"""Where a command's words go: results to stdout, everything else to stderr, JSON alone when asked for."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transporter.errors import TransporterError

if TYPE_CHECKING:
    import typer

    from transporter.config import Config
    from transporter.home import Home


@dataclass
class Terminal:
    """The global options, and the only place of this program that writes to stdout (but for the bytes of a `cat`).

    ``objects_to_stderr``: stdout belongs to somebody else.
    """

    home_path: Path | None = None
    json: bool = False
    quiet: bool = False
    log_format: Literal["json", "console"] | None = None
    failure_shown: bool = field(default=False, init=False)
    objects_to_stderr: bool = field(default=False, init=False)

    @staticmethod
    def of(context: typer.Context) -> Terminal:
        """Return the terminal that the global options made."""
        terminal = context.obj
        if not isinstance(terminal, Terminal):
            raise TypeError("the global options were not read")
        return terminal

    def home(self) -> Home:
        """Open the home that ``--home``, the environment or the platform names."""
        from transporter.home import Home

        return Home.open(self.home_path)

    def home_and_config(self) -> tuple[Home, Config]:
        """Open the home and read its configuration."""
        from transporter.config import load_config

        home = self.home()
        return home, load_config(home.config_path)

    def result(self, text: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Print what the command was asked for: ``text`` for people (also when quiet), ``fields`` as JSON."""
        if self.json:
            self.object(fields)
        else:
            _write(sys.stdout, text)

    def raw(self, text: str) -> None:
        """Print a file that goes to stdout as it is, whatever else was asked for: it is piped to somewhere."""
        _write(sys.stdout, text.removesuffix("\n"))

    def say(self, text: str) -> None:
        """Print something for people that no program needs; silent with ``--quiet`` and ``--json``."""
        if not self.json and not self.quiet:
            _write(sys.stdout, text)

    def hint(self, text: str) -> None:
        """Print, on stderr, what a person could do next."""
        if not self.json and not self.quiet:
            _write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """Print, on stderr, what must not be missed."""
        _write(sys.stderr, f"transporter: {text}")

    def object(self, fields: dict[str, Any]) -> None:
        """Print one JSON object on a line of its own."""
        _write(sys.stderr if self.objects_to_stderr else sys.stdout, as_json(fields))

    def lines(self, lines: list[str]) -> None:
        """Print many results at once, on stdout, whatever the form asked for."""
        if lines:
            _write(sys.stdout, "\n".join(lines))

    def fail(self, error: TransporterError) -> int:
        """Show an error once, in the form asked for; return its exit status."""
        if not self.failure_shown:
            self.failure_shown = True
            if self.json:
                self.object(
                    {
                        "event": "failed",
                        "code": error.code,
                        "exit_status": error.exit_status,
                        "what": error.what,
                        "remedy": error.remedy,
                    }
                )
            self.warn(str(error))
        return error.exit_status

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Print rows in aligned columns."""
        if self.json or (self.quiet and not rows):
            return
        lines = rows if self.quiet else [head, *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        for line in lines:
            _write(sys.stdout, "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_json(fields: dict[str, Any]) -> str:
    """Return an object as a line of ``--json``."""
    return _json.encode(fields)


_json = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": "))


def _write(stream: Any, text: str) -> None:  # noqa: ANN401 - sys.stdout may be any stand-in
    # A terminal of another encoding must not end a command: what it cannot show is escaped.
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()

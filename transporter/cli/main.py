"""The program `transporter`: global options, the list of commands, and how every error ends the process."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from transporter import __version__
from transporter.cli.terminal import Terminal
from transporter.errors import DiskFull, Interrupted, JobFailed, TransporterError, UsageError

INTERNAL = 1
"""Exit status of a bug of ours."""

# In the order of the help; each has a module of its name. A group has sub-commands.
COMMANDS = (
    *("init", "serve", "invite", "join", "backup", "run", "restore", "verify", "copy", "points", "search"),
    *("retention", "transform", "prune", "scrub", "drill"),
    *("ls", "find", "diff", "cat", "mount"),
    "status",
    "check-config",
)
GROUPS = (
    *("repository", "point", "password", "keys", "keyset", "kms", "identity", "escrow", "recover"),
    *("operator", "four-eyes", "approval"),
    *("audit", "config", "peer", "job", "throttle"),
)
HELP_OPTIONS = ("-h", "--help")


def _version(asked: bool) -> None:
    if asked:
        print(f"transporter {__version__}")
        raise typer.Exit()


def _global_options(
    context: typer.Context,
    home: Annotated[
        str,
        typer.Option(metavar="DIR", help="The home of this node. Default: $TRANSPORTER_HOME, else the data folder."),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout, nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results only, one a line.")] = False,
    log_format: Annotated[str, typer.Option(metavar="json|console", help="How logs look on stderr.")] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    terminal = context.obj
    if log_format not in {"", "json", "console"}:
        raise UsageError(f"--log-format {log_format}: not a format", "write json or console")
    terminal.home_path = Path(home).expanduser() if home else None
    terminal.json = json
    terminal.quiet = quiet
    terminal.log_format = log_format or None


def make_app(arguments: list[str]) -> typer.Typer:
    """Return the program with the commands that ``arguments`` may mean: a command imports only its own module.

    Which word is the command is not known before the options are parsed: every word that is one counts. Where none is,
    or help comes before it, all of them are there.
    """
    app = typer.Typer(
        name="transporter",
        help="Copy backup data to another site, encrypted so that the other site is blind, and bring it back.",
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(HELP_OPTIONS)},
    )
    app.callback()(_global_options)
    named = [word for word in arguments if word in COMMANDS or word in GROUPS or word in HELP_OPTIONS]
    wanted = {*COMMANDS, *GROUPS} if not named or named[0] in HELP_OPTIONS else set(named)
    for name in (*COMMANDS, *GROUPS):
        if name in wanted:
            module = import_module(f"transporter.cli.{name.replace('-', '_')}")
            if name in GROUPS:
                app.add_typer(module.app)
            else:
                module.register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the program and end the process with the documented exit status."""
    _leave(run_command(sys.argv[1:] if arguments is None else arguments))


def _leave(status: int) -> NoReturn:
    """End at once. Taking a thousand modules apart first would be 45 ms of every command, for nobody."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or JobFailed.exit_status
    os._exit(status)


def run_command(arguments: list[str]) -> int:
    """Run one command; return the exit status (see ``errors.py``)."""
    terminal = Terminal()
    try:
        _ask_for_pass_phrases()
        status = make_app(arguments)(arguments, prog_name="transporter", standalone_mode=False, obj=terminal)
        # typer turns Ctrl-C inside a command into its status.
        return _interrupted(terminal) if status == Interrupted.exit_status else int(status or 0)
    except typer.TyperException as error:
        show = getattr(error, "show", None)
        if show is not None:
            show()
        return UsageError.exit_status
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(terminal)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not stumble over it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return JobFailed.exit_status
    except Exception as error:
        return terminal.fail(_known(error))


def _ask_for_pass_phrases() -> None:
    """Have whoever sits here asked, where a key database is locked by a pass phrase."""
    from transporter.keys.pass_phrase import PASS_PHRASES

    def ask(what: str, twice: bool) -> bytes:
        from transporter.cli.asking import read_password

        return read_password(file=None, env="", ask=what, twice=twice)

    PASS_PHRASES.ask = ask


def _interrupted(terminal: Terminal) -> int:
    return terminal.fail(Interrupted("interrupted", "run it again to go on"))


def _known(error: BaseException) -> TransporterError:
    """Return the error a user can do something with that is behind an exception, or one that calls it a bug."""
    if isinstance(error, TransporterError):
        return error
    if isinstance(error, BaseExceptionGroup):
        known = [_known(inner) for inner in error.exceptions]
        return next((one for one in known if type(one) is not TransporterError), known[0])
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", "run it again to go on")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"no room left: {error}", "make room and run it again")
    if isinstance(error, OSError) and error.filename is not None:
        return JobFailed(f"{os.fsdecode(error.filename)}: {error.strerror}", "check the path and its permissions")
    if os.environ.get("TRANSPORTER_DEBUG"):
        raise error
    return TransporterError(
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug: run it again with TRANSPORTER_DEBUG=1 and report the traceback",
    )

"""Where passwords come from: a file, the environment, or the keyboard without echo. Never from an argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from transporter.errors import UsageError

TRIES: Final = 3
"""How often a person may mistype a password; a file or a variable would say the same again."""

OPTIONS = ("--from-file", "--from-env")
"""What the options are called that name a file and an environment variable."""


def read_password(*, file: Path | None, env: str, ask: str, twice: bool, options: tuple[str, str] = OPTIONS) -> bytes:
    """Read a password from a file, an environment variable, or the keyboard without echo.

    One line end after the password in a file is not part of it. Raises ``UsageError`` when there is none.
    """
    if file is not None and env:
        raise UsageError("a password comes from one place", f"give {options[0]} or {options[1]}, not both")
    if file is not None:
        try:
            password = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}", "check the path and its permissions") from None
        password = password.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" in password:
            raise UsageError(f"{file} has more than one line", "a password file holds one line, the password")
    elif env:
        value = os.environb.get(os.fsencode(env))
        if value is None:
            raise UsageError(f"the environment has no variable {env}", f"export it, or use {options[0]}")
        password = value
    else:
        password = _from_keyboard(ask, options, twice=twice)
    if not password:
        raise UsageError("the password is empty", "choose one that is not")
    return password


def _from_keyboard(ask: str, options: tuple[str, str], *, twice: bool) -> bytes:
    import getpass

    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password", f"give {options[0]} FILE or {options[1]} NAME")
    first = getpass.getpass(f"{ask}: ")
    if twice and getpass.getpass("the same again: ") != first:
        raise UsageError("the two passwords differ", "type them again")
    return first.encode("utf-8", "surrogateescape")


def read_line(ask: str, otherwise: str) -> str:
    """Read something that is no secret from the keyboard. Raises UsageError with ``otherwise`` where there is none."""
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for {ask}", otherwise)
    print(f"{ask}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()

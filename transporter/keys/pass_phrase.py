"""Where the pass phrase of a key database comes from: a file, a credential of systemd, or a person.

Which of them is a matter of this process, not of a database: `serve --passphrase-file`, the environment variable
``TRANSPORTER_PASSPHRASE_FILE``, the credential ``transporter-passphrase``; else whoever sits at the terminal is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from transporter.errors import NoKey, UsageError, WrongPassword
from transporter.keys.credential import credential_path, read_credential

VARIABLE: Final = "TRANSPORTER_PASSPHRASE_FILE"
CREDENTIAL_NAME: Final = "transporter-passphrase"
TRIES: Final = 3
"""For a person; a file that holds the wrong one is not better at the second try."""

Ask = Callable[[str, bool], bytes]
"""Asks a person: what for, and whether twice (a new one). Raises UsageError where nobody can be asked."""


class PassPhrases:
    """``file``: what was named to this process."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.ask: Ask | None = None

    def given(self) -> bytes | None:
        """Return the pass phrase that nobody needs to type, or None. Raises UsageError for a file without one."""
        # Imported where they are used: every command makes this object, and few of them ever ask it.
        from transporter.keys.password import check_password, read_password_file, strip_newline

        named = self.file or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
        if named is not None:
            return read_password_file(named)
        if credential_path(CREDENTIAL_NAME) is None:
            return None
        found = strip_newline(read_credential(CREDENTIAL_NAME))
        check_password(found)
        return found

    def try_each(self, opens: Callable[[bytes], bytes]) -> bytes:
        """Return what ``opens`` makes of the first pass phrase that it does not refuse with WrongPassword.

        Raises WrongPassword, NoKey where nobody can be asked.
        """
        given = self.given()
        if given is not None:
            return opens(given)
        for attempt in range(1, TRIES + 1):
            typed = self._asked("pass phrase of the key database", False)
            try:
                return opens(typed)
            except WrongPassword:
                if attempt == TRIES:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def new(self) -> bytes:
        """Return a new pass phrase: the one that was given, else typed twice."""
        given = self.given()
        return given if given is not None else self._asked("new pass phrase of the key database", True)

    def _asked(self, what: str, twice: bool) -> bytes:
        if self.ask is None:
            raise _nobody()
        try:
            typed = self.ask(what, twice)
        except UsageError as error:
            raise (_nobody() if "terminal" in error.what else error) from None
        from transporter.keys.password import check_password

        check_password(typed)
        return typed


def _nobody() -> NoKey:
    return NoKey(
        "the key database is locked by a pass phrase, and there is nobody to ask for it",
        f"name its file with `serve --passphrase-file` or {VARIABLE}, or pass the credential {CREDENTIAL_NAME}",
    )


PASS_PHRASES: Final = PassPhrases()
"""Of this process."""

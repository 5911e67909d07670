"""Credentials of systemd: small secrets that the service manager decrypts for one unit (systemd.exec(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from transporter.errors import ConfigError, NoKey

MAX_CREDENTIAL: Final = 8192
"""Bytes: a token or a key; systemd allows a megabyte."""


def credential_path(name: str) -> Path | None:
    """Return where the credential ``name`` lies, or None where this process has none of that name."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder.startswith("/") or "/" in name or name in {"", ".", ".."}:
        return None
    path = Path(folder) / name
    return path if path.is_file() else None


def read_credential(name: str) -> bytes:
    """Return a credential. Raises NoKey where it is not there, ConfigError where it cannot be read or is too long."""
    path = credential_path(name)
    if path is None:
        raise NoKey(
            f"the credential {name!r} is not here: systemd gives it to the unit alone",
            f"add LoadCredentialEncrypted={name} to the unit, or run this with systemd-run and the same property",
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CREDENTIAL + 1)
    except OSError as error:
        raise ConfigError(f"the credential {name!r} cannot be read: {error.strerror}", "look at the unit") from None
    if len(content) > MAX_CREDENTIAL:
        raise ConfigError(f"the credential {name!r} is longer than {MAX_CREDENTIAL} bytes", "is it the right one?")
    return content

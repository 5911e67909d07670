"""The desktop's keyring as a place for the master key, through the library ``keyring``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from transporter.errors import ConfigError, NoKey

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE: Final = "transporter key database"
_MAX: Final = 4096
_GOOD: Final = 1
"""Priority of a backend that its authors recommend: those below keep things in clear, or are mere stand-ins."""


def get(user: str) -> str:
    """Return what is kept for ``user``. Raises NoKey, ConfigError."""
    found = _told(lambda backend: backend.get_password(SERVICE, user))
    if found is None or len(found) > _MAX:
        raise NoKey(
            "the keyring of this user has not the master key of this key database",
            "run it as the user, and in the session, that keeps it",
        )
    return found


def put(user: str, text: str) -> None:
    """Keep ``text`` for ``user``, and read it back: some backends drop what they cannot keep."""

    def keep(backend: KeyringBackend) -> str | None:
        backend.set_password(SERVICE, user, text)
        return backend.get_password(SERVICE, user)

    if _told(keep) != text:
        raise ConfigError("the keyring did not keep what was put into it", "look at the keyring's settings")


def drop(user: str) -> None:
    """Forget what is kept for ``user``, if anything is."""

    def delete(backend: KeyringBackend) -> str | None:
        if backend.get_password(SERVICE, user) is not None:
            backend.delete_password(SERVICE, user)
        return None

    _told(delete)


def _told(use: _Use) -> str | None:
    backend = _backend()
    try:
        return use(backend)
    except Exception as error:  # backends raise whatever their own libraries do
        raise ConfigError(
            f"the keyring does not answer: {type(error).__name__}", "is it unlocked, and a session bus there?"
        ) from None


def _backend() -> KeyringBackend:
    try:
        import keyring
    except ImportError:
        raise ConfigError(
            "the master key lies in the keyring, and the library for it is not installed",
            "install transporter-pair[keyring]",
        ) from None
    backend = keyring.get_keyring()
    # A backend that somebody named is that person's choice; one that was found must not keep keys in clear.
    if not os.environ.get("PYTHON_KEYRING_BACKEND") and float(getattr(backend, "priority", 0)) < _GOOD:
        raise ConfigError(
            f"there is no keyring that protects what it keeps (the best is {type(backend).__module__})",
            "start the desktop's keyring, or name a backend in PYTHON_KEYRING_BACKEND",
        )
    return backend


if TYPE_CHECKING:
    from collections.abc import Callable

    _Use = Callable[[KeyringBackend], str | None]

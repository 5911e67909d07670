"""The base of every key object: hides its bytes, and cannot be copied by accident."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, Self

from transporter.clock import Clock, SystemClock
from transporter.keys.derive import KEY_LENGTH, same

SYSTEM: Clock = SystemClock()
"""The source of randomness wherever the caller gives none."""


class Secret:
    """A 32-byte key.

    ``repr`` shows the kind only. It is not copied nor pickled: a copied session key would have a copied counter, and
    two chunks under one counter would give both away.
    """

    __slots__ = ("_secret",)
    KIND: ClassVar[str] = "secret"

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_LENGTH:
            raise ValueError(f"a {self.KIND} has exactly {KEY_LENGTH} bytes")
        self._secret = bytes(secret)

    @classmethod
    def generate(cls, clock: Clock = SYSTEM) -> Self:
        """Return a new random key."""
        return cls(clock.random_bytes(KEY_LENGTH))

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """Return the key with these 32 bytes."""
        return cls(secret)

    @property
    def secret(self) -> bytes:
        """The key itself: for wrapping only, never for a log."""
        return self._secret

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Secret) and same(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]  # a key is no dictionary key: its hash would be a print of it

    def __reduce_ex__(self, protocol: Any) -> NoReturn:  # noqa: ANN401 - the signature of object
        raise TypeError(f"a {self.KIND} is neither copied nor pickled")

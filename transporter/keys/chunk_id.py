"""The chunk-id key: names chunks inside one dedup domain."""

from __future__ import annotations

from typing import ClassVar

from blake3 import blake3

from transporter.keys.secret import Secret


class ChunkIdKey(Secret):
    """Names chunks by keyed BLAKE3 of their plaintext: equal chunks have equal ids in the domain, and only there."""

    __slots__ = ()
    KIND: ClassVar[str] = "chunk-id key"

    def id_of(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the 32-byte id of a plain chunk; releases the GIL."""
        return blake3(data, key=self._secret).digest()

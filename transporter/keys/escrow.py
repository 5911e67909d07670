"""The keysets that new storage keys are wrapped for, as a node has them at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transporter.keys.keyset import PublicKeyset
from transporter.keys.node_key import NodeKey
from transporter.keys.storage_key import StorageKey


@dataclass(frozen=True)
class Escrow:
    """``maker``: this node's key, which signs each slot. ``keysets``: as they are at this moment."""

    keysets: Callable[[], Sequence[PublicKeyset]]
    maker: NodeKey | None = field(repr=False)

    def slots(self, storage_key: StorageKey, context: bytes) -> list[bytes]:
        """Return a slot for each keyset."""
        return [] if self.maker is None else [k.make_slot(storage_key, context, self.maker) for k in self.keysets()]


NO_ESCROW = Escrow(tuple, None)

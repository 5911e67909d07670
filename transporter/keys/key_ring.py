"""The key ring of one restore point: every key its chunks need, each wrapped under the point's storage key.

One cryptogram for each key, in order; each holds ``role u8 | key 32`` and is bound to the point and to its place
"i of n", so that cryptograms can be neither dropped, nor added, nor reordered, nor taken from another point.

Order: the point's own metakey, metakeys of older runs, session keys (own first), the chunk-id key last, if any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from transporter.clock import Clock
from transporter.errors import DamagedData
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.derive import KEY_LENGTH, bind
from transporter.keys.secret import SYSTEM
from transporter.keys.session_key import ChunkOpener, FsiKey, MetaKey, SessionKey
from transporter.keys.storage_key import StorageKey
from transporter.keys.wrap import unwrap, wrap

MAX_RING: Final = 65_536
"""Keys in one ring: 30,000 runs, a nightly job of eighty years, and 8.5 MiB of the 16 MiB a point's head may have."""


class Role(IntEnum):
    """What a key in a ring is for. Numbers are never reused."""

    SESSION = 1
    META = 2
    CHUNK_ID = 3


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a point, own run first. ``chunk_id_key`` is None where the point's domain is not keyed here."""

    chunk_id_key: ChunkIdKey | None = field(repr=False)
    session_keys: tuple[SessionKey, ...] = field(repr=False)
    meta_keys: tuple[MetaKey, ...] = field(repr=False)

    @property
    def metakey(self) -> MetaKey:
        """The metakey of the point's own run, which authenticates the point."""
        if not self.meta_keys:
            raise DamagedData("a restore point holds no metakey", "restore another point")
        return self.meta_keys[0]

    def opener(self) -> ChunkOpener:
        """Return what opens every chunk of the point: data, manifest and FSI; plain chunks are refused."""
        return ChunkOpener((*self.session_keys, *self.meta_keys, *self.fsi_keys()))

    def fsi_keys(self) -> list[FsiKey]:
        """Return the keys of the file-system index alone, own run first."""
        return [key.fsi for key in self.meta_keys]


def seal_ring(storage_key: StorageKey, ring: KeyRing, context: bytes, *, clock: Clock = SYSTEM) -> list[bytes]:
    """Return the cryptograms of all keys of ``ring``, bound to ``context``."""
    plain = [(Role.META, key.secret) for key in ring.meta_keys]
    plain += [(Role.SESSION, key.secret) for key in ring.session_keys]
    if ring.chunk_id_key is not None:
        plain.append((Role.CHUNK_ID, ring.chunk_id_key.secret))
    if not 1 <= len(plain) <= MAX_RING:
        raise ValueError(f"a ring has 1 to {MAX_RING} keys")
    kek = storage_key.ring_kek
    return [
        wrap(kek, bytes((role,)) + secret, _place(context, index, len(plain)), clock=clock)
        for index, (role, secret) in enumerate(plain)
    ]


def open_ring(storage_key: StorageKey, cryptograms: Sequence[bytes], context: bytes) -> KeyRing:
    """Return the ring; its keys open and do not seal.

    Raises:
        NoKey: another storage key wrapped these.
        DamagedData: altered, reordered, dropped, added, or of another point.
    """
    if not 1 <= len(cryptograms) <= MAX_RING:
        raise DamagedData("a restore point has an impossible number of wrapped keys", "restore another point")
    found: dict[Role, list[bytes]] = {role: [] for role in Role}
    kek = storage_key.ring_kek
    for index, cryptogram in enumerate(cryptograms):
        plain = unwrap(kek, cryptogram, _place(context, index, len(cryptograms)), length=1 + KEY_LENGTH)
        try:
            found[Role(plain[0])].append(plain[1:])
        except ValueError:
            raise DamagedData("a wrapped key has an unknown role", "a newer version made it; use that") from None
    if len(found[Role.CHUNK_ID]) > 1:
        raise DamagedData("a restore point holds two chunk-id keys", "restore another point")
    return KeyRing(
        ChunkIdKey(found[Role.CHUNK_ID][0]) if found[Role.CHUNK_ID] else None,
        tuple(SessionKey(secret) for secret in found[Role.SESSION]),
        tuple(MetaKey(secret) for secret in found[Role.META]),
    )


def check_opens(storage_key: StorageKey, first: bytes, total: int, context: bytes) -> None:
    """Prove that ``storage_key`` opens a ring of ``total`` cryptograms, by the ``first`` of them alone.

    Raises:
        NoKey: another storage key wrapped it, as of an attempt to commit that was repeated.
        DamagedData: altered, or of another point.
    """
    unwrap(storage_key.ring_kek, first, _place(context, 0, total), length=1 + KEY_LENGTH)


def _place(context: bytes, index: int, total: int) -> bytes:
    return bind(b"key ring", context, index.to_bytes(4, "big"), total.to_bytes(4, "big"))

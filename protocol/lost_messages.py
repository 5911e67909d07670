"""The messages about chunks that a repository has lost, so that a source can supply the very same records."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NamedTuple

from protocol import limits
from protocol.fields import Sized
from protocol.message import Message

_CLAIM: Final = struct.Struct(">32s32sBIQ16s")


class LostClaim(NamedTuple):
    """What the provider says of a sealed chunk that it lost: a claim, until a tag has proved it.

    32 chunk id, 32 key id, u8 codec, u32 plain length, u64 counter, 16 tag.
    """

    chunk_id: bytes
    key_id: bytes
    codec: int
    plain_length: int
    counter: int
    tag: bytes


@dataclass(frozen=True, slots=True)
class GetLost(Message):
    """Which chunks of the session's domain have you lost? In a backup of zone source, where Started counts some."""

    KIND: ClassVar[int] = 60


@dataclass(frozen=True, slots=True)
class Lost(Message):
    """Answer to GetLost: claims, `limits.LOST_CLAIM` bytes each, at most `limits.MAX_LOST`."""

    KIND: ClassVar[int] = 61
    PAYLOAD: ClassVar[int] = limits.MAX_LOST * limits.LOST_CLAIM
    IN_PAYLOAD: ClassVar[str | None] = "claims"
    claims: Annotated[bytes, Sized(0, limits.MAX_LOST * limits.LOST_CLAIM, step=limits.LOST_CLAIM)]


def join_claims(claims: list[LostClaim]) -> bytes:
    """Return claims as they travel."""
    return b"".join(_CLAIM.pack(*claim) for claim in claims)


def split_claims(joined: bytes) -> Iterator[LostClaim]:
    """Yield the claims of a `Lost`."""
    return map(LostClaim._make, _CLAIM.iter_unpack(joined))

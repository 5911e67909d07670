"""What becomes of points, on the wire: the rows in the payloads of Chain and PointsRemoved, and the chain's digest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from protocol import limits
from transporter.config import RepositoryConfig
from transporter.repository import PROVIDER, Repository, Rules
from transporter.retention import Candidate, demanded

# 8 values a row, and as many rows as `ROWS_BOUNDS` has room for; the rest by another question.
ROWS_AT_ONCE = 16_384
_Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# Shown on terminals.
_Line = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]


class ChainRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A point as the target says that it has it. ``by``: who removed it (this tenant, or "" for the provider).

    ``recycled_until_ns``: 0 unless it is in the recycle bin. ``kept``: why the provider keeps it, "" if it does not.
    """

    point: _Id
    point_hash: _Hash
    committed_ns: _Time
    recycled_until_ns: _Time = 0
    by: _Line = ""
    locked_until_ns: _Time = 0
    pinned: _Line | None = None
    kept: _Line = ""

    @property
    def candidate(self) -> Candidate:
        """As retention sees it."""
        return Candidate(self.point, self.committed_ns, self.pinned, self.locked_until_ns)


class RemovedRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of a point that was to be removed (`repository.Outcome`)."""

    point: _Id
    until_ns: _Time
    refused: _Line


def chain_of(store: Repository, tenant: str, job: str) -> list[ChainRow]:
    """Return what a repository has of a job: points in the order of their commits, then those in the recycle bin.

    Nothing is proved but the names: reading every point through would take as long as a scrub.
    """
    refs = store.points(tenant, job)
    candidates = store.keeping.candidates(tenant, job, refs)
    kept = demanded(candidates, store.keeping.rules.minimum, store.keeping.clock.now_ns())
    rows = [
        ChainRow(
            ref.point_id,
            ref.hash,
            ref.committed_ns,
            locked_until_ns=each.locked_until_ns,
            pinned=each.pinned,
            kept=next(iter(kept.get(ref.point_id, ())), ""),
        )
        for ref, each in zip(refs, candidates, strict=True)
    ]
    for removed in store.keeping.recycled(tenant, job):
        ref = removed.ref
        rows.append(ChainRow(ref.point_id, ref.hash, ref.committed_ns, removed.until_ns, removed.by))
    return rows


def chain_digest(points: Iterable[tuple[bytes, bytes]], recycled: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return BLAKE3 over the ids and hashes of a job's points, in the order of the ids, then of its recycle bin.

    Between the two 48 zero bytes. 32 bytes.
    """
    hasher = blake3()
    for point, point_hash in sorted(points):
        hasher.update(point + point_hash)
    hasher.update(bytes(48))
    for point, point_hash in sorted(recycled):
        hasher.update(point + point_hash)
    return hasher.digest()


def rules_of(settings: RepositoryConfig) -> Rules:
    """Return what the configuration says of a repository's points."""
    return Rules(float(settings.immutable), float(settings.recycle), settings.minimum, float(settings.clock_jump))


def encode_rows(rows: list[ChainRow] | list[RemovedRow]) -> bytes:
    """Return rows as a payload."""
    return msgspec.msgpack.encode(rows)


def decode_chain(payload: bytes | memoryview) -> list[ChainRow]:
    """Parse the payload of Chain. Raises msgspec.DecodeError."""
    return _chain.decode(payload)


def decode_removed(payload: bytes | memoryview) -> list[RemovedRow]:
    """Parse the payload of PointsRemoved. Raises msgspec.DecodeError."""
    return _removed.decode(payload)


_chain: msgspec.msgpack.Decoder[list[ChainRow]] = msgspec.msgpack.Decoder(
    Annotated[list[ChainRow], Meta(max_length=ROWS_AT_ONCE)]
)
_removed: msgspec.msgpack.Decoder[list[RemovedRow]] = msgspec.msgpack.Decoder(
    Annotated[list[RemovedRow], Meta(max_length=limits.MAX_POINTS_AT_ONCE)]
)

__all__ = ["PROVIDER", "ChainRow", "RemovedRow", "chain_digest", "chain_of", "rules_of"]

"""What the target does to a chunk between the wire and its packs: nothing, or sealing, by trust zone.

Three implementations of one shape; which one a session gets is decided once, from this node's own configuration and
the zone that the initiator asked for. No stage asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.trust_zone import Stage, Zone, backup_target
from protocol.limits import MAX_PLAIN_LENGTH
from protocol.messages import FSI, METADATA, Chunk
from transporter.clock import Clock
from transporter.errors import RefusedByPeer
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.escrow import Escrow
from transporter.keys.password import UserKey
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.points.assemble import SLOT_ID_LENGTH, Place, PointFacts, assemble_plain, assemble_sealed
from transporter.points.run_keys import RunKeys
from transporter.repository import PLAIN_KEY, ChunkRecord, SlotChange

PLAIN_FORM = 0
SEALED_FORM = 1
_KEY_ID = slice(1, 33)
_SEALED_HEADER = 41
Have = Callable[[Sequence[bytes]], Sequence[tuple[bytes, ...]]]


class TargetSealing(Protocol):
    """How this end stores what it receives."""

    @property
    def key_ids(self) -> frozenset[bytes] | None:
        """The keys under which a needed chunk must lie for the point to be opened; None: this end cannot tell."""

    def to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        """Return the record of a chunk that came over the wire. Runs in a thread."""

    def choose(self, key_ids: Sequence[bytes]) -> bytes | None:
        """Of the forms in which a chunk is stored, return the key id of one that this job's point can use."""

    def assemble(self, place: Place, facts: PointFacts) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return (head, slots) of the point, where this end puts it together."""

    def trim(self, needs: Iterable[bytes], have: Have) -> None:
        """Let go of keys of old runs that the point does not need. ``needs`` comes in pieces of a few thousand ids."""

    def committed(self) -> SlotChange | None:
        """The point is visible. Return what its slots need, if the password was changed since it was put together."""


def _check(header: Chunk, stored: memoryview, wanted: int) -> None:
    if header.plain_length > MAX_PLAIN_LENGTH:
        raise RefusedByPeer("a chunk claims to be longer than any can be", "update the transporter")
    if len(stored) == 0 or stored[0] != wanted:
        raise RefusedByPeer("a chunk came in a form that its zone does not allow", "update the transporter")


class SealedAtSource:
    """Zone ``source``: sealed before it came; this end is blind."""

    key_ids = None

    def to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        """Store it as it is; the key id stands in the sealed chunk's header."""
        _check(header, stored, SEALED_FORM)
        if len(stored) < _SEALED_HEADER:
            raise RefusedByPeer("a sealed chunk is cut short", "update the transporter")
        return ChunkRecord(header.id, bytes(stored[_KEY_ID]), header.codec, header.plain_length, stored)

    def choose(self, key_ids: Sequence[bytes]) -> bytes | None:
        """Any: the source knows which keys it holds."""
        return key_ids[-1] if key_ids else None

    def assemble(self, place: Place, facts: PointFacts) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Never: the source puts the point together."""
        raise RefusedByPeer("a sealed job commits a sealed point", "update the transporter")

    def trim(self, needs: Iterable[bytes], have: Have) -> None:
        """There are no keys here."""

    def committed(self) -> None:
        """Nothing is remembered here, and no password has to do with it."""


@dataclass(frozen=True)
class _Made:
    """What a point was put together with."""

    place: Place
    storage_key: StorageKey = field(repr=False)
    user_key: UserKey = field(repr=False)
    slot_ids: tuple[bytes, ...]


@dataclass(frozen=True)
class SealedHere:
    """Zone ``target``, or ``none`` in a repository encrypted at rest."""

    keys: RunKeys = field(repr=False)
    # As it is when a point is put together: the password may have been changed since the session began.
    user_key: Callable[[], UserKey] = field(repr=False)
    clock: Clock
    escrow: Escrow
    forget: Callable[[], None] = field(repr=False)
    _made: list[_Made] = field(default_factory=list, repr=False)

    @property
    def key_ids(self) -> frozenset[bytes]:
        """Those of the point's ring: of this run, and of the older ones that came along."""
        return self.keys.key_ids

    def to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        """Seal the chunk with this run's key."""
        _check(header, stored, PLAIN_FORM)
        sealer = self.keys.sealer(metadata=bool(header.flags & METADATA), fsi=bool(header.flags & FSI))
        sealed = sealer.seal(header.id, header.codec, header.plain_length, stored[1:])
        return ChunkRecord(header.id, sealer.key_id, header.codec, header.plain_length, sealed)

    def choose(self, key_ids: Sequence[bytes]) -> bytes | None:
        """One whose key is at hand."""
        return next((key_id for key_id in key_ids if self.keys.opens(key_id)), None)

    def assemble(self, place: Place, facts: PointFacts) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Seal the point."""
        user_key = self.user_key()
        head, slots, storage_key = assemble_sealed(place, facts, self.keys, user_key, self.clock, self.escrow)
        self._made[:] = [_Made(place, storage_key, user_key, (slots[0][0],))]
        return head, slots

    def trim(self, needs: Iterable[bytes], have: Have) -> None:
        """Once there are many: ask the index under which keys the needed chunks lie."""
        if not self.keys.crowded:
            return
        used: set[bytes] = set()
        for part in needs:
            for key_ids in have([part[start : start + 32] for start in range(0, len(part), 32)]):
                used.update(key_ids)
        self.keys.keep_only(used)

    def committed(self) -> SlotChange | None:
        """The ring of the point holds the run's keys now.

        A change of the password that began before this look may have gone through the repository before the point was
        there; one that begins after it will find the point.
        """
        self.forget()
        (made,) = self._made
        now = self.user_key()
        if now.salt == made.user_key.salt:
            return None
        slot = make_password_slot(made.storage_key, now, now.salt, now.params, made.place.context, clock=self.clock)
        return SlotChange(made.place.point_id, self.clock.random_bytes(SLOT_ID_LENGTH), slot, made.slot_ids)


@dataclass(frozen=True)
class Unsealed:
    """Zone ``none`` in a plain repository."""

    chunk_id_key: ChunkIdKey = field(repr=False)

    @property
    def key_ids(self) -> frozenset[bytes]:
        """Plain chunks alone: nobody will have the key of a sealed one."""
        return frozenset({PLAIN_KEY})

    def to_record(self, header: Chunk, stored: memoryview) -> ChunkRecord:
        """Store it as it is."""
        _check(header, stored, PLAIN_FORM)
        return ChunkRecord(header.id, PLAIN_KEY, header.codec, header.plain_length, stored)

    def choose(self, key_ids: Sequence[bytes]) -> bytes | None:
        """Only a plain one: a sealed form of the chunk belongs to a time when the job was sealed."""
        return PLAIN_KEY if PLAIN_KEY in key_ids else None

    def assemble(self, place: Place, facts: PointFacts) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Put the point together; there is nothing to seal."""
        return assemble_plain(place, facts, self.chunk_id_key), []

    def trim(self, needs: Iterable[bytes], have: Have) -> None:
        """There are no keys here."""

    def committed(self) -> None:
        """Nothing is remembered here, and no password has to do with it."""


def seals_here(zone: Zone, *, encrypt_at_rest: bool) -> bool:
    """Tell whether this end seals, from the order of its stages."""
    return Stage.ENCRYPT in backup_target(zone, encrypt_at_rest=encrypt_at_rest)

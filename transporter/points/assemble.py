"""Put a restore point together at the trusted end, and open one again.

head  = PointHead (repository/point_head.py); its MAC is HMAC-SHA256 under the metakey over the head without it
slots = the storage key, wrapped once for each way to open it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import msgspec

from pipeline.trust_zone import Zone
from transporter.clock import Clock
from transporter.errors import KMS_ERRORS, DamagedData, KmsWrongKey, NoKey, RefusedByPeer, TransporterError
from transporter.keys.chunk_id import ChunkIdKey
from transporter.keys.derive import KEY_LENGTH
from transporter.keys.escrow import NO_ESCROW, Escrow
from transporter.keys.key_ring import KeyRing, open_ring, seal_ring
from transporter.keys.kms_slot import PreparedKmsSlot
from transporter.keys.password import PasswordHash, UserKey
from transporter.keys.session_key import ChunkOpener
from transporter.keys.slot import KmsSlot, SlotInfo
from transporter.keys.storage_key import MAX_SLOTS, StorageKey, make_password_slot, unlock
from transporter.keys.wrap import point_context
from transporter.points.run_keys import RunKeys
from transporter.repository.point_head import FSI_VERSION, HEAD_VERSION, PointHead, decode_head, encode_head

SLOT_ID_LENGTH = 16
_MAX_FACTS = 16 << 20


class PointFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What the end that read the workload knows of a point: no key, no name of a file.

    ``manifest``: (chunk id, plain length) in order; ``fsi``: likewise, the file-system index, empty without one;
    ``needs_hash``: BLAKE3 of the list of needed chunks.
    """

    kind: str
    created_ns: int
    workload: str
    manifest: list[tuple[bytes, int]]
    needs_hash: bytes
    statistics: dict[str, int]
    fsi: list[tuple[bytes, int]] = []


@dataclass(frozen=True)
class Place:
    """Where a point belongs; every wrapped key of it is bound to this."""

    tenant: str
    job: str
    repository_id: bytes
    point_id: bytes
    domain: bytes
    zone: str
    parent: bytes = b""
    parent_hash: bytes = b""

    @property
    def context(self) -> bytes:
        """The context of every cryptogram of the point."""
        return point_context(self.tenant, self.repository_id, self.point_id)


def encode_facts(facts: PointFacts) -> bytes:
    """Return the facts as they travel to the end that seals."""
    return msgspec.msgpack.encode(facts)


def decode_facts(data: bytes | memoryview) -> PointFacts:
    """Parse facts from the peer. Raises DamagedData."""
    if len(data) > _MAX_FACTS:
        raise DamagedData("the description of a restore point is too long", "update the transporter at both ends")
    try:
        return msgspec.msgpack.decode(data, type=PointFacts)
    except (msgspec.DecodeError, ValueError) as error:
        raise DamagedData("the description of a restore point is not valid", "update the transporter there") from error


def _head(place: Place, facts: PointFacts, cryptograms: list[bytes], *, encrypted: bool, plain_key: bytes) -> PointHead:
    return PointHead(
        version=FSI_VERSION if facts.fsi else HEAD_VERSION,
        point_id=place.point_id,
        tenant=place.tenant,
        job=place.job,
        kind=facts.kind,
        created_ns=facts.created_ns,
        parent=place.parent,
        parent_hash=place.parent_hash,
        zone=place.zone,
        encrypted=encrypted,
        domain=place.domain,
        cryptograms=cryptograms,
        manifest=facts.manifest,
        fsi=facts.fsi or msgspec.UNSET,
        needs_hash=facts.needs_hash,
        statistics=facts.statistics,
        workload=facts.workload,
        chunk_id_key=plain_key,
    )


def assemble_plain(place: Place, facts: PointFacts, chunk_id_key: ChunkIdKey) -> bytes:
    """Return the head of a point that nobody seals; its chunk-id key stands in it, so that ids can be checked."""
    return encode_head(_head(place, facts, [], encrypted=False, plain_key=chunk_id_key.secret))


def assemble_sealed(
    place: Place,
    facts: PointFacts,
    keys: RunKeys,
    user_key: UserKey,
    clock: Clock,
    escrow: Escrow = NO_ESCROW,
) -> tuple[bytes, list[tuple[bytes, bytes]], StorageKey]:
    """Return (head, [(slot id, slot)], storage key) of a sealed point.

    The password's slot comes first, then the keysets', then that of a key management service. Asks nobody.
    """
    storage_key = StorageKey.generate(clock)
    cryptograms = seal_ring(storage_key, keys.ring(), place.context, clock=clock)
    head = _head(place, facts, cryptograms, encrypted=True, plain_key=b"")
    head = msgspec.structs.replace(head, mac=keys.metakey.mac(encode_head(head)))
    return (
        encode_head(head),
        make_slots(storage_key, place.context, user_key, keys.kms_slot, clock, escrow),
        storage_key,
    )


def make_slots(
    storage_key: StorageKey,
    context: bytes,
    user_key: UserKey,
    kms_slot: PreparedKmsSlot | None,
    clock: Clock,
    escrow: Escrow,
) -> list[tuple[bytes, bytes]]:
    """Return [(slot id, slot)]: the password's first, then the keysets', then that of a key management service."""
    key = user_key.hash
    slots = [make_password_slot(storage_key, key, key.salt, key.parameters, context, clock=clock)]
    slots += escrow.slots(storage_key, context)
    if kms_slot is not None:
        slots.append(kms_slot.make_slot(storage_key, context, clock))
    return [(clock.random_bytes(SLOT_ID_LENGTH), slot) for slot in slots]


@dataclass(frozen=True)
class OpenedPoint:
    """A point whose keys are at hand. ``ring`` is None for a plain one.

    ``kept_because``: where no slot opened it, but the storage key that this home kept: what the slots failed with.
    """

    head: PointHead
    ring: KeyRing | None = field(repr=False)
    opener: ChunkOpener = field(repr=False)
    chunk_id_key: ChunkIdKey = field(repr=False)
    kept_because: TransporterError | None = None


OpenKmsSlot = Callable[[KmsSlot, str, bytes, bytes], StorageKey]
"""(slot, tenant, point id, context of the point) → storage key; asks the service."""


def no_services(slot: KmsSlot, _tenant: str, _point: bytes, _context: bytes) -> StorageKey:
    """Open no slot of a service. Raises KmsWrongKey."""
    raise KmsWrongKey(
        f"the restore point was wrapped by the key {slot.reference}, and nobody is asked for it here",
        "give the password it was made with",
    )


def find_in(
    keys_by_salt: Callable[[bytes], UserKey | None], typed: Callable[[SlotInfo], PasswordHash | None] | None = None
) -> Callable[[SlotInfo], PasswordHash | None]:
    """Return how to find the password hash of a slot: the key database first, then a typed password."""

    def find(info: SlotInfo) -> PasswordHash | None:
        try:
            kept = keys_by_salt(info.salt)
        except KMS_ERRORS:
            if typed is None:
                raise
            kept = None  # what was typed needs no service
        if kept is not None:
            return kept.hash
        return typed(info) if typed is not None else None

    return find


def _open_ring(
    slots: Sequence[bytes],
    cryptograms: list[bytes],
    where: bytes,
    find: Callable[[SlotInfo], PasswordHash | None],
    kept: Callable[[], StorageKey | None],
    by_kms: Callable[[KmsSlot], StorageKey],
) -> tuple[KeyRing, TransporterError | None]:
    """Open the ring by whichever slot fits it, looking for each password once; services are asked last.

    Then by the key that was kept; what the slots failed with is returned then.

    A commit that was killed between its slot and its point, and was repeated, left a slot of each attempt: all of them
    are sound and made with one password, but only the last one's storage key opens this ring.
    """
    find = cache(find)
    for service in (None, by_kms):
        for slot in slots if len(slots) <= MAX_SLOTS else ():
            with suppress(NoKey, DamagedData, *KMS_ERRORS):
                return open_ring(unlock([slot], where, find, by_kms=service)[0], cryptograms, where), None
    # None fits: what is wrong is told from all of them together.
    try:
        return open_ring(unlock(slots, where, find, by_kms=by_kms)[0], cryptograms, where), None
    except (NoKey, DamagedData, *KMS_ERRORS) as error:
        with suppress(NoKey, DamagedData, *KMS_ERRORS):
            key = kept()
            if key is not None:
                return open_ring(key, cryptograms, where), error
        raise


def open_point(
    head_bytes: bytes,
    slots: Sequence[bytes],
    place_of: Callable[[PointHead], Place],
    find: Callable[[SlotInfo], PasswordHash | None],
    kept: Callable[[bytes], StorageKey | None] = lambda _point: None,
    by_kms: OpenKmsSlot = no_services,
) -> OpenedPoint:
    """Open a point: slots (or, where none of them does it, the storage key that this home ``kept``), ring, MAC.

    ``by_kms`` opens a slot of a key management service, after passwords that are at hand. ``place_of`` says where this
    point must belong, from what the caller knows himself; a head that says otherwise is not the one that was asked for.
    Raises WrongPassword, NoKey, CorruptedPoint, DamagedData, `KMS_ERRORS`.
    """
    head = decode_head(head_bytes)
    place = place_of(head)
    if head.point_id != place.point_id or head.job != place.job or head.tenant != place.tenant:
        raise DamagedData(
            "this is not the restore point that was asked for", "the repository answers wrongly: run scrub there"
        )
    if head.zone != place.zone:
        raise RefusedByPeer(
            f"the restore point is of trust zone {head.zone!r}, not {place.zone!r}",
            "if the job was changed, say which zone you mean: --zone",
        )
    if not head.encrypted and place.zone != Zone.NONE:
        # Else whoever holds the repository could pass off plaintext of its own making.
        raise DamagedData(
            "the restore point is not sealed, but its zone says it is", "the repository was altered: run scrub"
        )
    if not head.encrypted:
        if len(head.chunk_id_key) != KEY_LENGTH:
            raise _no_chunk_id_key()
        key = ChunkIdKey(head.chunk_id_key)
        return OpenedPoint(head, None, ChunkOpener((), allow_plain=True), key)

    def service(slot: KmsSlot) -> StorageKey:
        return by_kms(slot, place.tenant, place.point_id, place.context)

    ring, kept_because = _open_ring(slots, head.cryptograms, place.context, find, lambda: kept(head.point_id), service)
    ring.metakey.check_mac(encode_head(msgspec.structs.replace(head, mac=b"")), head.mac)
    if ring.chunk_id_key is None:
        raise _no_chunk_id_key()
    return OpenedPoint(head, ring, ring.opener(), ring.chunk_id_key, kept_because)


def _no_chunk_id_key() -> DamagedData:
    return DamagedData("a restore point holds no chunk-id key", "restore another point")

"""Folding a restore point of a tenant: the new one is put together by whoever holds the keys, and stored here.

What this end sees to: the new point has the content of the old one to the last chunk, belongs to the same tenant, job,
domain and zone, and takes its place among the commits. Whether the keys in it are right, their holder alone can tell;
so it takes the right to remove.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pipeline.trust_zone import Zone
from protocol.control import Received
from protocol.transform_messages import FoldPoint, PointFolded
from transporter.catalog import Peer
from transporter.errors import RefusedByPeer
from transporter.keys.escrow import Escrow
from transporter.keys.node_key import NodeKey
from transporter.keys.password import UserKey
from transporter.keys.slot import check_slot
from transporter.keys.storage_key import StorageKey, make_password_slot
from transporter.link.control_link import ControlLink
from transporter.logs import get_logger
from transporter.points.assemble import SLOT_ID_LENGTH, Place
from transporter.points.fold import fold_plain, fold_sealed, folded_place, synthetic_head, synthetic_id
from transporter.points.ways import KeysAtHand
from transporter.repository import PointExists, PointMissing, Repository, SlotChange
from transporter.repository.point_head import PointHead, decode_head
from transporter.service.keeping import check_may_remove
from transporter.service.provider import OpenRepository, Provider

log = get_logger()


@dataclass(frozen=True)
class Folding:
    """One request, and where it is to be carried out."""

    provider: Provider
    repository: OpenRepository
    tenant: str
    message: FoldPoint
    payload: bytes

    @property
    def store(self) -> Repository:
        """The repository."""
        return self.repository.store


async def answer_transform(provider: Provider, link: ControlLink, peer: Peer, received: Received) -> bool:
    """Answer a question of this kind; False for any other."""
    message = received.message
    if not isinstance(message, FoldPoint):
        return False
    repository = provider.repository(peer, message.repository)
    check_may_remove(peer, message.repository)
    folding = Folding(provider, repository, peer.tenant, message, bytes(received.payload))
    # On the lane of what flushes disks: the chunks of others must not wait.
    async with provider.replacing_slots(peer.tenant):
        point_hash = await provider.slots.run(fold, folding)
    log.info("restore point folded", peer=peer.name, job=message.job, point=message.point.hex())
    await link.send(PointFolded(hash=point_hash))
    return True


def fold(folding: Folding) -> bytes:
    """Put the new point in the place of the old one, durably; return its hash. Done again, it finds what it did.

    Raises PointMissing, PointKept, RefusedByPeer, and what opening the point raises where this end holds its keys.
    """
    message, store = folding.message, folding.store
    try:
        old = decode_head(store.read_head(folding.tenant, message.job, message.replaces))
    except PointMissing:
        # Its answer was lost on the way.
        return store.point_hash(folding.tenant, message.job, message.point)
    if message.point != synthetic_id(message.replaces, store.point_hash(folding.tenant, message.job, message.replaces)):
        # Any other id may be that of a good point: it would be found there already, and the old one removed for it.
        raise RefusedByPeer("the folded restore point has not the id that follows from the old one", "update it there")
    if Zone(old.zone) is Zone.SOURCE:
        return _commit(folding, old, _checked_head(folding, old), folding.message.slots)
    if not old.encrypted:
        return _commit(folding, old, fold_plain(old, message.point), [])
    return _fold_sealed_here(folding, old)


def _checked_head(folding: Folding, old: PointHead) -> bytes:
    """Return the head that came; RefusedByPeer unless it says of the content what the old one does."""
    new = decode_head(folding.payload)
    bare = msgspec.structs.replace(new, cryptograms=[], mac=b"")
    if bare != synthetic_head(old, folding.message.point) or not folding.message.slots:
        raise RefusedByPeer(
            "the folded restore point has not the content of the one that it replaces", "update the transporter"
        )
    for slot in folding.message.slots:
        check_slot(slot)
    return folding.payload


def _fold_sealed_here(folding: Folding, old: PointHead) -> bytes:
    keys, message, store = folding.provider.keys, folding.message, folding.store
    password = message.password or folding.repository.config.encrypt_at_rest
    user_key = keys.user_key(password)
    place = Place(folding.tenant, message.job, store.repository_id, message.replaces, old.domain, old.zone)
    slots = list(store.slots_of(folding.tenant, message.job, message.replaces).values())
    head = store.read_head(folding.tenant, message.job, message.replaces)
    opened = KeysAtHand.of(keys).open(head, slots, lambda _head: place)
    kms_slot = keys.prepare_kms_slot(user_key, folding.tenant, message.point)
    escrow = Escrow(keys.active_keysets, NodeKey(folding.provider.identity.key))
    new = folded_place(place, message.point)
    made, new_slots, storage_key = fold_sealed(opened, new, user_key, folding.provider.clock, kms_slot, escrow)
    point_hash = _commit(folding, old, made, new_slots)
    _follow_change(folding, new, storage_key, user_key, keys.user_key(password), new_slots[0][0])
    return point_hash


def _commit(folding: Folding, old: PointHead, head: bytes, slots: list[bytes] | list[tuple[bytes, bytes]]) -> bytes:
    """Commit the new point with the old one's list of chunks; the old one is removed."""
    message, store, clock = folding.message, folding.store, folding.provider.clock
    named = [one if isinstance(one, tuple) else (clock.random_bytes(SLOT_ID_LENGTH), one) for one in slots]
    try:
        return store.commit_point(
            folding.tenant,
            message.job,
            message.point,
            head,
            store.read_needs(folding.tenant, message.job, message.replaces),
            domain=old.domain,
            slots=named,
            replaces=message.replaces,
        )
    except PointExists:
        # A crash came between the two; the old one has been removed now.
        return store.point_hash(folding.tenant, message.job, message.point)


def _follow_change(
    folding: Folding, place: Place, storage_key: StorageKey, made_with: UserKey, now: UserKey, slot_id: bytes
) -> None:
    """A change of the password that went through the repository before the point was there must reach it, too."""
    if now.salt == made_with.salt:
        return
    clock = folding.provider.clock
    slot = make_password_slot(storage_key, now, now.salt, now.params, place.context, clock=clock)
    change = SlotChange(place.point_id, clock.random_bytes(SLOT_ID_LENGTH), slot, (slot_id,))
    keep = float(folding.repository.config.keep_replaced_slots)
    folding.store.replace_slots(folding.tenant, folding.message.job, [change], keep)

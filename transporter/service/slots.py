"""Slots of points that are there already: which, and their replacement when a tenant's password changes.

The keys are the tenant's. What this end sees to: the points are that tenant's own and sealed at the source, what is
stored has the form of a slot, and no point loses its last one. Replaced slots are kept for a while.
"""

from __future__ import annotations

import msgspec

from pipeline.trust_zone import Zone
from protocol.control import Received
from protocol.limits import MAX_SLOTS, POINT_ID
from protocol.messages import GetSlots, PutSlots, Slots, SlotsPut
from transporter.catalog import Peer
from transporter.errors import DamagedData, RefusedByPeer, UsageError
from transporter.keys.slot import check_slot
from transporter.link.control_link import ControlLink
from transporter.logs import get_logger
from transporter.points.slot_rows import PointSlots, SlotChangeRow, decode_slot_changes, encode_rows, point_slots
from transporter.repository import PointMissing, Repository, SlotChange
from transporter.repository.point_head import decode_head
from transporter.service.provider import OpenRepository, Provider

log = get_logger()


async def answer_get_slots(provider: Provider, link: ControlLink, peer: Peer, message: GetSlots) -> None:
    """Send the slots of some points of one job of this tenant."""
    store = provider.repository(peer, message.repository).store
    rows = await provider.lookups.run(_slots_of, store, peer.tenant, message)
    await link.send(Slots(repository_id=store.repository_id, tenant=peer.tenant), encode_rows(rows))


def _slots_of(store: Repository, tenant: str, message: GetSlots) -> list[PointSlots]:
    rows = []
    for at in range(0, len(message.points), POINT_ID):
        point = message.points[at : at + POINT_ID]
        try:
            here = point_slots(store, tenant, message.job, point)
        except (PointMissing, DamagedData):
            continue
        # What this end sealed has no password of the tenant's, whose change could ask for another slot. (No secret:
        # whoever may copy a point gets its slots along.)
        if here.zone == Zone.SOURCE:
            rows.append(here.row)
    return rows


async def answer_put_slots(provider: Provider, link: ControlLink, peer: Peer, received: Received) -> None:
    """Replace slots of some points of one job of this tenant; all is durable before the answer."""
    message = received.message
    assert isinstance(message, PutSlots)
    repository = provider.repository(peer, message.repository)
    try:
        rows = decode_slot_changes(received.payload)
    except msgspec.DecodeError as error:
        raise RefusedByPeer("the list of slots is not valid", "update the transporter") from error
    # One at a time of each tenant, and on a lane of its own: each flushes a disk; the chunks of others must not wait.
    async with provider.replacing_slots(peer.tenant):
        await provider.lookups.run(_check, repository.store, peer.tenant, message.job, rows)
        until = await provider.slots.run(_replace, provider, repository, peer, message.job, rows)
    log.info("slots replaced", peer=peer.name, job=message.job, points=len(rows))
    await link.send(SlotsPut(kept_until_ns=until))


def _check(store: Repository, tenant: str, job: str, rows: list[SlotChangeRow]) -> None:
    if len({row.point for row in rows}) != len(rows):
        raise RefusedByPeer("a restore point is named twice", "update the transporter")
    for row in rows:
        head = decode_head(store.head_unproved(tenant, job, row.point))
        if head.zone != Zone.SOURCE or not head.encrypted:
            raise RefusedByPeer(
                "the slots of a point that is not sealed at the source are not the source's to replace",
                "change the password where it is kept",
            )
        if row.slot:
            check_slot(row.slot)


def _replace(provider: Provider, repository: OpenRepository, peer: Peer, job: str, rows: list[SlotChangeRow]) -> int:
    changes = [SlotChange(row.point, row.slot_id, row.slot, tuple(row.replaces)) for row in rows]
    keep = float(repository.config.keep_replaced_slots)
    try:
        done = repository.store.replace_slots(peer.tenant, job, changes, keep, MAX_SLOTS)
    except UsageError as error:
        raise RefusedByPeer(error.what, error.remedy) from error
    # The keys are the tenant's, and so is the entry that comes before the deed; this one is for the provider, and only
    # of what took effect: a tenant that repeats itself must not fill this home's disk.
    if done.points:
        facts = {"tenant": peer.tenant, "job": job, "repository": repository.name}
        provider.keys.record("slots.replace", **facts, points=done.points)
    return done.kept_until_ns

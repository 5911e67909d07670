"""Answers to questions about restore points: lists and heads. A tenant sees its own alone."""

from __future__ import annotations

import msgspec

from protocol.limits import MAX_SLOTS
from protocol.messages import GetPoint, ListPoints, PointHead, Points
from transporter.catalog import Peer
from transporter.link.control_link import ControlLink
from transporter.points.point_rows import point_rows
from transporter.repository import Repository
from transporter.service.provider import Provider

ROWS_PER_MESSAGE = 500


async def answer_list_points(provider: Provider, link: ControlLink, peer: Peer, message: ListPoints) -> None:
    """Send the points of this tenant, oldest first, in pages."""
    store = provider.repository(peer, message.repository).store
    refs = await provider.lookups.run(store.points, peer.tenant, message.job or None)
    for at in range(0, max(len(refs), 1), ROWS_PER_MESSAGE):
        rows = await provider.lookups.run(point_rows, store, refs[at : at + ROWS_PER_MESSAGE])
        more = at + ROWS_PER_MESSAGE < len(refs)
        await link.send(Points(more=more), msgspec.msgpack.encode(rows))


async def answer_get_point(provider: Provider, link: ControlLink, peer: Peer, message: GetPoint) -> None:
    """Send the head and the slots of one point."""
    store = provider.repository(peer, message.repository).store
    head, slots = await provider.lookups.run(load_point, store, peer.tenant, message.job, message.point)
    await link.send(PointHead(point=message.point, slots=slots), head)


def load_point(store: Repository, tenant: str, job: str, point: bytes) -> tuple[bytes, list[bytes]]:
    """Return the head and the slots of a point. Raises DamagedData."""
    return store.read_head(tenant, job, point), list(store.slots_of(tenant, job, point).values())[:MAX_SLOTS]

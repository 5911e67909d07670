"""Answers to questions about restore points: lists and heads. A tenant sees its own alone."""

from __future__ import annotations

import msgspec

from protocol.limits import MAX_SLOTS
from protocol.messages import GetPoint, ListPoints, PointHead, Points
from transporter.catalog import Peer
from transporter.errors import DamagedData
from transporter.link.control_link import ControlLink
from transporter.repository import PointRef, Repository
from transporter.repository.point_head import decode_head
from transporter.service.provider import Provider

ROWS_PER_MESSAGE = 500
DAMAGED = "damaged"


async def answer_list_points(provider: Provider, link: ControlLink, peer: Peer, message: ListPoints) -> None:
    """Send the points of this tenant, oldest first, in pages."""
    store = provider.repository(peer, message.repository).store
    refs = await provider.lookups.run(store.points, peer.tenant, message.job or None)
    for at in range(0, max(len(refs), 1), ROWS_PER_MESSAGE):
        rows = await provider.lookups.run(_rows, store, refs[at : at + ROWS_PER_MESSAGE])
        more = at + ROWS_PER_MESSAGE < len(refs)
        await link.send(Points(more=more), msgspec.msgpack.encode(rows))


def _rows(store: Repository, refs: list[PointRef]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for ref in refs:
        try:
            head = decode_head(store.read_head(ref.tenant, ref.job, ref.point_id))
        except DamagedData:
            # One damaged point must not hide the sound ones.
            rows.append({"point": ref.point_id, "job": ref.job, "kind": DAMAGED, "created_ns": ref.committed_ns})
            continue
        rows.append(
            {
                "point": ref.point_id,
                "job": ref.job,
                "kind": head.kind,
                "created_ns": head.created_ns,
                "zone": head.zone,
                "encrypted": head.encrypted,
                "parent": head.parent,
                "workload": head.workload,
                "bytes": head.statistics.get("bytes", 0),
                "files": head.statistics.get("files", 0),
                "skipped": head.statistics.get("skipped", 0),
            }
        )
    return rows


async def answer_get_point(provider: Provider, link: ControlLink, peer: Peer, message: GetPoint) -> None:
    """Send the head and the slots of one point."""
    store = provider.repository(peer, message.repository).store
    head, slots = await provider.lookups.run(load_point, store, peer.tenant, message.job, message.point)
    await link.send(PointHead(point=message.point, slots=slots), head)


def load_point(store: Repository, tenant: str, job: str, point: bytes) -> tuple[bytes, list[bytes]]:
    """Return the head and the slots of a point. Raises DamagedData."""
    return store.read_head(tenant, job, point), list(store.slots(point).values())[:MAX_SLOTS]

"""Commit on the target: packs, then slots, then the point; each step durable before the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.limits import MAX_SLOTS
from transporter.errors import MissingChunks, RefusedByPeer
from transporter.points.assemble import Place, decode_facts
from transporter.repository import ChunkMissing, PackWriter, PointExists
from transporter.repository.point_head import decode_head

if TYPE_CHECKING:
    from transporter.points.needed_chunks import NeededChunks
    from transporter.service.sealing import TargetSealing
    from transporter.service.session import ServiceSession


@dataclass(frozen=True)
class CommitRequest:
    """All that a commit needs. ``payload``: a sealed head, or facts for this end to put together."""

    session: ServiceSession
    sealing: TargetSealing
    payload: bytes = field(repr=False)
    needs: NeededChunks = field(repr=False)
    slots: list[tuple[bytes, bytes]] = field(repr=False)
    sealed: bool


def commit_in_thread(request: CommitRequest, writer: PackWriter) -> bytes:
    """Commit and return the point's hash. The same point again (its answer was lost on the way) is answered again."""
    session = request.session
    store = session.repository.store
    point_id = session.start.resume
    refs = store.points(session.tenant, session.start.job)
    for ref in refs:
        if ref.point_id == point_id:
            return ref.hash
    writer.seal()
    parent = session.parent
    head, slots = _head_and_slots(request, parent.point_id if parent else b"", parent.hash if parent else b"")
    # Each try that was killed before its end left its slots: a point must not have more of them than can be sent.
    left = store.slots_left(session.tenant, session.start.job, point_id)
    if len(left.keys() | {slot_id for slot_id, _ in slots}) > MAX_SLOTS:
        raise RefusedByPeer(f"a restore point has at most {MAX_SLOTS} slots", "run the job again")
    try:
        # Under a key of this point: what was kept of unchanged files was never asked about, and may lie here in a form
        # that nobody can open any more.
        point_hash = store.commit_point(
            session.tenant,
            session.start.job,
            point_id,
            head,
            request.needs.parts(),
            domain=session.domain,
            key_ids=request.sealing.key_ids,
            slots=slots,
        )
    except ChunkMissing as error:
        raise MissingChunks(
            "the restore point names chunks that the repository does not hold, or not under a key of the point",
            "the job reads everything again",
        ) from error
    except PointExists:
        return store.points(session.tenant, session.start.job)[-1].hash
    late = request.sealing.committed()
    if late is not None:
        keep = float(session.repository.config.keep_replaced_slots)
        store.replace_slots(session.tenant, session.start.job, [late], keep)
    return point_hash


def _head_and_slots(
    request: CommitRequest, parent: bytes, parent_hash: bytes
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    session = request.session
    start = session.start
    if request.sealed:
        head = decode_head(request.payload)
        mine = (session.tenant, start.job, start.resume, start.zone, session.domain)
        if (head.tenant, head.job, head.point_id, head.zone, head.domain) != mine or not request.slots:
            raise RefusedByPeer("the restore point does not belong to this session", "update the transporter")
        if head.parent != parent or head.needs_hash != request.needs.digest():
            raise RefusedByPeer("the restore point does not continue its chain", "run the job again")
        return request.payload, request.slots
    facts = decode_facts(request.payload)
    if facts.needs_hash != request.needs.digest():
        raise RefusedByPeer("the list of chunks is not the one that was announced", "run the job again")
    place = Place(
        tenant=session.tenant,
        job=start.job,
        repository_id=session.repository.store.repository_id,
        point_id=start.resume,
        domain=session.domain,
        zone=start.zone,
        parent=parent,
        parent_hash=parent_hash,
    )
    request.sealing.trim(request.needs.parts(), lambda ids: session.repository.store.have(session.domain, ids))
    return request.sealing.assemble(place, facts)

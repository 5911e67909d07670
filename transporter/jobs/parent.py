"""The point that a run builds on: its keys (zone source), and the manifest that this home kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from pipeline.trust_zone import Zone
from protocol.messages import GetPoint, PointHead, Started
from transporter.catalog import LastPoint
from transporter.config import JobConfig
from transporter.errors import CorruptedPoint, DamagedData, KmsKeyDisabled, KmsRefused, NoKey, RefusedByPeer
from transporter.events import Note
from transporter.jobs.context import JobContext
from transporter.jobs.opening import open_by
from transporter.keys.key_ring import KeyRing
from transporter.link.resilient import ResilientLink
from transporter.points.assemble import OpenedPoint, Place
from transporter.points.ways import KeysAtHand


@dataclass(frozen=True)
class Parent:
    """``point`` is empty for a first run; without ``known_here`` unchanged files must be read again."""

    point: bytes = b""
    point_hash: bytes = b""
    ring: KeyRing | None = field(default=None, repr=False)
    known_here: bool = False
    # Chunks of its manifest and FSI, where this node opened it and relies on it: they need not be asked for.
    manifest: frozenset[bytes] = frozenset()


def last_point_at(context: JobContext, name: str, job: JobConfig) -> LastPoint | None:
    """Return the point that this home committed last for the job, if that was where the job goes now."""
    last = context.catalog.last_point(name)
    return last if last is not None and last.destination == job.to else None


async def find_parent(
    context: JobContext, name: str, job: JobConfig, link: ResilientLink, started: Started, *, reread: bool = False
) -> Parent:
    """Find what this run may build on, from what the target names and what this home remembers.

    With ``reread`` no file counts as unchanged.

    Only the target's word decides which point is the newest; but keys come from it only after its MAC was checked.
    """
    if not started.parent:
        return Parent()
    last = last_point_at(context, name, job)
    ours = last is not None and last.point == started.parent
    if last is not None and not ours:
        context.bus.publish(
            Note(
                text="the target's newest point is not the one this node committed last; files are read again", job=name
            )
        )
    point_hash = last.point_hash if ours and last is not None else started.parent_hash
    known_here = ours and not reread
    if Zone(job.encrypt) is not Zone.SOURCE:
        return Parent(started.parent, point_hash, None, known_here)
    opened = await _open_parent(context, name, job, link, started)
    if opened is None:
        # Without its keys nothing of the parent can be used: a new beginning, in a domain of its own.
        return Parent(started.parent, point_hash)
    listed = (*opened.head.manifest, *(opened.head.fsi or ())) if known_here else ()
    manifest = frozenset(chunk_id for chunk_id, _length in listed)
    return Parent(started.parent, point_hash, opened.ring, known_here, manifest)


async def _open_parent(
    context: JobContext, name: str, job: JobConfig, link: ResilientLink, started: Started
) -> OpenedPoint | None:
    slots, head = await _head_of(name, job, link, started.parent)
    place = Place(
        tenant=started.tenant,
        job=name,
        repository_id=started.repository_id,
        point_id=started.parent,
        domain=started.domain,
        zone=job.encrypt,
    )
    try:
        # In a thread: a key management service may be asked.
        at_hand = KeysAtHand.of(context.keys)
        opened = await trio.to_thread.run_sync(open_by, context, at_hand, head, slots, lambda _head: place)
    except (KmsRefused, KmsKeyDisabled):
        raise  # the next attempt may well open it; a new beginning would send everything again
    except (NoKey, CorruptedPoint, DamagedData, RefusedByPeer) as error:
        # RefusedByPeer: a point of another zone, from before the job was changed.
        context.bus.publish(Note(text=f"the newest point cannot be built upon: {error.what}", job=name))
        return None
    return opened


async def _head_of(name: str, job: JobConfig, link: ResilientLink, point: bytes) -> tuple[list[bytes], bytes]:
    """Return the slots and the head of a point; the session's beginning may have brought them."""
    brought = await link.parent_head(point)
    if brought is not None:
        return brought
    answer, head = await link.request(GetPoint(repository=job.repository, job=name, point=point), b"", PointHead)
    return answer.slots, bytes(head)
